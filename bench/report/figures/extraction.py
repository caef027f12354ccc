"""The report's figures: SVG on a transparent ground, in colours that light and dark pages both carry.

Layout is in inches, at most ten wide, so that text has one size in all of them on a page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.threat_models import UNDEFENDED, VictimThreatModel
from bench.metrics.intervals import BestAttack, Interval
from bench.report.figures.pareto import pareto
from bench.report.figures.style import BLUE, GREY, STYLE, defense_label, place_axes, save


def draw(findings: Findings, numbers: Mapping[VictimThreatModel, int], folder: Path) -> dict[str, str]:
    """Draw every figure of the report into ``folder``, in place of those of an earlier report.

    ``numbers``: the number that each threat model has in the report. Returns paths relative to the
    report by name: ``T1-curves``, ``T1-pareto``, ``heatmap-1`` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("T[0-9]*-c*.svg", "T[0-9]*-pareto.svg", "heatmap-[0-9]*.svg"):
        for old in folder.glob(kind):
            old.unlink()
    drawn: dict[str, Figure | None] = {}
    with mpl.rc_context(STYLE):
        for threat, number in numbers.items():
            drawn[f"T{number}-curves"] = curves(findings, threat)
            drawn[f"T{number}-pareto"] = pareto(findings, threat)
        for place, victim in enumerate(dict.fromkeys(threat.victim for threat in numbers), start=1):
            own = {threat: number for threat, number in numbers.items() if threat.victim == victim}
            drawn[f"heatmap-{place}"] = heatmap(findings, own)
        for name, figure in drawn.items():
            if figure is not None:
                save(figure, folder, name)
    return {name: f"{folder.name}/{name}.svg" for name, figure in drawn.items() if figure is not None}


def _points(row: DefenseResult) -> tuple[list[int], list[Interval]]:
    known = [(budget, standing.best.interval) for budget, standing in row.results.items() if standing.best]
    return [budget for budget, _ in known], [interval for _, interval in known]


def curves(findings: Findings, threat: VictimThreatModel) -> Figure | None:
    """Draw fidelity of the best attack against budget: a panel a defense, each beside none."""
    rows = [row for row in findings.rows[threat] if _points(row)[0]]
    if not rows:
        return None
    defended = [row for row in rows if row.defense] or rows
    undefended = next((row for row in rows if not row.defense), None)
    across = min(4, len(defended))
    down = math.ceil(len(defended) / across)
    width, height = max(8.9 / max(across, 3), 2.2), 1.75
    figure = Figure(figsize=(0.75 + width * across, 0.75 + (height + 0.5) * down))
    budgets = sorted({budget for row in rows for budget in _points(row)[0]})
    limits = [100 * limit for row in rows for i in _points(row)[1] for limit in (i.low, i.high)]
    floor = findings.zero_query_baseline(threat)
    limits += [100 * floor.interval.value] if floor else []
    for place, row in enumerate(defended):
        line, column = divmod(place, across)
        bottom = 0.5 + (height + 0.5) * (down - 1 - line)
        axes = place_axes(figure, 0.65 + width * column, bottom, width - 0.2, height)
        _panel(axes, findings, floor, row, undefended if row.defense else None)
        axes.set(xlim=(budgets[0] / 1.2, budgets[-1] * 1.2), ylim=(min(limits) - 1, max(limits) + 1))
        axes.xaxis.set_major_locator(FixedLocator(_apart(budgets)))
        lowest = place + across >= len(defended)
        axes.tick_params(labelleft=column == 0, labelbottom=lowest, labelsize=8)
    figure.text(0.5, 0.01, "queries (log scale)", ha="center", va="bottom")
    kinds: dict[str, Any] = {
        "with the defense": (BLUE, "-"),
        "no defense": (GREY, "--"),
        "no query at all": (GREY, ":"),
    }
    lines = [
        Line2D([], [], color=colour, linestyle=style, label=label) for label, (colour, style) in kinds.items()
    ]
    figure.legend(handles=lines[: 3 if floor else 2], loc="upper right", ncols=3, frameon=False, fontsize=8.5)
    figure.text(0.005, 0.5, "fidelity of the best attack (%)", rotation=90, va="center", ha="left")
    return figure


def _apart(budgets: Sequence[int]) -> list[int]:
    """Return the budgets whose labels do not touch on a log axis, the largest among them."""
    kept: list[int] = []
    for budget in sorted(budgets, reverse=True):
        if not kept or math.log(kept[-1] / budget) > 0.16 * math.log(max(budgets) / min(budgets)):
            kept.append(budget)
    return kept[::-1]


