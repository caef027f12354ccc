"""One line a defense: what it buys for what, and what is left of that against a thief who knows it.

Every claim rests on an interval: what is not told from zero is not said to be there.
"""

from __future__ import annotations

from dataclasses import replace

from bench.analysis.comparison import BestAttackResult
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.flag_labels import named
from bench.analysis.threat_models import VictimThreatModel
from bench.metrics.intervals import Interval
from bench.metrics.query_multiplier import Multiplier
from bench.report.tables import number
from bench.store import Record

PAID = {
    "honest.accuracy_lost": ("{} points of honest accuracy", 100, 1),
    "honest.refused": ("{} % of honest queries refused", 100, 1),
    "honest.l1_mean": ("a mean L1 of {}", 1, 3),
}
"""Honest costs that a line names: metric, words, scale and digits."""
NOTHING = "nothing that can be told from zero"


def readings(findings: Findings, threat: VictimThreatModel) -> list[str]:
    """Return a line for each defense under this threat model, at the first headline budget that it met."""
    return [
        f"**{named(findings, row)}** {reading(findings, row)}."
        for row in findings.rows[threat]
        if row.defense
    ]


def reading(findings: Findings, row: DefenseResult) -> str:
    """Return what a defense buys and costs, in a clause or two without a full stop."""
    budget = next((b for b in findings.headline(row.threat) if b in row.standings), 0)
    standing = row.standings.get(budget)
    if standing is None or standing.gap is None:
        return "is not compared: no attacker is ranked both with it and without"
    price = _price(row.evaluation)
    paid = f"for {price}" if price else "at no honest cost that can be told from zero"
    effects = _effects(standing.gap, row.multiplier, budget)
    if effects:
        return f"{effects}, {paid}{_to_the_unaware(standing)}"
    unaware = standing.unaware
    lost = _effects(unaware.gap, _unaware_multiplier(findings, row), budget) if unaware else ""
    if lost and standing.best:
        return f"{lost}, {paid}, where the thief does not know it; {NOTHING} against {standing.best.attacker}"
    said = "cannot be told from no defense"
    if standing.gap.high < 0:
        said = f"helps the thief, by {number(-100 * standing.gap.value, 1)} points at {budget:,} queries"
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
    knowing = standing.unaware.knowing if standing.unaware else None
    if knowing is None:
        return ""
    if knowing.low > 0 and standing.best:
        more = number(100 * knowing.value, 1)
        return f"; {standing.best.attacker} gets {more} points more than any thief who does not know it"
    return "; knowing it is not shown to help"


def _price(evaluation: Record | None) -> str:
    """Return what honest users pay, as far as it is told from zero."""
    told: list[str] = []
    if evaluation is None:
        return ""
    for metric, (words, scale, digits) in PAID.items():
        value, limits = evaluation.metrics.get(metric), evaluation.info.get("intervals", {}).get(metric)
        shown = number(scale * value, digits) if value is not None else ""
        if limits and limits[0] > 0 and float(shown) > 0:
            told.append(words.format(shown))
    return f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else "".join(told)
