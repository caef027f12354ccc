"""The report's figures: SVG on a transparent ground, in colours that light and dark pages both carry.

Layout is in inches, at most ten wide, so that text has one size in all of them on a page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.stats import Interval, Strongest
from bench.store import Record
from bench.tags import name_points
from bench.threats import UNDEFENDED, Defense, Threat
from bench.verdict import Findings, Row

GREY = "#767b83"
"""Has about the same contrast, 4.3, against a white and a near-black page."""
BLUE = "#3d8fd1"
"""Told from grey by every kind of colour vision, and from both pages."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moatbench",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 9,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": GREY,
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
}


def draw(findings: Findings, numbers: Mapping[Threat, int], folder: Path) -> dict[str, str]:
    """Draw every figure of the report into ``folder``, in place of those of an earlier report.

    ``numbers``: the number that each threat model has in the report. Returns paths relative to the
    report by name: ``T1-curves``, ``T1-costs``, ``heatmap-1`` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("T[0-9]*-c*.svg"), *folder.glob("heatmap-[0-9]*.svg")]:
        old.unlink()
    drawn: dict[str, Figure | None] = {}
    with mpl.rc_context(STYLE):
        for threat, number in numbers.items():
            drawn[f"T{number}-curves"] = curves(findings, threat)
            drawn[f"T{number}-costs"] = costs(findings, threat)
        for place, victim in enumerate(dict.fromkeys(threat.victim for threat in numbers), start=1):
            own = {threat: number for threat, number in numbers.items() if threat.victim == victim}
            drawn[f"heatmap-{place}"] = heatmap(findings, own)
        for name, figure in drawn.items():
            if figure is not None:
                figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
    return {name: f"{folder.name}/{name}.svg" for name, figure in drawn.items() if figure is not None}


def _name(findings: Findings, defense: Defense, width: int = 30) -> str:
    """Return the defense's name for a figure, a long one on several lines."""
    if not defense:
        return "no defense"
    lines: list[str] = []
    for member in defense:
        name = findings.defense_name((member,)).replace(", …)", ")")
        if lines and len(lines[-1]) + len(name) + 3 <= width:
            lines[-1] += f" + {name}"
        else:
            lines.append(f"+ {name}" if lines else name)
    return "\n".join(
        part for line in lines for part in wrap(line, width, subsequent_indent="  ", break_long_words=False)
    )


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / down, width / across, height / down))


def _points(row: Row) -> tuple[list[int], list[Interval]]:
    known = [(budget, standing.best.interval) for budget, standing in row.standings.items() if standing.best]
    return [budget for budget, _ in known], [interval for _, interval in known]


def curves(findings: Findings, threat: Threat) -> Figure | None:
    """Draw fidelity of the strongest attacker against budget: a panel a defense, each beside none."""
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
    floor = findings.floor(threat)
    limits += [100 * floor.interval.value] if floor else []
    for place, row in enumerate(defended):
        line, column = divmod(place, across)
        bottom = 0.5 + (height + 0.5) * (down - 1 - line)
        axes = _place(figure, 0.65 + width * column, bottom, width - 0.2, height)
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
    figure.text(0.005, 0.5, "fidelity of the strongest attacker (%)", rotation=90, va="center", ha="left")
    return figure


def _apart(budgets: Sequence[int]) -> list[int]:
    """Return the budgets whose labels do not touch on a log axis, the largest among them."""
    kept: list[int] = []
    for budget in sorted(budgets, reverse=True):
        if not kept or math.log(kept[-1] / budget) > 0.16 * math.log(max(budgets) / min(budgets)):
            kept.append(budget)
    return kept[::-1]


def _panel(axes: Axes, findings: Findings, floor: Strongest | None, row: Row, other: Row | None) -> None:
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
    axes.set_title(_name(findings, row.defense), loc="left", pad=3)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")