def _panel(
    axes: Axes, findings: Findings, floor: BestAttack | None, row: DefenseResult, other: DefenseResult | None
) -> None:
    if floor:
        axes.axhline(100 * floor.interval.value, color=GREY, linewidth=1, linestyle=":")
    # The dashes last: where both agree, they show on the line.
    for shown, colour, style in ((row, BLUE if row.defense else GREY, "-"), (other, GREY, "--")):
        if shown is not None:
            budgets, intervals = _points(shown)
            low, high = (
                [100 * limit for limit in each]
                for each in zip(*((i.low, i.high) for i in intervals), strict=True)
            )
            axes.fill_between(budgets, low, high, color=colour, alpha=0.2, linewidth=0)
            values = [100 * interval.value for interval in intervals]
            axes.plot(
                budgets, values, color=colour, marker="o", markersize=3.5, linewidth=1.5, linestyle=style
            )
    axes.set_title(defense_label(findings, row.defense), loc="left", pad=3)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")


def heatmap(findings: Findings, numbers: Mapping[VictimThreatModel, int]) -> Figure | None:
    """Draw one victim's strongest fidelity: defenses down, threat models and budgets across."""
    cells = {
        (row.defense, threat, budget): 100 * interval.value
        for threat in numbers
        for row in findings.rows[threat]
        for budget, interval in zip(*_points(row), strict=True)
    }
    if not cells:
        return None
    means = {defense: [v for (d, _, _), v in cells.items() if d == defense] for defense, _, _ in cells}
    order = sorted(means, key=lambda d: (d != UNDEFENDED, float(np.mean(means[d])), d))
    names = [defense_label(findings, defense) for defense in order]
    bands = _bands(findings, list(numbers))
    columns = max(sum(len(budgets) + 0.3 for _, budgets in band) - 0.3 for band in bands)
    left = 0.2 + 0.078 * max(len(line) for name in names for line in name.split("\n"))
    height = (0.31 if any("\n" in name for name in names) else 0.27) * len(order)
    figure = Figure(figsize=(left + 0.54 * columns + 0.1, len(bands) * (height + 0.65) + 0.2))
    colours = mpl.colormaps["cividis"]
    norm = mpl.colors.Normalize(min(cells.values()) - 1, max(cells.values()) + 1)
    for place, band in enumerate(bands):
        bottom = 0.45 + (len(bands) - 1 - place) * (height + 0.65)
        axes = place_axes(figure, left, bottom, 0.54 * columns, height)
        ticks: dict[float, str] = {}
        start = 0.0
        for threat, budgets in band:
            for (x, budget), (y, defense) in product(enumerate(budgets), enumerate(order)):
                _tile(axes, start + x, y, cells.get((defense, threat, budget)), colours, norm)
            ticks |= {start + x: f"{budget:,}" for x, budget in enumerate(budgets)}
            axes.text(start - 0.45, -0.65, f"T{numbers[threat]}", fontweight="bold", va="bottom")
            start += len(budgets) + 0.3
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(order) - 0.5, -0.5))
        axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.set_yticks(range(len(order)), names, fontsize=8, linespacing=0.95)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    middle = (left + 0.27 * columns) / figure.get_figwidth()
    figure.text(middle, 0.01, "queries", ha="center", va="bottom")
    return figure


def _bands(
    findings: Findings, threats: Sequence[VictimThreatModel], width: int = 13
) -> list[list[tuple[VictimThreatModel, list[int]]]]:
    """Lay threat models side by side until a band is ``width`` columns wide, then start the next."""
    bands: list[list[tuple[VictimThreatModel, list[int]]]] = [[]]
    for threat in threats:
        budgets = sorted({b for each in findings.conditions[threat].values() for b in each})
        if bands[-1] and sum(len(taken) for _, taken in bands[-1]) + len(budgets) > width:
            bands.append([])
        bands[-1].append((threat, budgets))
    return bands


def _tile(axes: Axes, x: float, y: int, value: float | None, colours: Any, norm: Any) -> None:
    if value is None:
        axes.text(x, y, "-", ha="center", va="center", fontsize=8)
        return
    red, green, blue, _ = colours(norm(value))
    light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.46
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=(red, green, blue), linewidth=0))
    axes.text(
        x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color="#111111" if light else "#f5f5f5"
    )
