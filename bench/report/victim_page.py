"""The first page of a report: what to do about each victim, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.eligibility import NOT_MEASURED
from bench.analysis.group_losses import unequal
from bench.analysis.interval_text import DASH, in_table, in_text, joined, number
from bench.analysis.row_flags import MARK
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel
from bench.analysis.verdicts import DefenseVerdict, Recommendation, VictimRecommendations
from bench.report import answers
from bench.report.context import ReportContext
from bench.report.markdown import code, markdown, plain
from bench.report.sections import group_sentence, unranked

MOST_ROWS = 8
"""Rows of the table, that of no defense included."""
INPUTS = {
    "in-distribution": "inputs like your users'",
    "near": "inputs similar to your users' ({})",
    "far": "inputs unlike your users' ({})",
    "none": "made-up inputs ({})",
}


def files(victims: Sequence[str]) -> dict[str, str]:
    """Return the names of the victims' pages: no two alike, and none that of another page."""
    named: dict[str, str] = {}
    for victim in victims:
        name = slug(victim)
        # The names of all other pages are single words.
        name = name if "-" in name else f"victim-{name}"
        alike = sum(other.startswith(f"{name}.") for other in named.values())
        named[victim] = f"{name}.{alike + 1}.md" if alike else f"{name}.md"
    return named


