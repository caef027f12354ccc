"""Utility loss and fidelity of the best attack: which defenses are dominated by another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.threat_models import UNDEFENDED, VictimThreatModel
from bench.metrics.definitions import DEFINITIONS
from bench.metrics.intervals import Interval
from bench.records import Record

PAYS = 1e-6
"""A smaller utility loss is rounding."""


@dataclass(frozen=True)
class Cost:
    """One utility loss. ``scale``: from stored to shown value. ``added``: minus that of no defense."""

    metric: str
    label: str
    scale: float = 1
    digits: int = 3
    added: bool = False


PANEL_COSTS = tuple(
    Cost(metric.name, metric.panel.label, metric.scale, metric.panel.digits, metric.panel.added)
    for metric in DEFINITIONS
    if metric.panel
)


@dataclass(frozen=True, eq=False)
class Point:
    """A defense in one panel: its utility loss as shown (``cost``), and the best attack's fidelity.

    ``number``: its row in the summary's table, 0 for no defense. ``dominated``: another defense in the
    panel has no higher utility loss and no higher fidelity, and is strictly better in one; point
    estimates decide.
    """

    row: DefenseResult
    number: int
    cost: float
    fidelity: Interval
    dominated: bool


def panels(findings: Findings, threat: VictimThreatModel) -> dict[Cost, list[Point]]:
    """Return the points at the first budget of the summary, by each utility loss that some defense has.

    There is no panel where fewer than two defenses, none included, have both a ranked attack and a
    defense evaluation.
    """
    budget = (findings.summary_budgets(threat) or [0])[0]
    ranked = [
        (number, row, result.best.interval)
        for number, row in enumerate(findings.rows[threat])
        if (result := row.results.get(budget)) and result.best
    ]
    undefended = findings.evaluations.get((threat.victim, UNDEFENDED))
    found = {}
    for cost in PANEL_COSTS:
        known = [
            (value, number, row, fidelity)
            for number, row, fidelity in ranked
            if (value := utility_loss(row.evaluation, undefended, cost)) is not None
        ]
        worse = dominated([(value, fidelity.value) for value, _, _, fidelity in known])
        if len(known) > 1 and any(value > PAYS for value, *_ in known):
            found[cost] = [
                Point(row, number, value, fidelity, is_worse)
                for (value, number, row, fidelity), is_worse in zip(known, worse, strict=True)
            ]
    return found


def utility_loss(evaluation: Record | None, undefended: Record | None, cost: Cost) -> float | None:
    """Return the utility loss as it is shown; None where it was not measured."""
    value = evaluation.metrics.get(cost.metric) if evaluation else None
    before = undefended.metrics.get(cost.metric) if undefended else None
    if value is None or (cost.added and before is None):
        return None
    return cost.scale * (value - before if cost.added and before is not None else value)


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (utility loss, fidelity) whether another is no higher in both and lower in one."""
    return [
        any(cost <= x and fidelity <= y and (cost, fidelity) != (x, y) for cost, fidelity in points)
        for x, y in points
    ]
