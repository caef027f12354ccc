"""What a run answers, in words: the recommendation, what it costs, what an attacker pays, how sure it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from bench.analysis.interval_text import in_clause, joined, number
from bench.analysis.verdicts import (
    Conclusion,
    Criterion,
    CriterionName,
    DefenseVerdict,
    Recommendation,
    Reduction,
)
from bench.metrics.query_multiplier import Multiplier
from bench.report.markdown import code
from bench.run_facts import ReportOptions

SOLD = {
    "probabilities": "probabilities",
    "ranking": "a confidence that users rank by",
    "labels": "labels",
}
"""What users pay for, in words."""
WHERE = {
    "labels": "labels are enough for your users",
    "ranking": "your users only rank by confidence",
    "probabilities": "your users need probabilities",
}
LOST: dict[CriterionName, str] = {
    "accuracy": "users lose {} pp of accuracy",
    "balanced accuracy": "users lose {} pp of balanced accuracy",
    "rejected": "{} % of benign queries are rejected",
    "ranking": "the ranking by confidence gets worse by {}",
    "brier": "the Brier score gets worse by {}",
    "changed": "{} % of users' threshold decisions change",
    "confidence": "answers have no confidence",
    "adaptive": "the best adaptive attack is {} pp behind the best other one",
    "valid": "numbers cannot be used",
}
"""What is lost by each criterion; ``{}`` stands for the number."""
CALLED: dict[CriterionName, str] = {
    "ranking": "the ranking by confidence",
    "brier": "the Brier score",
    "changed": "threshold decisions",
}
"""How sentences name a criterion, where not by its own name."""
SHARES = frozenset({"accuracy", "balanced accuracy", "rejected", "changed", "adaptive"})
"""Criteria whose loss is a fraction and shown times 100."""
MOST_INPUTS = 100_000
"""Labelled test inputs that nobody is asked for, though more would decide."""
VERDICTS: dict[Conclusion, str] = {
    "undefended": "",
    "recommended": "**recommended**",
    "tied": "as good as the recommended one",
    "confirmed": "confirmed, lowers less",
    "not confirmed": "eligible, reduction not confirmed",
    "candidate": "candidate, not confirmed",
    "eligible": "eligible",
    "not shown": "not shown to be affordable",
    "no adaptive attacker": "not evaluated against an adaptive attacker",
    "not usable": "not usable",
    "invalid": "numbers cannot be used",
}


def sides(reduction: Reduction) -> tuple[str, str, str]:
    """Return fidelity without and with the defense in %, and the reduction in pp, one digit each.

    They add up as printed: fidelity with the defense is the other two's difference.
    """
    before, less = round(100 * reduction.undefended, 1), round(100 * reduction.interval.value, 1)
    return number(before, 1), number(before - less, 1), number(less, 1)


def reduction_text(reduction: Reduction) -> str:
    """Return ``2.8 pp, 95 % CI 1.7 to 3.9; 20 fresh repeats``."""
    fresh = "fresh " if reduction.fresh else ""
    repeats = f"{reduction.repeats} {fresh}repeat{'s' * (reduction.repeats != 1)}"
    return f"{in_clause(reduction.interval)}; {repeats}"


def verdict_text(row: DefenseVerdict, options: ReportOptions) -> str:
    """Return the verdict on a defense in words, with the figure that decides against it."""
    text = VERDICTS[row.conclusion]
    if row.conclusion == "confirmed" and row.reduction and row.reduction.interval.value < options.least:
        return f"confirmed, less than {100 * options.least:g} pp"
    if row.conclusion == "not shown":
        undecided = [each for each in row.failed if each.verdict == "not shown"]
        return f"{text}: {_not_shown(undecided)}" if undecided else text
    if row.conclusion == "no adaptive attacker":
        return next((criterion_text(each) for each in row.failed if each.name == "adaptive"), text)
    if row.conclusion in ("not usable", "invalid"):
        narrower = [sold for sold in ("ranking", "labels") if sold in row.eligible_for]
        if row.conclusion == "not usable" and narrower and options.sells not in row.eligible_for:
            return "only where labels suffice" if narrower == ["labels"] else "only to rank or label by"
        failed = worst(row.failed)
        reason = criterion_text(failed) if failed else ""
        return f"{text}: {reason}" if reason and reason != text else text
    return text


def worst(failed: Sequence[Criterion]) -> Criterion | None:
    """Return the criterion that a defense exceeds most, relative to the limit; the first without numbers."""
    by_loss = [each for each in failed if each.verdict == "too dear"] or list(failed)
    return max(by_loss, key=_excess, default=None)


def _excess(criterion: Criterion) -> float:
    if criterion.loss is None or not criterion.limit:
        return 0.0
    return criterion.loss.value / criterion.limit


def criterion_text(criterion: Criterion) -> str:
    """Return what a criterion says was lost, with its figure; its detail where there is no figure."""
    if criterion.loss is None or math.isnan(criterion.loss.value):
        return criterion.detail or LOST[criterion.name].replace("{}", "an unknown number of")
    return LOST[criterion.name].format(loss_number(criterion))


def loss_number(criterion: Criterion) -> str:
    """Return a criterion's loss as it is shown."""
    value = criterion.loss.value if criterion.loss else math.nan
    return number(100 * value, 1) if criterion.name in SHARES else number(value, 3)


