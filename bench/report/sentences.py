"""The findings of a run in words: plain sentences, each resting on an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.analysis.comparison import BestAttackResult
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.row_flags import name_with_warnings, warning_labels
from bench.analysis.threat_models import VictimThreatModel
from bench.metrics.definitions import DEFINITIONS
from bench.metrics.intervals import Interval
from bench.metrics.query_multiplier import Multiplier
from bench.report.markdown import measured, number, ranged, times
from bench.store import Record

PAID = sorted((metric for metric in DEFINITIONS if metric.phrase), key=lambda metric: not metric.percent)
"""Utility losses that a sentence names, shares first."""
NOTHING = "nothing that can be told from zero"


def facts(threat: VictimThreatModel) -> dict[str, str]:
    """Return what the thief has, in words, by axis."""
    pool = "in-distribution data" if threat.access == threat.pool else f"{threat.pool} ({threat.access})"
    pool = f"{threat.pool} (no real data)" if threat.access == "none" else pool
    knows = {"none": "does not know the defense", "family": "knows the kind of defense"}
    return {
        "victim": threat.victim,
        "pool": f"queries with {pool}",
        "surrogate": f"trains {threat.surrogate}",
        "shows": f"sees {threat.shows}",
        "knowledge": knows.get(threat.knowledge, "knows the defense and its parameters"),
    }


def title(threat: VictimThreatModel) -> str:
    """Return a threat model in words."""
    victim, *thief = facts(threat).values()
    return f"`{victim}` against a thief who {', '.join(thief)}"


def significant_reductions(findings: Findings, threat: VictimThreatModel, budget: int) -> list[DefenseResult]:
    """Return the defenses whose gap at ``budget`` has an interval above 0, the largest gap first."""
    rows = [row for row in _compared(findings, threat, budget) if _gap(row, budget).low > 0]
    return sorted(rows, key=lambda row: (-_gap(row, budget).value, row.defense))


def _compared(findings: Findings, threat: VictimThreatModel, budget: int) -> list[DefenseResult]:
    standings = [(row, row.results.get(budget)) for row in findings.rows[threat]]
    return [row for row, standing in standings if standing and standing.reduction]


def _gap(row: DefenseResult, budget: int) -> Interval:
    gap = row.results[budget].reduction
    assert gap is not None  # noqa: S101  # only rows that _compared let through
    return gap


def summary_sentences(findings: Findings, threat: VictimThreatModel) -> list[str]:
    """Return the verdict on one threat model as sentences; each claim rests on an interval."""
    budgets = findings.summary_budgets(threat)
    lines = [_open_door(findings, threat, budgets)]
    lines += [_against(findings, threat, budget) for budget in budgets]
    lines += [_queries(findings, threat), _price(findings, threat, budgets[0])]
    return [line for line in lines if line]


def _open_door(findings: Findings, threat: VictimThreatModel, budgets: Sequence[int]) -> str:
    said, mark = [], ""
    for row in findings.rows[threat]:
        for budget in budgets if not row.defense else []:
            mark = warning_labels(findings, row)
            standing = row.results.get(budget)
            if standing and standing.best:
                best = standing.best
                said.append(f"{budget:,} queries copy **{_percent(best.interval)}** of it ({best.attacker})")
    floor = findings.zero_query_baseline(threat)
    own = f" The thief's own labelled data give {_percent(floor.interval)} before any query." if floor else ""
    start = f"**With no defense** ({mark})**,**" if mark else "**With no defense,**"
    return f"{start} {'; '.join(said)}.{own}" if said else own.strip()


def _percent(interval: Interval) -> str:
    value, bracket, limits = ranged(interval).partition(" [")
    return f"{value} %{bracket}{limits}"


def _against(findings: Findings, threat: VictimThreatModel, budget: int) -> str:
    told = significant_reductions(findings, threat, budget)
    rest = [row for row in _compared(findings, threat, budget) if row not in told]
    at = f"**At {budget:,} queries**"
    if not told and not rest:
        return f"{at} no attacker is ranked both with and without a defense, so nothing is compared."
    most = f"{100 * max(0, *(_gap(row, budget).high for row in rest)):.1f} points" if rest else ""
    if not told:
        return f"{at} no defense takes away an amount that can be told from zero, and none more than {most}."
    shown = [f"{name_with_warnings(findings, row)} ({ranged(_gap(row, budget))} points)" for row in told]
    first = told[0].results[budget].best
    left = f", which leaves {_percent(first.interval)} to {first.attacker}" if first else ""
    said = f"{at} the largest gap is that of **{shown[0]}**{left}."
    if len(shown) > 1:
        more = f"; {len(shown) - 4} more are in the table" if len(shown) > 4 else ""
        said += f" Also told from zero: {', '.join(shown[1:4])}{more}."
    if rest:
        who = "The other defense is" if len(rest) == 1 else f"The other {len(rest)} defenses are"
        said += f" {who} not shown to lower it; the intervals rule out more than {most}."
    return said


def _queries(findings: Findings, threat: VictimThreatModel) -> str:
    known = [(row, row.multiplier) for row in findings.rows[threat] if row.multiplier]
    if not known:
        wanted = findings.planned_reference(threat)
        here = wanted is None or findings.reference(threat) is not None
        return (
            "" if here else f"**In queries.** No multiplier: the reference budget of {wanted:,} was not run."
        )
    reference = f"{findings.reference(threat):,}"
    start = f"**In queries.** To be as good as {reference} undefended ones make it, the strongest thief needs"
    told = [(row, most) for row, most in known if most.low > 1]
    if not told:
        return f"{start} no more, as far as the intervals tell, whatever the defense."
    row, most = max(told, key=lambda pair: (pair[1].above, pair[1].value, pair[0].defense))
    name = name_with_warnings(findings, row)
    if most.above:
        return (
            f"{start} most with {name}: more than the largest budget, {most.value:.2f} times as many or more."
        )
    return f"{start} most with {name}: {times(most)} times as many."


def _price(findings: Findings, threat: VictimThreatModel, budget: int) -> str:
    said = []
    for row in significant_reductions(findings, threat, budget)[:3]:
        if row.evaluation is not None:
            parts = [f"{measured(row.evaluation, 'honest.accuracy_lost')} points of accuracy"]
            parts += [f"mean L1 {measured(row.evaluation, 'honest.l1_mean')}"]
            parts += [f"{measured(row.evaluation, 'honest.refused')} % of queries refused"]
            said.append(f"{name_with_warnings(findings, row)}: {', '.join(parts)}")
    return f"**What honest users pay for that.** {'; '.join(said)}." if said else ""


def one_line_results(findings: Findings, threat: VictimThreatModel) -> list[str]:
    """Return a line for each defense under this threat model, at the first headline budget that it met."""
    return [
        f"**{name_with_warnings(findings, row)}** {one_line_result(findings, row)}."
        for row in findings.rows[threat]
        if row.defense
    ]


def one_line_result(findings: Findings, row: DefenseResult) -> str:
    """Return what a defense buys and costs, in a clause or two without a full stop."""
    budget = next((b for b in findings.summary_budgets(row.threat) if b in row.results), 0)
    standing = row.results.get(budget)
    if standing is None or standing.reduction is None:
        return "is not compared: no attacker is ranked both with it and without"
    price = _utility_loss(row.evaluation)
    paid = f"for {price}" if price else "at no honest cost that can be told from zero"
    effects = _effects(standing.reduction, row.multiplier, budget)
    if effects:
        return f"{effects}, {paid}{_to_the_unaware(standing)}"
    unaware = standing.non_adaptive
    lost = _effects(unaware.reduction, _unaware_multiplier(findings, row), budget) if unaware else ""
    if lost and standing.best:
        return f"{lost}, {paid}, where the thief does not know it; {NOTHING} against {standing.best.attacker}"
    said = "cannot be told from no defense"
    if standing.reduction.high < 0:
        said = (
            f"helps the thief, by {number(-100 * standing.reduction.value, 1)} points at {budget:,} queries"
        )
    return f"{said}; honest users pay {price}" if price else said


def _effects(gap: Interval | None, multiplier: Multiplier | None, budget: int) -> str:
    """Return what of queries and fidelity a defense is shown to buy; empty for nothing."""
    told = []
    if multiplier and multiplier.low > 1:
        more = " or more" if multiplier.above else ""
        told.append(f"buys {multiplier.value:.1f} × the queries{more}")
    if gap and gap.low > 0:
        told.append(f"takes {number(100 * gap.value, 1)} points off the copy at {budget:,} queries")
    return " and ".join(told)


def _unaware_multiplier(findings: Findings, row: DefenseResult) -> Multiplier | None:
    """Return the multiplier against the thief who differs in that he does not know the defense."""
    other = findings.rows.get(replace(row.threat, knowledge="none"), [])
    return next((each.multiplier for each in other if each.defense == row.defense), None)


def _to_the_unaware(standing: BestAttackResult) -> str:
    knowing = standing.non_adaptive.adaptive_gain if standing.non_adaptive else None
    if knowing is None:
        return ""
    if knowing.low > 0 and standing.best:
        more = number(100 * knowing.value, 1)
        return f"; {standing.best.attacker} gets {more} points more than any thief who does not know it"
    return "; knowing it is not shown to help"


def _utility_loss(evaluation: Record | None) -> str:
    """Return what honest users pay, as far as it is told from zero."""
    told: list[str] = []
    if evaluation is None:
        return ""
    for metric in PAID:
        value = evaluation.metrics.get(metric.name)
        limits = evaluation.info.get("intervals", {}).get(metric.name)
        shown = number(metric.scale * value, metric.digits) if value is not None else ""
        if limits and limits[0] > 0 and float(shown) > 0:
            told.append(metric.phrase.format(shown))
    return f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else "".join(told)
