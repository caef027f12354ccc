"""The figure of a campaign: fidelity of each attack against what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from bench.analysis.extraction_cost import BudgetResult
from bench.analysis.threat_models import UNDEFENDED, VictimThreatModel
from bench.metrics.intervals import Interval
from bench.report.context import ReportContext
from bench.report.figures.style import GREY, STYLE, place_axes, save
from bench.report.figures.victim import COLOURS, MARKERS, MOST_LINES, WIDTH, name_ends


def draw(context: ReportContext, threat: VictimThreatModel, results: Sequence[BudgetResult]) -> str:
    """Draw fidelity by budget, a line an attack; return the Markdown with it, empty where there is none."""
    if context.folder is None:
        return ""
    path = save(fidelity(context, threat, results), context.folder, "cost")
    said = "Fidelity of each attack by inputs and by what they cost, with 95 % intervals"
    return f"![{said}]({path})" if path else ""


@mpl.rc_context(STYLE)
def fidelity(
    context: ReportContext, threat: VictimThreatModel, results: Sequence[BudgetResult]
) -> Figure | None:
    """Return fidelity against inputs and their money, the best attacks named; None without two budgets."""
    if len(results) < 2:
        return None
    lines = _lines(context, threat, results)
    named = sorted(lines, key=lambda attack: -lines[attack][-1][1].value)[:MOST_LINES]
    budgets = [each.budget for each in results]
    lows = [100 * _known(i.low, i.value) for points in lines.values() for _, i in points]
    highs = [100 * _known(i.high, i.value) for points in lines.values() for _, i in points]
    floor, top = max(0.0, min(lows)), min(100.5, max(highs))
    room = max(1.0, 0.05 * (top - floor))
    right = 0.35 + 0.073 * max(len(name) for name in named)
    figure = Figure(figsize=(WIDTH, 4.1))
    axes = place_axes(figure, 0.65, 0.75, WIDTH - 0.65 - right, 3.2)
    axes.set(
        xscale="log",
        xlim=(budgets[0] / 1.12, budgets[-1] * 1.12),
        ylim=(max(0.0, floor - room), min(100.5, top + room)),
    )
    ends = []
    for place, attack in enumerate(lines):
        if attack not in named:
            xs, ys = _xy(lines[attack])
            axes.plot(xs, ys, color=GREY, linewidth=0.9, alpha=0.45, zorder=1)
            continue
        rank = named.index(attack)
        colour, marker = COLOURS[rank % len(COLOURS)], MARKERS[rank % len(MARKERS)]
        xs, ys = _xy(lines[attack])
        # Side by side, so that intervals of lines that run together can be seen.
        xs = [x * 1.012 ** (place - (len(lines) - 1) / 2) for x in xs]
        for x, (_, interval) in zip(xs, lines[attack], strict=True):
            if not math.isnan(interval.low):
                limits = [100 * interval.low, 100 * interval.high]
                axes.plot([x, x], limits, color=colour, linewidth=1.1, alpha=0.7)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=5, linewidth=1.8)
        ends.append((ys[-1], max(ys), attack, colour))
    name_ends(axes, ends)
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{each.budget:,}\n{_money(each.cost.money)}" for each in results])
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")
    axes.set_xlabel("inputs sent (log scale), and their price", labelpad=3)
    axes.set_ylabel("fidelity (%)")
    return figure


def _lines(
    context: ReportContext, threat: VictimThreatModel, results: Sequence[BudgetResult]
) -> dict[str, list[tuple[int, Interval]]]:
    """Return the points of every ranked attack, by its name as shown."""
    found: dict[str, list[tuple[int, Interval]]] = {}
    for each in results:
        for name, result in context.findings.candidates(threat, UNDEFENDED, each.budget).items():
            if result.ranked:
                found.setdefault(name, []).append((each.budget, result.fidelity))
    return found


def _known(limit: float, value: float) -> float:
    return value if math.isnan(limit) else limit


def _xy(points: Sequence[tuple[int, Interval]]) -> tuple[list[float], list[float]]:
    return [float(b) for b, _ in points], [100 * interval.value for _, interval in points]


def _money(value: float) -> str:
    # What is between two dollar signs would be read as mathematics.
    return f"\\${value:,.2f}" if value >= 0.1 or value == 0 else f"\\${value:,.4f}"