def slug(text: str) -> str:
    """Return a name for files: lower-case letters and digits, joined by ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _figures(
    context: ReportContext, found: VictimRecommendations, rows: Sequence[DefenseVerdict], prefix: str
) -> list[str]:
    if context.folder is None:  # so that a page for the terminal loads no matplotlib
        return []
    from bench.report.figures.victim import draw

    return draw(context, found, rows, prefix)


def page(context: ReportContext, found: VictimRecommendations, prefix: str = "") -> dict[str, Any]:
    """Return the values of the template ``victim``: the page of one victim.

    ``prefix``: of the names of its figures.
    """
    rec = found.strongest
    rows = table_rows(rec)
    return {
        "victim": plain(found.victim),
        "sold": answers.SOLD[rec.options.sells],
        "headline": answers.headline(rec, _leading_name(context, rec)),
        "lines": [
            line
            for line in (
                _not_stopped(context, rec),
                *_elsewhere(context, found),
                *_unequal(context, found.victim, rec),
            )
            if line
        ],
        "table": _table(context, rec, rows),
        "compared": " ".join(filter(None, [_compared(context, rec, rows), _balanced(context, found.victim)])),
        "figures": _figures(context, found, rows, prefix),
        "steps": _steps(context, found),
        "sure": [*_sure(context, found), *filter(None, [unranked(context)])],
    }


def overview(context: ReportContext) -> dict[str, Any]:
    """Return the values of the template ``victims``: a row for each victim and attacker."""
    rows = []
    names = files([found.victim for found in context.recommendations])
    for found in context.recommendations:
        link = f"[{plain(found.victim)}]({names[found.victim]})"
        for place, rec in enumerate(_answers(found)):
            best = rec.recommended or answers.candidate(rec)
            name = code(context.findings.defense_name(best.defense)) if best else "none"
            if best and best.conclusion == "candidate":
                name += ", not confirmed"
            elif best:
                name = f"**{name}**"
            rows.append(
                [
                    link if place == 0 else "",
                    f"{context.attacker(rec.threat)}; {rec.budget:,} queries",
                    _fidelity(best) if best else _without(rec),
                    in_table(best.reduction.interval) if best and best.reduction else DASH,
                    name,
                ]
            )
    headers = [
        "victim",
        "attacker",
        "best attack's fidelity, without → with (%)",
        "reduction (pp, 95 % CI)",
        "recommendation",
    ]
    first = context.recommendations[0].strongest
    return {
        "sold": answers.SOLD[first.options.sells],
        "defenses": any(row.defense for found in context.recommendations for row in found.strongest.rows),
        "helped": sum(found.strongest.recommended is not None for found in context.recommendations),
        "victims": len(context.recommendations),
        "confirmed": any(found.strongest.confirmed for found in context.recommendations),
        "candidates": any(answers.candidate(found.strongest) for found in context.recommendations),
        "table": markdown(headers, rows, text=2),
        "sure": [*_run_facts(context), *filter(None, [unranked(context)])],
    }


def _answers(found: VictimRecommendations) -> list[Recommendation]:
    return [rec for rec in (found.strongest, found.without_data, found.non_adaptive) if rec is not None]


def table_rows(rec: Recommendation) -> list[DefenseVerdict]:
    """Return the rows of the first page, in the order of the recommendation.

    No defense; what is recommended under any way to sell; eligible ones; and of those that are not, the one
    with the largest reduction before all others.
    """
    others = {defense for _, defense in rec.others}
    usable = ("recommended", "tied", "confirmed", "not confirmed", "candidate", "eligible")
    rest = [row for row in rec.rows if row.conclusion not in (*usable, "undefended")]
    refused = [row for row in rest if row.conclusion == "not usable" and row.defense not in others]
    example = max(
        refused, key=lambda row: row.reduction.interval.value if row.reduction else -1, default=None
    )
    wanted = [row for row in rec.rows if row.conclusion in ("undefended", "recommended", "tied")]
    wanted += [row for row in rec.rows if row.defense in others]
    wanted += [example] if example else []
    wanted += [row for row in rec.rows if row.conclusion in usable]
    wanted += rest
    kept = {row.defense for row in _unique(wanted)[:MOST_ROWS]}
    return [row for row in rec.rows if row.defense in kept]


def _unique(rows: Sequence[DefenseVerdict]) -> list[DefenseVerdict]:
    return list({row.defense: row for row in rows}.values())


def _leading_name(context: ReportContext, rec: Recommendation) -> str:
    leading = answers.leading(rec)
    return context.findings.defense_name(leading.defense) if leading else ""


def _table(context: ReportContext, rec: Recommendation, rows: Sequence[DefenseVerdict]) -> str:
    body = []
    for row in rows:
        name = code(context.findings.defense_name(row.defense)) if row.defense else "none"
        mark = f" {MARK}" if row.conclusion == "invalid" else ""
        bold = "**" if row.conclusion == "recommended" else ""
        accuracy = row.criterion("accuracy")
        body.append(
            [
                f"{bold}{name}{bold}{mark}",
                _fidelity(row) if row.defense else _without(rec),
                f"{bold}{in_table(row.reduction.interval)}{bold}" if row.reduction else "",
                answers.loss_number(accuracy)
                if accuracy and accuracy.loss
                else ""
                if not row.defense
                else DASH,
                plain(answers.verdict_text(row, rec.options)).replace("\\*\\*", "**"),
            ]
        )
    headers = [
        "defense",
        "best attack's fidelity, without → with (%)",
        "reduction (pp, 95 % CI)",
        "accuracy lost (pp)",
    ]
    return markdown([*headers, "verdict"], body)


def _fidelity(row: DefenseVerdict) -> str:
    if row.reduction is None:
        return "not ranked"
    before, after, _ = answers.sides(row.reduction)
    return f"{before} → {after}"


def _without(rec: Recommendation) -> str:
    return number(100 * rec.undefended.value, 1) if rec.undefended else "not ranked"


def _compared(context: ReportContext, rec: Recommendation, rows: Sequence[DefenseVerdict]) -> str:
    """Return who attacks, and which attacks the rows compare, both sides named where they differ."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for row in rows:
        if row.reduction:
            name = code(context.findings.defense_name(row.defense))
            before.setdefault(row.reduction.undefended_attack, []).append(name)
            after.setdefault(row.reduction.attack, []).append(name)
    left = len(rec.rows) - len(rows)
    are = "defenses are" if left > 1 else "defense is"
    more = f" {left} more {are} in [attacks.md](attacks.md)." if left else ""
    stale = [row for row in rows if rec.confirmed and row.reduction and not row.reduction.fresh]
    if stale:
        names = joined([code(context.findings.defense_name(row.defense)) for row in stale])
        more = f" Not on fresh repeats: {names}.{more}"
    unmet = [row for row in rows if rec.undefended_attack and not answers.met_best(rec, row)]
    if unmet:
        names = joined([code(context.findings.defense_name(row.defense)) for row in unmet])
        more = (
            f" {plain(rec.undefended_attack)}, the best without a defense, was not run against {names}.{more}"
        )
    who = f"Attacker: {context.attacker(rec.threat)}; {rec.budget:,} queries."
    if not before:
        return f"{who}{more}"
    if before == after and len(before) == 1:
        return f"{who} Best attack without and with each defense: {plain(*before)}.{more}"
    sides = f"Best attack without a defense: {_grouped(before)}. With one: {_grouped(after)}."
    return f"{who} {sides}{more}"


def _balanced(context: ReportContext, victim: str) -> str:
    """Return that fidelity is balanced, where the victim's labels are imbalanced."""
    if not context.findings.is_balanced(victim):
        return ""
    evaluation = context.findings.evaluations.get((victim, UNDEFENDED))
    share = evaluation.metrics.get("honest.commonest_label") if evaluation else None
    commonest = (
        f": the commonest of the victim's labels has {number(100 * share, 1)} % of test inputs"
        if share
        else ""
    )
    return f"Fidelity is balanced, the mean over the victim's labels{commonest}."


