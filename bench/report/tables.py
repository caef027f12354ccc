"""The report's tables of extraction results, in Markdown. Shares are in percent, their differences in pp."""

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
from bench.records import Record
from bench.report.markdown import DASH, markdown, measured, number, ranged, times

MARKED = f" {MARK}"


def result_cells(result: BestAttackResult | None) -> tuple[str, str, str]:
    """Return the best attack's fidelity with its name, the reduction, and that from ``label_only``."""
    if result is None:
        return DASH, DASH, DASH
    mark = MARKED if result.flags else ""
    if result.best is None:
        return f"not ranked{mark}", DASH, DASH
    best = result.best
    shown = f"**{ranged(best.interval)}**{mark}<br>{best.attack}"
    return shown, ranged(result.reduction), ranged(result.reduction_from_labels)


def summary_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return one row a defense: fidelity, reductions, query multiplier and utility loss."""
    budgets = findings.summary_budgets(threat)
    headers = ["defense"]
    for budget in budgets:
        headers += [f"fidelity at {budget:,} queries (%)", "reduction (pp)", "reduction from label_only (pp)"]
    losses = shown_in("summary")
    headers += ["query multiplier", *(metric.summary_heading for metric in losses)]
    rows = []
    baseline = findings.zero_query_baseline(threat)
    if baseline:
        own = f"**{ranged(baseline.interval)}**<br>{baseline.attack}"
        dashes = [DASH] * (1 + len(losses))
        rows.append(["*zero-query baseline*", *([own, DASH, DASH] * len(budgets)), *dashes])
    for row in findings.rows[threat]:
        cells = [cell for budget in budgets for cell in result_cells(row.results.get(budget))]
        name = f"**{findings.defense_name(row.defense)}** {warning_labels(findings, row)}".strip()
        rows.append([name, *cells, times(row.multiplier), *_utility_loss(row)])
    return markdown(headers, rows)


def _utility_loss(row: DefenseResult) -> list[str]:
    if row.evaluation is None:
        return [DASH] * len(shown_in("summary"))
    return [measured(row.evaluation, metric.name) for metric in shown_in("summary")]


def budget_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return the best attack for every defense and budget."""
    rows = []
    for row in findings.rows[threat]:
        for budget, result in row.results.items():
            best, mark = result.best, MARKED if result.flags else ""
            name = findings.defense_name(row.defense)
            if best is None:
                rows.append([name, f"not ranked{mark}", f"{budget:,}", *[DASH] * 4])
            else:
                shown = [ranged(best.interval), ranged(result.reduction)]
                shown += [str(best.candidates), str(result.repeats)]
                rows.append([name, best.attack + mark, f"{budget:,}", *shown])
    headers = [
        "defense",
        "best attack",
        "queries",
        "fidelity (%)",
        "reduction (pp)",
        "candidates",
        "repeats",
    ]
    return markdown(headers, rows, text=2)


def attack_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return fidelity by defense and attack, one column a budget, with the repeats where they are fewer."""
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
    table = [[*names, *(by_budget.get(b, DASH) for b in budgets)] for names, by_budget in rows.items()]
    return f"Fidelity in %, mean over n = {most} repeats unless stated otherwise.\n\n" + markdown(
        headers, table, text=2
    )


def companion_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return the surrogates' further metrics at the largest budget."""
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
    # Student's t is unbounded; a share and a distance are not.
    low, high = np.clip((found.low, found.high), 0, metric.largest)
    return ranged(Interval(found.value, float(low), float(high)), metric.scale, metric.digits)


def front_table(findings: Findings, drawn: Mapping[Cost, Sequence[Point]]) -> str:
    """Return the defenses on some Pareto front, the lowest fidelity first; bold in that front's column."""
    at = {cost: {point.row.defense: point for point in points} for cost, points in drawn.items()}
    kept = {p.row.defense: p for points in drawn.values() for p in points if not p.dominated}
    rows = []
    for point in sorted(kept.values(), key=lambda p: (p.fidelity.value, p.number)):
        costs = [_cell(at[cost].get(point.row.defense), cost) for cost in drawn]
        rows.append(
            [str(point.number), name_with_warnings(findings, point.row), ranged(point.fidelity), *costs]
        )
    headers = ["", "defense", "fidelity (%)", *(cost.label for cost in drawn)]
    return markdown(headers, rows, text=2)


def _cell(point: Point | None, cost: Cost) -> str:
    if point is None:
        return DASH
    shown = number(point.cost, cost.digits)
    return shown if point.dominated else f"**{shown}**"
