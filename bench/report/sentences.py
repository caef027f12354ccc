"""The findings of a run in words. *Significant*: the 95 % interval excludes 0, or 1 for a ratio."""

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
from bench.records import Record
from bench.report.markdown import measured, number, ranged, times

PAID = sorted((metric for metric in DEFINITIONS if metric.phrase), key=lambda metric: not metric.percent)
"""Utility losses that a sentence names, shares first."""


def facts(threat: VictimThreatModel) -> dict[str, str]:
    """Return a threat model in words, by axis."""
    pool = "in-distribution data" if threat.access == threat.pool else f"{threat.pool} ({threat.access})"
    pool = f"{threat.pool} (no real data)" if threat.access == "none" else pool
    knowledge = {"none": "non-adaptive", "family": "adaptive (defense known)"}
    return {
        "victim": threat.victim,
        "pool": f"queries with {pool}",
        "surrogate": f"trains {threat.surrogate}",
        "shows": f"sees {threat.shows}",
        "knowledge": knowledge.get(threat.knowledge, "adaptive (parameters known)"),
    }


def title(threat: VictimThreatModel) -> str:
    """Return a victim and its threat model in words."""
    victim, *attacker = facts(threat).values()
    return f"`{victim}`: {', '.join(attacker)}"


def significant_reductions(findings: Findings, threat: VictimThreatModel, budget: int) -> list[DefenseResult]:
    """Return the defenses with a significant fidelity reduction at ``budget``, the largest first."""
    rows = [row for row in _compared(findings, threat, budget) if _reduction(row, budget).low > 0]
    return sorted(rows, key=lambda row: (-_reduction(row, budget).value, row.defense))


def _compared(findings: Findings, threat: VictimThreatModel, budget: int) -> list[DefenseResult]:
    results = [(row, row.results.get(budget)) for row in findings.rows[threat]]
    return [row for row, result in results if result and result.reduction]


def _reduction(row: DefenseResult, budget: int) -> Interval:
    reduction = row.results[budget].reduction
    assert reduction is not None  # noqa: S101  # only rows that _compared lets through
    return reduction


def summary_sentences(findings: Findings, threat: VictimThreatModel) -> list[str]:
    """Return the findings under one threat model, a sentence or two each."""
    budgets = findings.summary_budgets(threat)
    lines = [_without_defense(findings, threat, budgets)]
    lines += [_with_defenses(findings, threat, budget) for budget in budgets]
    lines += [_queries_needed(findings, threat), _utility_losses(findings, threat, budgets[0])]
    return [line for line in lines if line]


def _without_defense(findings: Findings, threat: VictimThreatModel, budgets: Sequence[int]) -> str:
    reached, warnings = [], ""
    for row in findings.rows[threat]:
        for budget in budgets if not row.defense else []:
            warnings = warning_labels(findings, row)
            result = row.results.get(budget)
            if result and result.best:
                best = result.best
                fidelity = _percent(best.interval)
                reached.append(f"{budget:,} queries reach a fidelity of **{fidelity}** ({best.attack})")
    own = findings.zero_query_baseline(threat)
    baseline = f" The zero-query baseline is {_percent(own.interval)}." if own else ""
    start = f"**Without a defense** ({warnings})**,**" if warnings else "**Without a defense,**"
    return f"{start} {'; '.join(reached)}.{baseline}" if reached else baseline.strip()


def _percent(interval: Interval) -> str:
    value, bracket, limits = ranged(interval).partition(" [")
    return f"{value} %{bracket}{limits}"


def _with_defenses(findings: Findings, threat: VictimThreatModel, budget: int) -> str:
    significant = significant_reductions(findings, threat, budget)
    rest = [row for row in _compared(findings, threat, budget) if row not in significant]
    at = f"**At {budget:,} queries,**"
    if not significant and not rest:
        return f"{at} no attack is ranked both with and without a defense, so nothing is compared."
    bound = f"{100 * max(0, *(_reduction(row, budget).high for row in rest)):.1f} pp" if rest else ""
    if not significant:
        return f"{at} no defense reduces fidelity significantly; reductions above {bound} are excluded."
    shown = [
        f"{name_with_warnings(findings, row)} ({ranged(_reduction(row, budget))} pp)" for row in significant
    ]
    best = significant[0].results[budget].best
    left = f", to {_percent(best.interval)} (best attack: {best.attack})" if best else ""
    text = f"{at} the largest fidelity reduction is that of **{shown[0]}**{left}."
    if len(shown) > 1:
        more = f"; {len(shown) - 4} more are in the table" if len(shown) > 4 else ""
        text += f" Also significant: {', '.join(shown[1:4])}{more}."
    if rest:
        others = "The other defense has" if len(rest) == 1 else f"The other {len(rest)} defenses have"
        text += f" {others} no significant effect; reductions above {bound} are excluded."
    return text