def _not_shown(undecided: Sequence[Criterion]) -> str:
    """Return how many test inputs would decide all criteria, in two digits; else why one is not decided."""
    needed = [criterion.needed for criterion in undecided if criterion.needed]
    if len(needed) == len(undecided) and max(needed) > MOST_INPUTS:
        return f"too near the limit for {MOST_INPUTS:,} labelled test inputs to tell"
    if len(needed) == len(undecided):
        unit = 10 ** max(0, len(str(max(needed))) - 2)
        return f"about {math.ceil(max(needed) / unit) * unit:,} labelled test inputs would tell"
    first = next(criterion for criterion in undecided if not criterion.needed)
    return first.detail or f"{CALLED.get(first.name, first.name)} was not measured"


def cost_clause(row: DefenseVerdict) -> str:
    """Return what benign users lose: ``no accuracy and 0.4 % of their threshold decisions``."""
    losses = []
    accuracy = row.criterion("accuracy")
    if accuracy and accuracy.loss:
        shown = loss_number(accuracy)
        losses.append("no accuracy" if float(shown) <= 0 else f"{shown} pp of accuracy")
    others: dict[CriterionName, str] = {
        "rejected": "{} % of their queries",
        "changed": "{} % of their threshold decisions",
        "brier": "{} of Brier score",
    }
    for name, text in others.items():
        found = row.criterion(name)
        if found and found.loss and float(loss_number(found)) > 0:
            losses.append(text.format(loss_number(found)))
    return joined(losses)


def _and_costs(row: DefenseVerdict) -> str:
    cost = cost_clause(row)
    return f" and costs users {cost}" if cost else ""


def effort(queries: int, options: ReportOptions, *, money_alone: bool = False) -> str:
    """Return what so many queries cost: ``200 queries, $0.30, 2.0 hours, 4 accounts``."""
    money = f"${queries * options.price / 1000:,.2f}"
    if money_alone:
        return money
    parts = [f"{queries:,} queries", money]
    if options.rate:
        hours = queries / options.rate
        parts.append(f"{hours:,.1f} hours" if hours >= 0.1 else "minutes")
    if options.quota:
        accounts = math.ceil(queries / options.quota)
        parts.append(f"{accounts:,} account{'s' * (accounts != 1)}")
    return ", ".join(parts)


def multiplier_text(
    multiplier: Multiplier | None, reference: int, budgets: Sequence[int], options: ReportOptions
) -> str:
    """Return how many queries make up for a defense, or how far the budgets that were run reach."""
    largest = max(budgets, default=reference)
    reach = f"the largest budget of this run, {largest:,} queries"
    if multiplier is None:
        return ""
    if multiplier.above and largest <= reference:
        return "No larger budget was run, so how many more queries make up for it is not known."
    if multiplier.above:
        return f"What {reference:,} queries give without it is not reached within {reach}."
    if multiplier.below or multiplier.low <= 0 or not math.isfinite(multiplier.high):
        return f"Budgets up to {largest:,} do not show how many more queries make up for it."
    needed = round(multiplier.value * reference)
    return (
        f"It takes {multiplier.value:.1f} times the queries (95 % CI {multiplier.low:.1f} to "
        f"{multiplier.high:.1f}), {effort(needed, options)}, to get what {reference:,} give without it."
    )