def heatmap(findings: Findings, numbers: Mapping[Threat, int]) -> Figure | None:
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
    names = [_name(findings, defense) for defense in order]
    bands = _bands(findings, list(numbers))
    columns = max(sum(len(budgets) + 0.3 for _, budgets in band) - 0.3 for band in bands)
    left = 0.2 + 0.078 * max(len(line) for name in names for line in name.split("\n"))
    height = (0.31 if any("\n" in name for name in names) else 0.27) * len(order)
    figure = Figure(figsize=(left + 0.54 * columns + 0.1, len(bands) * (height + 0.65) + 0.2))
    colours = mpl.colormaps["cividis"]
    norm = mpl.colors.Normalize(min(cells.values()) - 1, max(cells.values()) + 1)
    for place, band in enumerate(bands):
        bottom = 0.45 + (len(bands) - 1 - place) * (height + 0.65)
        axes = _place(figure, left, bottom, 0.54 * columns, height)
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
    findings: Findings, threats: Sequence[Threat], width: int = 13
) -> list[list[tuple[Threat, list[int]]]]:
    """Lay threat models side by side until a band is ``width`` columns wide, then start the next."""
    bands: list[list[tuple[Threat, list[int]]]] = [[]]
    for threat in threats:
        budgets = sorted({b for each in findings.places[threat].values() for b in each})
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


def costs(findings: Findings, threat: Threat) -> Figure | None:
    """Draw what honest users pay against the strongest attacker's fidelity at the first headline budget.

    Filled: the defense lowers fidelity by an amount told from zero. Many defenses go by numbers.
    """
    budget = (findings.headline(threat) or [0])[0]
    paid: list[tuple[str, Callable[[Record], float | None]]] = [
        ("mean L1 of honest answers", lambda audit: audit.metrics.get("honest.l1_mean")),
        ("accuracy that honest users lose (points)", _points_lost),
    ]
    rows = [row for row in findings.rows[threat] if budget in _points(row)[0] and row.audit]
    if len(rows) < 2:
        return None
    numbered = len(rows) > 6
    names = [_name(findings, row.defense) for row in rows]
    tags = [str(place) for place in range(len(rows))] if numbered else names
    key = 0.165 * sum(name.count("\n") + 1 for name in names) + 0.2 if numbered else 0
    figure = Figure(figsize=(9.8, max(3.6, key)))
    width = 3.35 if numbered else 4.4
    for column, (label, cost) in enumerate(paid):
        axes = _place(figure, 0.75 + column * (width + 0.2), 0.5, width, figure.get_figheight() - 0.6)
        points: list[tuple[float, float, str]] = []
        for row, tag in zip(rows, tags, strict=True):
            x = cost(row.audit) if row.audit else None
            if x is not None:
                points.append((x, _mark(axes, x, row, budget), tag))
        axes.set_xlabel(label)
        axes.tick_params(labelleft=column == 0)
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.14, y=0.08)
        name_points(axes, points)
    figure.axes[0].set_ylabel(f"fidelity of the strongest attacker\nat {budget:,} queries (%)")
    if numbered:
        step, top, lines = 0.165 / figure.get_figheight(), 1 - 0.1 / figure.get_figheight(), 0
        for tag, name in zip(tags, names, strict=True):
            figure.text(0.806, top - step * lines, tag, fontsize=7.5, va="top", ha="right")
            figure.text(0.812, top - step * lines, name, fontsize=7.5, va="top", linespacing=1.15)
            lines += 1 + name.count("\n")
    return figure


def _mark(axes: Axes, x: float, row: Row, budget: int) -> float:
    """Draw one defense's interval and point; return how high the point is."""
    interval = dict(zip(*_points(row), strict=True))[budget]
    gap = row.standings[budget].gap
    told = gap is not None and gap.low > 0
    colour = BLUE if row.defense else GREY
    axes.plot([x, x], [100 * interval.low, 100 * interval.high], color=colour, alpha=0.35, linewidth=1.2)
    face = colour if told else "none"
    # No defense is a wider ring, so that it shows around a defense in the same place.
    size = 5.5 if row.defense else 8
    axes.plot([x], [100 * interval.value], "o", color=colour, markerfacecolor=face, markersize=size)
    return 100 * interval.value


def _points_lost(audit: Record) -> float | None:
    lost = audit.metrics.get("honest.accuracy_lost")
    return None if lost is None else 100 * lost