def _grouped(attacks: Mapping[str, Sequence[str]]) -> str:
    """Return attacks with the defenses that each is the best for; the commonest first, without them."""
    ordered = sorted(attacks, key=lambda attack: -len(attacks[attack]))
    rare = [f"{plain(attack)} for {joined(attacks[attack])}" for attack in ordered[1:]]
    others = f" ({'; '.join(rare)})" if rare else ""
    return f"{plain(ordered[0])}{others}"


def _not_stopped(context: ReportContext, rec: Recommendation) -> str:
    """Return what the recommended defense does not stop; what holds without one, where none is."""
    best = rec.recommended or answers.candidate(rec)
    money = answers.effort(rec.budget, rec.options, money_alone=True)
    bought = f"{rec.budget:,} queries (about {money})"
    if best is None or best.reduction is None:
        if rec.undefended is None:
            return ""
        return (
            f"Without a defense, {bought} buy a surrogate that agrees with the model on "
            f"{number(100 * rec.undefended.value, 1)} % of inputs."
        )
    after = answers.sides(best.reduction)[1]
    baseline = context.findings.zero_query_baseline(rec.threat)
    own = ""
    if baseline:
        value = number(100 * baseline.interval.value, 1)
        own = f" (the attacker's own labelled data give {value} % without any query)"
    return (
        f"**It does not stop extraction:** {bought} still buy a surrogate that agrees with the model on "
        f"{after} % of inputs{own}."
    )


def _elsewhere(context: ReportContext, found: VictimRecommendations) -> list[str]:
    """Return a line for each other way to sell and for weaker attackers, where the answer differs."""
    rec, lines = found.strongest, []
    by_defense = {row.defense: row for row in rec.rows}
    recommended = rec.recommended.defense if rec.recommended else None
    for sold, defense in rec.others:
        row = by_defense.get(defense) if defense is not None else None
        if defense != recommended and row and row.reduction:
            shown = in_text(row.reduction.interval).replace("95 % CI ", "")
            name = code(context.findings.defense_name(row.defense))
            lines.append(f"If {answers.WHERE[sold]}: {name}, {shown}.")
    if rec.threat.access != "in-distribution":
        lines.append("No attacker in this run has data like your users'; one who has will get more.")
    for other, who in (
        (found.without_data, "Against an attacker without data like your users'"),
        (found.non_adaptive, "Against an attacker who does not know the defense"),
    ):
        if other is not None and _answer(other) != _answer(rec):
            lines.append(f"{who}: {_short_answer(context, other)}")
    return lines


def _unequal(context: ReportContext, victim: str, rec: Recommendation) -> list[str]:
    """Return a line for each group of users that the answer takes more from than from all others."""
    best = _answer(rec)
    losses = unequal(context.findings, victim) if best else ()
    return [f"{group_sentence(context, loss)}." for loss in losses if loss.defense == best]


def _answer(rec: Recommendation) -> Defense | None:
    best = rec.recommended or answers.candidate(rec)
    return best.defense if best else None


def _short_answer(context: ReportContext, rec: Recommendation) -> str:
    best = rec.recommended or answers.candidate(rec)
    if best is None or best.reduction is None:
        return "nothing is recommended."
    unsure = "" if best.conclusion == "recommended" else ", not confirmed"
    name = code(context.findings.defense_name(best.defense))
    return f"{name}, {in_text(best.reduction.interval)}{unsure}."


def _steps(context: ReportContext, found: VictimRecommendations) -> list[str]:
    """Return what an attacker would do, the strongest attack first."""
    rec, options = found.strongest, found.strongest.options
    steps = []
    if rec.undefended is not None:
        # An attack may use less of the answers than they show.
        keep = "answers" if rec.threat.shows == "probabilities" else rec.threat.shows
        best = f" (best attack: {plain(rec.undefended_attack)})" if rec.undefended_attack else ""
        steps.append(
            f"Without a defense: query {rec.budget:,} {inputs(rec.threat)} and keep the {keep}{best}. That "
            f"costs {answers.effort(rec.budget, options)}, and the surrogate agrees with the model on "
            f"{in_text(rec.undefended, '%')} of inputs."
        )
    shown = [rec.recommended or answers.candidate(rec)]
    shown += [row for row in rec.rows if row.defense in {defense for _, defense in rec.others}]
    for row in _unique([row for row in shown if row is not None and row.defense]):
        steps += [_against(context, rec, row)] if row.reduction else []
    for other in (found.without_data, found.non_adaptive):
        if other is not None and other.undefended is not None:
            leading = other.recommended or answers.candidate(other)
            less = ""
            if leading and leading.reduction:
                name = code(context.findings.defense_name(leading.defense))
                less = f"; {answers.sides(leading.reduction)[1]} % with {name}"
            who = context.attacker(other.threat)
            owns = any(context.owned.get(each) for each in (other.threat, *other.threat.weaker()))
            sent = "queries" if owns else inputs(other.threat)
            steps.append(
                f"An attacker who {who}: {other.budget:,} {sent} give "
                f"{in_text(other.undefended, '%')} without a defense{less}."
            )
    return steps


