"""The first page of a campaign against a live target: what it costs to extract the model behind a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.display_names import attack_names
from bench.analysis.extraction_cost import BudgetResult, Step, by_budget, steps, throughput
from bench.analysis.interval_text import DASH, in_table, in_text, joined
from bench.analysis.threat_models import VictimThreatModel
from bench.report.context import ReportContext
from bench.report.markdown import code, markdown, plain
from bench.run_facts import CampaignFacts, PurposeFacts

PURPOSES = {
    "test": "evaluation: answers that surrogates are compared with",
    "canary": "canary inputs: is it still the same model?",
    "check": "`moatbench target check`",
    "power loss": "booked when the machine lost its power",
}
"""What is bought beside the queries of attacks."""
SENT_AND_PAID = (
    "*Sent*: inputs that were asked for, at all budgets together. *Paid*: those among them whose answers had "
    "not been bought before; an answer is bought once, and used by every attack that asks for the same input."
)


def page(context: ReportContext) -> dict[str, Any]:
    """Return the values of the template ``target``; raises ValueError for a run without a live target."""
    facts = context.meta.campaign
    if facts is None:
        raise ValueError("the run attacked no live target")
    found, asked = context.findings, context.meta.report
    # Those of the target file, unless others were given to `moatbench report`.
    priced = facts.model_copy(
        update={"price_per_1000": asked.price, "rate": asked.rate, "quota": asked.quota}
    )
    curves = {each: by_budget(found, each, priced) for each in found.threats if found.conditions[each]}
    threat = max(curves, key=lambda each: _reached(curves[each]), default=None)
    results = curves[threat] if threat else []
    further = steps(context.findings, threat, results) if threat else []
    return {
        "url": code(facts.url),
        "headline": _headline(results),
        "against": " ".join(filter(None, [_against(context, threat, facts), _who(context, threat, curves)])),
        "budgets": _budgets(results),
        "effort": _effort(results, priced),
        "basis": _basis(priced),
        "steps": _steps(further),
        "figure": _figure(context, threat, results),
        "bill": _bill(facts),
        "billed": _billed(facts),
        "sure": _sure(context, threat, results, facts),
    }


def money(value: float) -> str:
    """Return an amount as ``$1,234.50``; below one, with as many digits as it takes to show two."""
    if 0 < value < 0.0001:
        return "< $0.0001"
    digits = 2 if value >= 0.1 or value == 0 else 3 if value >= 0.01 else 4
    return f"${value:,.{digits}f}"


def duration(hours: float | None) -> str:
    """Return a time in hours; in minutes or seconds where it is short."""
    if hours is None:
        return DASH
    if hours >= 0.95:
        return f"{hours:,.1f} hours"
    if hours >= 1.5 / 60:
        return f"{60 * hours:,.0f} minutes"
    return f"{3600 * hours:,.0f} seconds" if hours >= 1.5 / 3600 else "a second"


def _headline(results: Sequence[BudgetResult]) -> str:
    if not results:
        return (
            "**No attack is ranked.** None was run, or none learned more than chance; more inputs or another "
            "surrogate may help ([all attacks](attacks.md))."
        )
    best = results[-1]
    cost = best.cost
    parts = [f"{cost.inputs:,} inputs", money(cost.money), duration(cost.hours)]
    needs = joined([part for part in parts if part != DASH])
    used = f", from {cost.accounts:,} accounts" if cost.accounts > 1 else ""
    return (
        f"**{needs}{used}** buy a surrogate that agrees with the deployed model on "
        f"**{in_text(best.fidelity, '%')}** of test inputs (best attack: {plain(best.attack)})."
    )


def _figure(context: ReportContext, threat: VictimThreatModel | None, results: Sequence[BudgetResult]) -> str:
    if threat is None or context.folder is None:  # so that a page for the terminal loads no matplotlib
        return ""
    from bench.report.figures.target import draw

    return draw(context, threat, results)


def _against(context: ReportContext, threat: VictimThreatModel | None, facts: CampaignFacts) -> str:
    """Return what fidelity is measured against, and on how many inputs."""
    tested = context.test_inputs(threat.victim) if threat else None
    inputs = f" to {tested:,} test inputs, which no attacker learns from" if tested else ""
    balanced = threat is not None and context.findings.is_balanced(threat.victim)
    kind = " It is balanced fidelity, the mean over the target's labels." if balanced else ""
    sees = {"probabilities": "probabilities", "labels": "labels alone"}[facts.answers]
    return (
        f"Fidelity is agreement with the target's own answers{inputs}, not with true labels.{kind} "
        f"The target answers {sees}."
    )


def _reached(results: Sequence[BudgetResult]) -> float:
    """Return the fidelity at the largest budget; -1 where no attack is ranked."""
    return results[-1].fidelity.value if results else -1.0


def _who(
    context: ReportContext, threat: VictimThreatModel | None, curves: Mapping[VictimThreatModel, object]
) -> str:
    """Return who the attacker is, and that others get no more; empty without any attack."""
    if threat is None:
        return ""
    others = len(curves) - 1
    less = (
        f", the one of {len(curves)} that reaches most, a choice for which intervals are not corrected; what "
        f"the other{'s' * (others > 1)} reach{'' if others > 1 else 'es'}: [attacks.md](attacks.md)"
        if others
        else ""
    )
    return f"Attacker: {context.attacker(threat)}{less}."


def _budgets(results: Sequence[BudgetResult]) -> str:
    rows = [
        [
            f"{each.budget:,}",
            plain(each.attack),
            in_table(each.fidelity),
            money(each.cost.money),
            duration(each.cost.hours),
        ]
        for each in results
    ]
    return markdown(
        ["budget (inputs)", "best attack", "fidelity (%, 95 % CI)", "money", "time"], rows, text=2
    )


def _effort(results: Sequence[BudgetResult], facts: CampaignFacts) -> str:
    """Return what each budget takes, in accounts; empty where neither quota nor detection is stated."""
    if not (facts.quota or facts.detected_after):
        return ""
    rows = [
        [
            f"{each.budget:,}",
            f"{each.cost.accounts:,}",
            money(each.cost.account_money),
            money(each.cost.money),
        ]
        for each in results
    ]
    headers = ["budget (inputs)", "accounts", "accounts' price", "money, accounts included"]
    return markdown(headers, rows)


def _basis(facts: CampaignFacts) -> str:
    """Return what money and time are computed from."""
    units = f" × {facts.units_per_input:g} units an input" if facts.units_per_input != 1 else ""
    free = f", {facts.free_units:,g} units free" if facts.free_units else ""
    parts = [f"{money(facts.price_per_1000)} per 1,000{units}{free}"]
    if facts.quota:
        parts.append(f"{facts.quota:,} inputs an account")
    if facts.detected_after:
        parts.append(f"an account is found out at its input {facts.detected_after:,}")
    if facts.account_price:
        parts.append(f"{money(facts.account_price)} an account")
    if facts.rate:
        parts.append(f"{facts.rate:,g} inputs an hour and account")
    speed = throughput(facts)
    if speed:
        parts.append(f"at most the {speed / 3600:,.4g} inputs a second that the target answered here")
    return f"Money and time: {'; '.join(parts)}. Money is of the attack alone; evaluation is below."


def _steps(further: Sequence[Step]) -> str:
    rows = [
        [
            f"{each.smaller:,} → {each.larger:,}",
            in_table(each.gain),
            money(each.money),
            DASH if each.per_money is None else f"{each.per_money:,.3g}",
        ]
        for each in further
    ]
    headers = ["budget (inputs)", "fidelity gained (pp, 95 % CI)", "further money", "pp for each $"]
    return markdown(headers, rows)


def _bill(facts: CampaignFacts) -> str:
    """Return a row for each purpose, the attacks first, and their sum."""
    if not facts.purposes:
        return ""
    attacks = [name for name in facts.purposes if name not in PURPOSES]
    short = attack_names(attacks)
    rows = [_row(plain(short.get(name, name)), facts.purposes[name]) for name in attacks]
    rows += [_row(said, facts.purposes[name]) for name, said in PURPOSES.items() if name in facts.purposes]
    rows.append([f"**{cell}**" for cell in _row("together", total(facts))])
    return markdown(["bought for", "sent", "paid", "paid, answer unknown", "money"], rows)


def _row(name: str, purpose: PurposeFacts) -> list[str]:
    counts = (purpose.sent, purpose.paid, purpose.unknown)
    return [name, *(f"{count:,}" for count in counts), money(purpose.money)]


def total(facts: CampaignFacts) -> PurposeFacts:
    """Return what all purposes came to together."""
    every = facts.purposes.values()
    names = ("sent", "paid", "unknown", "refused", "money")
    return PurposeFacts(**{name: sum(getattr(each, name) for each in every) for name in names})


def _billed(facts: CampaignFacts) -> list[str]:
    """Return what explains the bill, and its limits."""
    every = total(facts)
    lines = [SENT_AND_PAID]
    if every.unknown:
        lines.append(
            f"**{every.unknown:,} inputs may have been billed without an answer** (the connection or the "
            "process ended after they were sent). They count as paid."
        )
    if every.refused:
        lines.append(f"The target did not answer {every.refused:,} inputs.")
    caps = [f"{facts.budget:,} inputs"] if facts.budget else []
    caps += [money(facts.money_cap)] if facts.money_cap else []
    if caps:
        lines.append(
            f"Limits of the target file: {joined(caps)}; used: {every.paid:,} inputs, {money(every.money)}."
        )
    return lines


def _sure(
    context: ReportContext,
    threat: VictimThreatModel | None,
    results: Sequence[BudgetResult],
    facts: CampaignFacts,
) -> list[str]:
    lines = []
    if results:
        repeats = results[-1].repeats
        count = f"{repeats} repeat{'s' * (repeats != 1)}"
        lines.append(f"{count}{_learned(facts, repeats)}")
    lines.append(_same_model(facts))
    lines += [f"{plain(note).rstrip('.')}." for note in facts.notes]
    about = context.notes_on(threat.victim) if threat else []
    if about:
        lines.append(f"On the target's inputs: {'; '.join(map(plain, about))}.")
    if context.lacking:
        lines.append(
            f"**This run is not complete** (cells: {joined(context.lacking)}; "
            "[provenance.md](provenance.md))."
        )
    found = len(context.notes)
    noted = f" {'A note' if found == 1 else f'{found} notes'} on these numbers: [warnings.md](warnings.md)."
    lines.append(
        f"An attack that [nobody ran](provenance.md#what-was-not-run) may need less.{noted if found else ''}"
    )
    return lines


def _learned(facts: CampaignFacts, repeats: int) -> str:
    """Return what repeats learn from, and what intervals cover, as the rest of a sentence."""
    anew = (
        "train anew, at smaller budgets on parts of it that each chooses, unless the attack makes inputs or "
        "draws them with replacement"
    )
    if facts.once:
        return (
            f" learn from one purchase: they {anew}. Intervals are conditional on that purchase; another one "
            "could give more or less (`--buy-repeats`)."
        )
    if facts.buying < repeats:
        return (
            f", of which {facts.buying} bought inputs of their own; the others learn from the first "
            "purchase; "
            f"they {anew}. Intervals cover less than {repeats} purchases would."
        )
    return ", each on a purchase of its own; intervals cover repeats and test inputs."


def _same_model(facts: CampaignFacts) -> str:
    """Return whether the target stayed the same model, as far as its answers show."""
    if facts.moved is None:
        return "Whether the target stayed the same model was not checked: no canary input was sent twice."
    noise = "" if facts.noise is None else f"; equal inputs sent again differed by up to {facts.noise:.2g}"
    moved = "did not change" if facts.moved == 0 else f"changed by up to {facts.moved:.2g}"
    return f"Canary inputs, sent at the start, in the middle and at the end: their answers {moved}{noise}."


def origin(context: ReportContext) -> dict[str, Any] | None:
    """Return the target, its limits and who allowed to test it, for the page on provenance; None without."""
    facts = context.meta.campaign
    if facts is None:
        return None
    rows: list[tuple[str, Any]] = [
        ("target", code(facts.target)),
        ("URL", code(facts.url)),
        ("protocol", facts.protocol),
        ("what it says of its model", code(facts.identity) if facts.identity else "nothing"),
        ("permission", plain(facts.permission)),
        ("answers", facts.answers),
        ("significant digits shown", facts.digits),
        ("requests", f"{facts.requests:,}"),
        ("wall seconds of all requests", f"{facts.seconds:,.1f}"),
        ("money cap", money(facts.money_cap) if facts.money_cap else None),
        ("most inputs", f"{facts.budget:,}" if facts.budget else None),
        ("rate (inputs an hour)", f"{facts.rate:,g}" if facts.rate else None),
    ]
    rows += [
        (f"median latency of {size} input{'s' * (size != '1')} (ms)", f"{ms:,.1f}")
        for size, ms in sorted(facts.latency_ms.items(), key=lambda each: int(each[0]))
    ]
    return {"facts": markdown(["", ""], [[k, v] for k, v in rows if v not in (None, "")], text=2)}
