"""What honest users pay against what the strongest thief gets: which defenses another one dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.row_flags import warning_labels
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel
from bench.calls import parse_call
from bench.metrics.definitions import DEFINITIONS
from bench.metrics.intervals import Interval
from bench.store import Record

PAYS = 1e-6
"""A smaller cost is rounding."""


@dataclass(frozen=True)
class Cost:
    """One honest cost. ``scale``: from the audit's metric to what is shown. ``added``: against no defense."""

    metric: str
    label: str
    scale: float = 1
    digits: int = 3
    added: bool = False


COSTS = tuple(
    Cost(metric.name, metric.panel.label, metric.scale, metric.panel.digits, metric.panel.added)
    for metric in DEFINITIONS
    if metric.panel
)


@dataclass(frozen=True, eq=False)
class Point:
    """A defense in one panel: its cost as shown, and the fidelity that the strongest attacker reaches.

    ``place``: its place among the rows of the verdict, 0 for no defense. ``dominated``: another
    defense in the panel has no higher cost and no higher fidelity, and is better in one of them; the
    estimates decide. ``warning_labels``: the row's reliability flags in words, empty without.
    """

    row: DefenseResult
    number: int
    cost: float
    fidelity: Interval
    dominated: bool
    warnings: str


def panels(findings: Findings, threat: VictimThreatModel) -> dict[Cost, list[Point]]:
    """Return the points at the first headline budget, by each cost that some defense pays.

    No panel where fewer than two defenses, none included, have both a ranked attacker and an audit.
    """
    budget = (findings.summary_budgets(threat) or [0])[0]
    ranked = [
        (place, row, standing.best.interval)
        for place, row in enumerate(findings.rows[threat])
        if (standing := row.results.get(budget)) and standing.best
    ]
    undefended = findings.evaluations.get((threat.victim, UNDEFENDED))
    found = {}
    for cost in COSTS:
        known = [
            (value, place, row, stolen)
            for place, row, stolen in ranked
            if (value := utility_loss(row.evaluation, undefended, cost)) is not None
        ]
        worse = dominated([(value, stolen.value) for value, _, _, stolen in known])
        if len(known) > 1 and any(value > PAYS for value, *_ in known):
            found[cost] = [
                Point(row, place, value, stolen, is_worse, warning_labels(findings, row))
                for (value, place, row, stolen), is_worse in zip(known, worse, strict=True)
            ]
    return found


def utility_loss(evaluation: Record | None, undefended: Record | None, cost: Cost) -> float | None:
    """Return what honest users pay, as it is shown; None where it was not measured."""
    value = evaluation.metrics.get(cost.metric) if evaluation else None
    before = undefended.metrics.get(cost.metric) if undefended else None
    if value is None or (cost.added and before is None):
        return None
    return cost.scale * (value - before if cost.added and before is not None else value)


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, fidelity) whether another is no higher in both and lower in one."""
    return [
        any(cost <= x and fidelity <= y and (cost, fidelity) != (x, y) for cost, fidelity in points)
        for x, y in points
    ]


def defense_names(defense: Defense) -> str:
    """Return what the parameters of one family have in common: its plugins' names; "none" without any."""
    return " + ".join(parse_call(text)[0] for text in defense) or "none"


def strength_range(defense: Defense) -> tuple[Any, ...]:
    """Return what the points of one path share: the family, which numbers it has, all that are none."""
    calls = [parse_call(text) for text in defense]
    return tuple(
        (name, *sorted((key, "" if _measures(value) else repr(value)) for key, value in values.items()))
        for name, values in calls
    )


def _measures(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
