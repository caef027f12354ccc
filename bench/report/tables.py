"""The report's tables, in Markdown. Fidelity, shares and accuracy are in percent, gaps in points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from bench.analysis.comparison import BestAttackResult
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.pareto import Cost, Point
from bench.analysis.row_flags import MARK, name_with_warnings, warning_labels
from bench.analysis.threat_models import VictimThreatModel
from bench.metrics.definitions import Metric, shown_in
from bench.metrics.intervals import Interval, value_interval
from bench.report.markdown import DASH, markdown, measured, number, ranged, times
from bench.store import Record

MARKED = f" {MARK}"


def result_cells(standing: BestAttackResult | None) -> tuple[str, str, str]:
    """Return the strongest attacker's fidelity with its name, the gap, and the gap to ``label_only``."""
    if standing is None:
        return DASH, DASH, DASH
    mark = MARKED if standing.flags else ""
    if standing.best is None:
        return f"not ranked{mark}", DASH, DASH
    best = standing.best
    shown = f"**{ranged(best.interval)}**{mark}<br>{best.attacker}"
    return shown, ranged(standing.reduction), ranged(standing.reduction_from_labels)


def summary_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return one row a defense: fidelity and gaps at the headline budgets, queries, honest users' price."""
    budgets = findings.summary_budgets(threat)
    headers = ["defense"]
    for budget in budgets:
        headers += [f"stolen with {budget:,} queries (%)", "gap (points)", "gap to label_only (points)"]
    losses = shown_in("summary")
    headers += ["query multiplier", *(metric.summary_heading for metric in losses)]
    rows = []
    floor = findings.zero_query_baseline(threat)
    if floor:
        own = f"**{ranged(floor.interval)}**<br>{floor.attacker}"
        rows.append(["*no query at all*", *([own, DASH, DASH] * len(budgets)), *([DASH] * (1 + len(losses)))])
    for row in findings.rows[threat]:
        cells = [cell for budget in budgets for cell in result_cells(row.results.get(budget))]
        name = f"**{findings.defense_name(row.defense)}** {warning_labels(findings, row)}".strip()
        rows.append([name, *cells, times(row.multiplier), *_price(row)])
    return markdown(headers, rows)


def _price(row: DefenseResult) -> list[str]:
    if row.evaluation is None:
        return [DASH] * len(shown_in("summary"))
    return [measured(row.evaluation, metric.name) for metric in shown_in("summary")]


def budget_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return the strongest attacker for every defense and budget."""
    rows = []
    for row in findings.rows[threat]:
        for budget, standing in row.results.items():
            best, mark = standing.best, MARKED if standing.flags else ""
            name = findings.defense_name(row.defense)
            if best is None:
                rows.append([name, f"not ranked{mark}", f"{budget:,}", *[DASH] * 4])
            else:
                shown = [ranged(best.interval), ranged(standing.reduction)]
                shown += [str(best.candidates), str(standing.repeats)]
                rows.append([name, best.attacker + mark, f"{budget:,}", *shown])
    headers = [
        "defense",
        "strongest attacker",
        "queries",
        "fidelity (%)",
        "gap (points)",
        "candidates",
        "repeats",
    ]
    return markdown(headers, rows, text=2)


def attack_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return fidelity by defense and attack, a column a budget, with the repeats where they differ."""
    rows: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    every = {b for budgets in findings.conditions[threat].values() for b in budgets}
    most = max((len(s.repeats) for _, _, _, s in findings.measured(threat)), default=0)
    for defense, budget, name, sample in findings.measured(threat):
        if budget in every:
            few = f" (n = {len(sample.repeats)})" if len(sample.repeats) < most else ""
            mark = MARKED if sample.flags else ""
            shown = f"{ranged(sample.fidelity)}{few}{mark}"
            rows[findings.defense_name(defense), name][budget] = shown
    budgets = sorted(every)
    headers = ["defense", "attack", *(f"{budget:,} queries" for budget in budgets)]
    table = [[*place, *(by_budget.get(b, DASH) for b in budgets)] for place, by_budget in rows.items()]
    return f"Fidelity in %, mean of n = {most} repeats unless said.\n\n" + markdown(headers, table, text=2)


def companion_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return what stands beside fidelity, at the largest budget."""
    budget = findings.summary_budgets(threat)[-1]
    rows = []
    for defense, spent, name, sample in findings.measured(threat):
        if spent == budget:
            cells = [_over_repeats(sample.records, metric) for metric in shown_in("surrogate")]
            rows.append([findings.defense_name(defense), name, ranged(sample.fidelity), *cells])
    headers = ["defense", "attack", "fidelity", *(metric.label for metric in shown_in("surrogate"))]
    return markdown(headers, rows, text=2)


def _over_repeats(records: Sequence[Record], metric: Metric) -> str:
    values = [value for record in records if (value := record.metrics.get(metric.name)) is not None]
    if not values:
        return DASH
    found = value_interval(values)
    # Student's t knows no bounds; a share and a distance do.
    low, high = np.clip((found.low, found.high), 0, metric.largest)
    return ranged(Interval(found.value, float(low), float(high)), metric.scale, metric.digits)


def front_table(findings: Findings, drawn: Mapping[Cost, Sequence[Point]]) -> str:
    """Return the defenses on some panel's front, the lowest fidelity first; bold where on that front."""
    at = {cost: {point.row.defense: point for point in points} for cost, points in drawn.items()}
    kept = {p.row.defense: p for points in drawn.values() for p in points if not p.dominated}
    rows = []
    for point in sorted(kept.values(), key=lambda p: (p.fidelity.value, p.number)):
        costs = [_cell(at[cost].get(point.row.defense), cost) for cost in drawn]
        rows.append(
            [str(point.number), name_with_warnings(findings, point.row), ranged(point.fidelity), *costs]
        )
    headers = ["", "defense", "stolen (%)", *(cost.label for cost in drawn)]
    return markdown(headers, rows, text=2)


def _cell(point: Point | None, cost: Cost) -> str:
    if point is None:
        return DASH
    shown = number(point.cost, cost.digits)
    return shown if point.dominated else f"**{shown}**"
