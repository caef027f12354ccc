"""The figures of studies and of membership inference, in the look of those of extraction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bench.analysis.study_results import Value
from bench.report.figures.style import BLUE, GREY, STYLE, place_axes

LINES = (
    *((BLUE, "-"), ("#c9772b", "--"), ("#4f9a55", "-."), ("#a568c4", (0, (5, 1, 1, 1, 1, 1)))),
    *(("#c25a63", "-"), ("#2f9a9a", "--"), (GREY, "-."), ("#8f8a2e", (0, (3, 1)))),
)
"""Colours of like contrast on light and dark pages, each with a dash of its own for print."""
AXIS_LABELS = {"%": "%", "s": "seconds", "": "value"}
"""What the axis of a unit says."""
WIDTH = 9.6
"""Of a figure, in inches."""


def _wrapped(text: str, width: int) -> str:
    return "\n".join(wrap(text, width, break_long_words=False, break_on_hyphens=False))


@mpl.rc_context(STYLE)
def beside(values: Sequence[Value], *, without_published: bool = False) -> Figure | None:
    """Draw published beside measured, a row each, a panel for every unit; None if nothing was published.

    ``without_published``: draw it all the same, of what was measured. None if there is nothing to draw.
    Bars are the intervals; of seconds, minimum and maximum around the median.
    """
    shown = [value for value in values if value.status == "ok" or value.row.published is not None]
    published = any(value.row.published is not None for value in shown)
    if not shown or not (published or without_published):
        return None
    units = {
        unit: [v for v in shown if v.row.unit == unit] for unit in dict.fromkeys(v.row.unit for v in shown)
    }
    names = {value.row.id: _wrapped(value.row.label, 44) for value in shown}
    heights = {
        unit: [0.17 + 0.135 * (names[v.row.id].count("\n") + 1) for v in own] for unit, own in units.items()
    }
    left = 0.25 + 0.073 * max(len(line) for name in names.values() for line in name.split("\n"))
    figure = Figure(figsize=(WIDTH, 0.4 + sum(sum(each) + 0.62 for each in heights.values())))
    top = figure.get_figheight() - 0.4
    for unit, own in units.items():
        axes = place_axes(figure, left, top - sum(heights[unit]), WIDTH - left - 0.25, sum(heights[unit]))
        _dots(axes, own, heights[unit])
        axes.set_yticks(axes.get_yticks(), [names[value.row.id] for value in own], fontsize=8.5)
        axes.set_xlabel(AXIS_LABELS[unit], labelpad=2)
        top -= sum(heights[unit]) + 0.62
    bars = ["95 % interval"] * ("%" in units or "" in units) + ["minimum to maximum"] * ("s" in units)
    diamond = Line2D(
        [],
        [],
        color=GREY,
        marker="D",
        markersize=6.5,
        markeredgewidth=0,
        linestyle="",
        label="published",
    )
    dot = Line2D(
        [],
        [],
        color=BLUE,
        marker="o",
        markersize=5,
        linewidth=1.6,
        label=f"measured here, {' or '.join(bars)}",
    )
    figure.legend(
        handles=[diamond, dot] if published else [dot],
        loc="upper right",
        ncols=2,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def _dots(axes: Axes, values: Sequence[Value], heights: Sequence[float]) -> None:
    """Draw the rows of one unit from the top down; y ticks are left at the rows."""
    edges = np.concatenate([[0.0], np.cumsum(heights)])
    middles = [float(y) for y in (edges[:-1] + edges[1:]) / 2]
    numbers: list[float] = []
    for value, y in zip(values, middles, strict=True):
        scale, printed = (100 if value.row.unit == "%" else 1), value.row.published
        measured = [scale * part for part in (value.interval.value, value.interval.low, value.interval.high)]
        if printed is not None and value.status == "ok":
            axes.plot([printed, measured[0]], [y, y], color=GREY, linewidth=0.8, linestyle=":")
        if printed is not None:
            # First and larger: where both agree, both can be seen.
            axes.plot([printed], [y], "D", color=GREY, markersize=7.5, markeredgewidth=0)
            numbers.append(float(printed))
        if value.status == "ok":
            axes.plot(measured[1:], [y, y], color=BLUE, linewidth=1.8, solid_capstyle="butt")
            axes.plot(measured[:1], [y], "o", color=BLUE, markersize=5)
        numbers += [part for part in measured if not math.isnan(part)]
    low, high = min(numbers), max(numbers)
    spare = 0.04 * ((high - low) or abs(high) or 1)
    axes.set(xlim=(0 if values[0].row.unit == "s" else low - spare, high + spare), ylim=(float(edges[-1]), 0))
    axes.set_yticks(middles)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="x")


@mpl.rc_context(STYLE)
def confusion(matrices: Mapping[str, NDArray[np.int64]]) -> Figure | None:
    """Draw confusion matrices by title: (classes, classes) counts, truth down, the copy's label across.

    Correct answers lie on the grey diagonal; the darker a tile beside it, the more such mistakes.
    """
    if not matrices:
        return None
    cell, across = 0.395, min(2, len(matrices))
    classes = max(len(counts) for counts in matrices.values())
    size = cell * classes
    titles = {name: _wrapped(name, int(size / 0.075)) for name in matrices}
    head = 0.15 + 0.15 * max(title.count("\n") + 1 for title in titles.values())
    down = math.ceil(len(matrices) / across)
    figure = Figure(figsize=(across * (size + 0.65) + 0.1, down * (size + head + 0.5)))
    most = max([1, *(int((counts - np.diag(np.diag(counts))).max()) for counts in matrices.values())])
    for place, (name, counts) in enumerate(matrices.items()):
        line, column = divmod(place, across)
        bottom = 0.45 + (down - 1 - line) * (size + head + 0.5)
        axes = place_axes(figure, 0.55 + column * (size + 0.65), bottom, size, size)
        for row, guess in product(range(len(counts)), repeat=2):
            _count(axes, row, guess, int(counts[row, guess]), most)
        axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5))
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        axes.tick_params(length=0, labelsize=8)
        axes.set_xlabel("label by the surrogate", labelpad=2)
        axes.set_ylabel("truth", labelpad=2)
        axes.set_title(titles[name], loc="left", pad=4)
        axes.spines[:].set_visible(False)
    return figure


def _count(axes: Axes, row: int, guess: int, count: int, most: int) -> None:
    if not count:
        return
    # Mistakes are spread over decades; their root keeps the rare ones visible.
    share = math.sqrt(count / most)
    pale, dark = np.array([0.86, 0.91, 0.96]), np.array([0.06, 0.30, 0.55])
    colour = tuple(float(part) for part in pale + share * (dark - pale)) if row != guess else "#c4c7cb"
    ink = "#f5f5f5" if row != guess and share > 0.68 else "#111111"
    axes.add_patch(Rectangle((guess - 0.48, row - 0.48), 0.96, 0.96, facecolor=colour, linewidth=0))
    axes.text(guess, row, f"{count}", ha="center", va="center", fontsize=7, color=ink)


@mpl.rc_context(STYLE)
def roc(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure | None:
    """Draw ROC curves by name on log axes: (false, true) positive rates, both in [0, 1]."""
    drawn = {name: [(x, y) for x, y in points if x > 0] for name, points in curves.items()}
    drawn = {name: points for name, points in drawn.items() if any(y > 0 for _, y in points)}
    if not drawn:
        return None
    names = {name: _wrapped(name, 52) for name in drawn}
    figure = Figure(figsize=(WIDTH, 4.3))
    axes = place_axes(figure, 0.65, 0.5, 4.4, 3.7)
    start = min(x for points in drawn.values() for x, _ in points)
    axes.plot([start, 1], [start, 1], color=GREY, linewidth=1, linestyle=":", label="guessing")
    floor = start
    for (name, points), (colour, dash) in zip(drawn.items(), LINES, strict=False):
        seen = [(x, y) for x, y in points if y > 0]
        axes.plot(*zip(*seen, strict=True), color=colour, linestyle=dash, linewidth=1.6, label=names[name])
        floor = min(floor, *(y for _, y in seen))
    axes.set(xscale="log", yscale="log", xlim=(start, 1), ylim=(floor, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([10.0**power for power in range(-6, 1)]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.4g}"))
    axes.grid()
    axes.set_xlabel("non-members taken for members (%)")
    axes.set_ylabel("members found (%)")
    figure.legend(loc="upper left", bbox_to_anchor=(5.2 / WIDTH, 0.98), frameon=False, fontsize=8.5)
    return figure