def headline(rec: Recommendation, name: str) -> str:
    """Return the recommendation, or why there is none, in a sentence or two.

    ``name``: of the defense that it is about, as shown; unused where nothing is recommended.
    """
    best = rec.recommended
    if best and best.reduction:
        before, after, _ = sides(best.reduction)
        return (
            f"**Recommendation: {code(name)}.** It lowers {_fidelity_of_best(rec, best)} from {before} % to "
            f"{after} % ({reduction_text(best.reduction)}){_and_costs(best)}."
        )
    selected = candidate(rec)
    if selected and selected.reduction:
        before, after, _ = sides(selected.reduction)
        return (
            f"**Candidate, not confirmed: {code(name)}.** It seems to lower "
            f"{_fidelity_of_best(rec, selected)} from {before} % to {after} % "
            f"({reduction_text(selected.reduction)}){_and_costs(selected)}. "
            "The best of several looks better than it is, so nothing is recommended until fresh repeats "
            "confirm it (`confirm`)."
        )
    if rec.undefended is None:
        return "**Nothing is recommended.** No attack is ranked without a defense, so nothing is compared."
    if rec.confirmed:
        found = weaker = ""
        other = "No"
        if (small := confirmed(rec)) and small.reduction:
            interval = small.reduction.interval
            weaker = (
                f"{code(name)} lowers what the best attack{'' if met_best(rec, small) else ' that it met'} "
                f"gets by {100 * interval.value:.2f} pp (95 % CI "
                f"{100 * interval.low:.2f} to {100 * interval.high:.2f}), less than the "
                f"{100 * rec.options.least:g} pp that are asked for (`least`). "
            )
            other = "No other"
        if rec.smallest is not None:
            found = f" (a reduction of {100 * rec.smallest:.1f} pp would have been found in 90 %)"
        return (
            f"**Nothing is recommended.** {weaker}{other} defense that your users can afford lowers what the "
            f"best attack gets, as far as {rec.fresh_repeats} fresh repeats can tell{found}."
        )
    return f"**Nothing is recommended.** {nothing_eligible(rec)}"


def met_best(rec: Recommendation, row: DefenseVerdict) -> bool:
    """Return whether the best attack without a defense was run against this one, as far as both are known."""
    return row.reduction is None or row.reduction.undefended_attack == rec.undefended_attack


def _fidelity_of_best(rec: Recommendation, row: DefenseVerdict) -> str:
    return (
        "the best attack's fidelity" if met_best(rec, row) else "the fidelity of the best attack that it met"
    )


def leading(rec: Recommendation) -> DefenseVerdict | None:
    """Return the defense that the headline is about; None where it is about none."""
    return rec.recommended or candidate(rec) or confirmed(rec)


def confirmed(rec: Recommendation) -> DefenseVerdict | None:
    """Return the first defense that is confirmed to lower fidelity, and is not recommended."""
    return next((row for row in rec.rows if row.conclusion == "confirmed"), None)


def candidate(rec: Recommendation) -> DefenseVerdict | None:
    """Return the first defense that is selected and not confirmed; None without any."""
    return next((row for row in rec.rows if row.conclusion == "candidate"), None)


REASONS: dict[Conclusion, str] = {
    "not usable": "cost{s} users too much",
    "no adaptive attacker": "met no adaptive attacker that is as good as the others",
    "not shown": "{is} not shown to be affordable",
    "invalid": "{has} numbers that cannot be used",
    "eligible": "{is} eligible but not seen to lower fidelity by enough",
}


def nothing_eligible(rec: Recommendation) -> str:
    """Return why no defense is even a candidate, by how many there are for each reason."""
    rows = [row for row in rec.rows if row.defense]
    bare = sum(_answers_labels_alone(row) for row in rows)
    counts: Counter[Conclusion] = Counter(row.conclusion for row in rows if not _answers_labels_alone(row))
    if not rows:
        return "This run has no defense under this attacker."
    parts = []
    for conclusion, text in REASONS.items():
        if count := counts[conclusion]:
            one = count == 1
            words = {"s": "s" * one, "is": "is" if one else "are", "has": "has" if one else "have"}
            parts.append(f"{count} {text.format(**words)}")
    if bare:
        parts.append(f"{bare} answer{'s' * (bare == 1)} labels alone")
    total = len(rows)
    return f"Of {total} defense{'s' * (total != 1)} in this run, {joined(parts)}."


def _answers_labels_alone(row: DefenseVerdict) -> bool:
    """Return whether all that decides against a defense is that its answers have no confidence."""
    return row.conclusion == "not usable" and all(
        each.name in ("confidence", "adaptive") for each in row.failed
    )