def _queries_needed(findings: Findings, threat: VictimThreatModel) -> str:
    known = [(row, row.multiplier) for row in findings.rows[threat] if row.multiplier]
    start = "**Query multiplier.**"
    if not known:
        planned = findings.planned_reference(threat)
        here = planned is None or findings.reference(threat) is not None
        return "" if here else f"{start} No multiplier: the reference budget of {planned:,} was not run."
    fidelity = f"the fidelity of {findings.reference(threat):,} undefended queries"
    raised = [(row, multiplier) for row, multiplier in known if multiplier.low > 1]
    if not raised:
        return f"{start} No defense significantly increases the number of queries needed to reach {fidelity}."
    row, largest = max(raised, key=lambda pair: (pair[1].above, pair[1].value, pair[0].defense))
    start += f" To reach {fidelity}, most queries are needed with {name_with_warnings(findings, row)}:"
    if largest.above:
        return f"{start} more than the largest budget, {largest.value:.2f} times as many or more."
    return f"{start} {times(largest)} times as many."


def _utility_losses(findings: Findings, threat: VictimThreatModel, budget: int) -> str:
    losses = []
    for row in significant_reductions(findings, threat, budget)[:3]:
        if row.evaluation is not None:
            parts = [f"{measured(row.evaluation, 'honest.accuracy_lost')} pp of accuracy"]
            parts += [f"mean L1 {measured(row.evaluation, 'honest.l1_mean')}"]
            parts += [f"{measured(row.evaluation, 'honest.refused')} % of queries rejected"]
            losses.append(f"{name_with_warnings(findings, row)}: {', '.join(parts)}")
    return f"**Utility loss of these defenses.** {'; '.join(losses)}." if losses else ""


def one_line_results(findings: Findings, threat: VictimThreatModel) -> list[str]:
    """Return a line for each defense under this threat model, at its first budget of the summary."""
    return [
        f"**{name_with_warnings(findings, row)}** {one_line_result(findings, row)}."
        for row in findings.rows[threat]
        if row.defense
    ]


def one_line_result(findings: Findings, row: DefenseResult) -> str:
    """Return the effect and the utility loss of a defense, in a clause or two without a full stop."""
    budget = next((b for b in findings.summary_budgets(row.threat) if b in row.results), 0)
    result = row.results.get(budget)
    if result is None or result.reduction is None:
        return "is not compared: no attack is ranked both with it and without a defense"
    loss = _significant_loss(row.evaluation)
    at_a_loss = f"with a utility loss of {loss}" if loss else "without a significant utility loss"
    effects = _effects(result.reduction, row.multiplier, budget)
    if effects:
        return f"{effects}, {at_a_loss}{_adaptive_gain(result)}"
    other = result.non_adaptive
    effects = _effects(other.reduction, _non_adaptive_multiplier(findings, row), budget) if other else ""
    if effects and result.best:
        return (
            f"{effects} for non-adaptive attacks alone, {at_a_loss}; "
            f"no significant effect on the best attack, {result.best.attack}"
        )
    text = "has no significant effect"
    if result.reduction.high < 0:
        more = number(-100 * result.reduction.value, 1)
        text = f"increases fidelity by {more} pp at {budget:,} queries"
    return f"{text}, {at_a_loss}" if loss else text


def _effects(reduction: Interval | None, multiplier: Multiplier | None, budget: int) -> str:
    """Return the significant effects on queries and fidelity; empty without any."""
    effects = []
    if multiplier and multiplier.low > 1:
        more = " or more" if multiplier.above else ""
        effects.append(f"multiplies the queries needed by {multiplier.value:.1f}{more}")
    if reduction and reduction.low > 0:
        effects.append(f"reduces fidelity by {number(100 * reduction.value, 1)} pp at {budget:,} queries")
    return " and ".join(effects)


def _non_adaptive_multiplier(findings: Findings, row: DefenseResult) -> Multiplier | None:
    """Return the defense's multiplier under the threat model that differs in being non-adaptive."""
    others = findings.rows.get(replace(row.threat, knowledge="none"), [])
    return next((other.multiplier for other in others if other.defense == row.defense), None)


def _adaptive_gain(result: BestAttackResult) -> str:
    gain = result.non_adaptive.adaptive_gain if result.non_adaptive else None
    if gain is None:
        return ""
    if gain.low > 0 and result.best:
        more = number(100 * gain.value, 1)
        return f"; {result.best.attack} reaches {more} pp more than any non-adaptive attack"
    return "; adaptive attacks are not significantly better"


def _significant_loss(evaluation: Record | None) -> str:
    """Return the significant utility losses in words; empty without any."""
    losses: list[str] = []
    if evaluation is None:
        return ""
    for metric in PAID:
        value = evaluation.metrics.get(metric.name)
        limits = evaluation.info.intervals.get(metric.name)
        shown = number(metric.scale * value, metric.digits) if value is not None else ""
        if limits and limits[0] > 0 and float(shown) > 0:
            losses.append(metric.phrase.format(shown))
    return f"{', '.join(losses[:-1])} and {losses[-1]}" if len(losses) > 1 else "".join(losses)