def inputs(threat: VictimThreatModel) -> str:
    """Return what an attacker sends, in words."""
    return INPUTS.get(threat.access, "inputs ({})").format(plain(threat.pool))


def _against(context: ReportContext, rec: Recommendation, row: DefenseVerdict) -> str:
    if row.reduction is None:
        raise ValueError("a defense without a reduction was compared with nothing")
    _, after, less = answers.sides(row.reduction)
    name = code(context.findings.defense_name(row.defense))
    text = f"Against {name}: {plain(row.reduction.attack)} gets {after} %, {less} pp less."
    result = next((r for r in context.findings.rows.get(rec.threat, []) if r.defense == row.defense), None)
    if result is None:
        return text
    more = answers.multiplier_text(result.multiplier, rec.budget, list(result.results), rec.options)
    return f"{text} {more}".strip()


def _sure(context: ReportContext, found: VictimRecommendations) -> list[str]:
    """Return how sure the answers are, a paragraph or two."""
    rec = found.strongest
    repeats = (
        f"{rec.fresh_repeats} fresh repeats"
        if rec.confirmed
        else f"{rec.selection_repeats} repeats, none fresh"
    )
    tested = context.test_inputs(found.victim)
    parts = [repeats] + ([f"{tested:,} test inputs"] if tested else [])
    adapt = f"{rec.adaptive} adapt" if rec.adaptive != 1 else "1 adapts"
    defenses = any(row.defense for row in rec.rows)
    attacks = f"{rec.attacks} attack{'s' * (rec.attacks != 1)}" + (f" of which {adapt}" if defenses else "")
    among = f"the choice among {rec.compared} defense{'s' * (rec.compared != 1)}"
    choice = f", those of fresh repeats also {among}" if rec.confirmed else f", not {among}"
    covered = f"intervals cover repeats and inputs{choice * bool(rec.compared)}"
    first = f"{', '.join(parts)}; {attacks}; {covered}."
    if defenses and not rec.adaptive:
        first += " **No attack in this run is shown to adapt to a defense.**"
    if rec.smallest is not None:
        who = "This run finds" if rec.confirmed else f"{rec.options.confirm} fresh repeats would find"
        first += f" {who} a reduction of {100 * rec.smallest:.1f} pp in 90 %."
    unknown = dict.fromkeys(
        answers.CALLED.get(criterion.name, criterion.name)
        for row in rec.rows
        for criterion in row.criteria
        if criterion.loss is None and criterion.detail == NOT_MEASURED
    )
    if unknown:
        first += f" Not measured by the version that made this store: {joined(list(unknown))}; run again."
    if rec.holds_at_largest is not None and rec.recommended:
        largest = rec.recommended.largest
        shown = f": {in_text(largest.interval)}" if largest else ""
        holds = "also holds" if rec.holds_at_largest else "**no longer holds**"
        first += f" The reduction {holds} at the largest budget{shown}."
    noted = context.notes_on(found.victim)
    about = [f"On this model and its data: {'; '.join(map(plain, noted))}."] if noted else []
    return [first, *about, *_run_facts(context)]


def _run_facts(context: ReportContext) -> list[str]:
    """Return what holds for the whole run: its gaps, what it cannot show, its notes."""
    facts = []
    if context.lacking:
        lacking = joined(context.lacking)
        facts.append(
            f"**This run is not complete** (cells: {lacking}; [provenance.md](provenance.md)); what "
            "is missing can change the answer."
        )
    found = len(context.notes)
    some = "A note" if found == 1 else f"{found} notes"
    noted = f" {some} on these numbers: [warnings.md](warnings.md)." if found else ""
    unrun = "[nobody ran](provenance.md#what-was-not-run)"
    facts.append(f"An attack that {unrun} can only make a defense look worse.{noted}")
    return facts
