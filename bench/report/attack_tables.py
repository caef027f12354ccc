"""The report's tables of extraction results, in Markdown. Shares are in percent, their differences in pp."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from bench.analysis.attacker_results import in_both, shared_repeats
from bench.analysis.comparison import best_name
from bench.analysis.disagreement import disagreement
from bench.analysis.findings import Findings
from bench.analysis.interval_text import DASH, in_table, number
from bench.analysis.pareto import Cost, Point
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel
from bench.analysis.verdicts import Reduction
from bench.metrics.definitions import Metric, shown_in
from bench.metrics.intervals import Interval, paired_difference, value_interval
from bench.records import Record
from bench.report.answers import sides
from bench.report.markdown import code, markdown, plain


def compared(
    findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int
) -> Reduction | None:
    """Return the best attack without and with a defense, among those that met both, in shared repeats."""
    candidates = findings.candidates(threat, defense, budget)
    rivals = in_both(findings.candidates(threat, UNDEFENDED, budget), candidates)
    best, rival = best_name(candidates), best_name(rivals)
    if best is None or rival is None:
        return None
    theirs, ours = shared_repeats(rivals[rival], candidates[best])
    if not len(ours):
        return None
    difference = paired_difference(theirs, ours)
    without, left = float(theirs.mean()), float(ours.mean())
    ranked = sum(sample.ranked for sample in candidates.values())
    return Reduction(without, rival, left, best, difference, len(ours), ranked)


def comparison_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return fidelity of the best attacks without and with each defense, a row a defense and budget."""
    rows = []
    for row in findings.rows[threat]:
        name = code(findings.defense_name(row.defense)) if row.defense else "none"
        for budget, result in row.results.items():
            best = result.best
            if best is None:
                rows.append([name, DASH, f"{budget:,}", "not ranked", DASH, DASH])
                continue
            found = compared(findings, threat, row.defense, budget) if row.defense else None
            repeats = result.repeats
            if found is None:
                shown = [plain(best.attack), f"{budget:,}", in_table(best.interval), DASH]
            else:
                before, after, _ = sides(found)
                repeats = found.repeats
                pair = plain(found.attack)
                if found.undefended_attack != found.attack:
                    pair = f"{plain(found.undefended_attack)} → {pair}"
                shown = [pair, f"{budget:,}", f"{before} → {after}", in_table(found.interval)]
            rows.append([name, *shown, str(repeats)])
    headers = ["defense", "best attack", "queries", "fidelity, without → with (%)", "reduction (pp, 95 % CI)"]
    return markdown([*headers, "repeats"], rows, text=2)


def attack_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return fidelity by defense and attack, one column a budget, with the repeats where they are fewer."""
    rows: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    every = {b for budgets in findings.conditions[threat].values() for b in budgets}
    most = max((len(s.repeats) for _, _, _, s in findings.measured(threat)), default=0)
    for defense, budget, name, sample in findings.measured(threat):
        if budget in every:
            few = f" (n = {len(sample.repeats)})" if len(sample.repeats) < most else ""
            rows[_name(findings, defense), plain(name)][budget] = f"{in_table(sample.fidelity)}{few}"
    budgets = sorted(every)
    headers = ["defense", "attack", *(f"{budget:,} queries" for budget in budgets)]
    table = [[*names, *(by_budget.get(b, DASH) for b in budgets)] for names, by_budget in rows.items()]
    return f"Fidelity in %, mean over n = {most} repeats unless stated otherwise.\n\n" + markdown(
        headers, table, text=2
    )


def companion_table(findings: Findings, threat: VictimThreatModel) -> str:
    """Return the surrogates' further metrics at the largest budget."""
    budget = findings.summary_budgets(threat)[-1]
    samples = [found for found in findings.measured(threat) if found[1] == budget]
    stored = {name for *_, sample in samples for record in sample.records for name in record.metrics}
    further = [metric for metric in shown_in("imbalance") if metric.name in stored]
    metrics, rows = [*shown_in("surrogate"), *further], []
    apart = [disagreement(sample.records) for *_, sample in samples]
    between = shown_in("disagreement") if any(apart) else []
    for (defense, _, name, sample), found in zip(samples, apart, strict=True):
        cells = [_over_repeats(sample.records, metric) for metric in metrics]
        cells += [in_table(found[each.name]) if each.name in found else DASH for each in between]
        rows.append([_name(findings, defense), plain(name), in_table(sample.fidelity), *cells])
    headers = ["defense", "attack", "fidelity", *(metric.label for metric in [*metrics, *between])]
    return markdown(headers, rows, text=2)


def _over_repeats(records: Sequence[Record], metric: Metric) -> str:
    values = [value for record in records if (value := record.metrics.get(metric.name)) is not None]
    if not values:
        return DASH
    found = value_interval(values)
    # Student's t is unbounded; a share and a distance are not.
    low, high = np.clip((found.low, found.high), min(0.0, found.value), metric.largest)
    return in_table(Interval(found.value, float(low), float(high)), metric.scale, metric.digits)


def front_table(findings: Findings, drawn: Mapping[Cost, Sequence[Point]]) -> str:
    """Return the defenses on some Pareto front, the lowest fidelity first; bold in that front's column."""
    at = {cost: {point.row.defense: point for point in points} for cost, points in drawn.items()}
    kept = {p.row.defense: p for points in drawn.values() for p in points if not p.dominated}
    rows = []
    for point in sorted(kept.values(), key=lambda p: (p.fidelity.value, p.number)):
        costs = [_cell(at[cost].get(point.row.defense), cost) for cost in drawn]
        rows.append([_name(findings, point.row.defense), in_table(point.fidelity), *costs])
    headers = ["defense", "fidelity (%)", *(cost.label for cost in drawn)]
    return markdown(headers, rows)


def _cell(point: Point | None, cost: Cost) -> str:
    if point is None:
        return DASH
    shown = number(point.cost, cost.digits)
    return shown if point.dominated else f"**{shown}**"


def _name(findings: Findings, defense: Defense) -> str:
    return code(findings.defense_name(defense)) if defense else "none"
