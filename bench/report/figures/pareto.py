"""Draws utility loss against fidelity of the best attack, one panel per measure, with Pareto fronts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bench.analysis.findings import Findings
from bench.analysis.pareto import PAYS, Cost, Point, defense_names, panels, strength_range
from bench.analysis.threat_models import VictimThreatModel
from bench.report.figures.label_placement import name_points
from bench.report.figures.style import GREY, defense_label, place_axes

COLOURS = ("#3d8fd1", "#d07a28", "#3c9d5b", "#cf5350", "#9470d0", "#1f9d95", "#c9609a", "#94932f")
"""Have about the same contrast, 3 to 4, against a white and a near-black page."""
MARKERS = "os^DvPX<>"
LEFT = 0.9
"""Inches for the axis and a label of two lines."""
LINE = 0.165
"""Height of a line of the key, in inches."""
TOGETHER = 3
"""At most this many numbers label points that coincide; the number of the others follows."""
WIDE = 20
"""From this ratio of the largest cost to the smallest on, costs are on a square-root scale."""


def pareto(findings: Findings, threat: VictimThreatModel) -> Figure | None:
    """Draw one threat model's panels; None where nothing is paid or nothing can be compared.

    Front: a step line through the defenses that no other dominates. Dominated ones are grey, flagged
    ones hollow. The members of a family share a marker, and a thin line runs through them by cost.
    """
    drawn = panels(findings, threat)
    if not drawn:
        return None
    budget = findings.summary_budgets(threat)[0]
    floor = findings.zero_query_baseline(threat)
    told = {p.number: p for points in drawn.values() for p in points}
    groups = {cost: _labelled(points) for cost, points in drawn.items()}
    key = sorted({p.number for each in groups.values() for group in each for p in group[:TOGETHER]})
    entries = _columns([(told[place], _said(findings, told[place])) for place in key])
    across = min(2, len(drawn))
    down = math.ceil(len(drawn) / across)
    width, height = 4.35, 2.75 if down > 1 else 3.3
    below = LINE * max(map(_depth, entries)) + 0.15
    figure = Figure(figsize=(LEFT + (width + 0.2) * across, below + (height + 0.62) * down))
    looks = _looks(findings)
    for place, (cost, points) in enumerate(drawn.items()):
        row, column = divmod(place, across)
        bottom = below + 0.5 + (height + 0.62) * (down - 1 - row)
        axes = place_axes(figure, LEFT + (width + 0.2) * column, bottom, width, height)
        _panel(axes, cost, points, looks)
        if floor:
            axes.axhline(100 * floor.interval.value, color=GREY, linewidth=1, linestyle=":", zorder=0.5)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel(f"fidelity of the best attack\nat {budget:,} queries (%)")
    _share_height(figure.axes)
    for axes, (cost, points) in zip(figure.axes, drawn.items(), strict=True):
        _step(axes, points)
        _name(axes, groups[cost])
    for column, listed in enumerate(entries):
        _key(figure, 0.35 + 4.85 * column, below - 0.1, listed, looks)
    return figure


def _labelled(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points that are named: no defense, the front, and the end of each path that pays.

    Those that lie on one another share a name, the front's first.
    """
    ordered = sorted(points, key=lambda p: (p.cost, p.number))
    ends = {strength_range(p.row.defense): p.number for p in ordered if p.cost > PAYS}
    kept = [p for p in points if not p.dominated or not p.row.defense or p.number in ends.values()]
    span = max(p.cost for p in points) - min(p.cost for p in points)
    groups: list[list[Point]] = []
    for point in sorted(kept, key=lambda p: (p.dominated, p.number)):
        for group in groups:
            aside, above = (
                abs(point.cost - group[0].cost),
                abs(point.fidelity.value - group[0].fidelity.value),
            )
            if aside <= 0.002 * span and above <= 0.002:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def _name(axes: Axes, groups: Sequence[Sequence[Point]]) -> None:
    """Write the numbers of points beside them."""
    others = []
    for group in groups:
        tag = ", ".join(str(p.number) for p in group[:TOGETHER])
        tag += f" +{len(group) - TOGETHER}" if len(group) > TOGETHER else ""
        x, y = group[0].cost, 100 * group[0].fidelity.value
        if group[0].dominated:
            others.append((x, y, tag))
        else:
            # Nothing lies below and left of the front, where a long tag would run into the axis.
            side = 1 if len(tag) > 2 else -1
            aligned = "left" if side > 0 else "right"
            axes.annotate(
                tag,
                (x, y),
                xytext=(3.5 * side, -3),
                textcoords="offset points",
                ha=aligned,
                va="top",
                fontsize=8,
            )
    name_points(axes, others)


Look = tuple[str, str]
"""Colour and marker."""


def _looks(findings: Findings) -> dict[str, Look]:
    """Return a colour and a marker for each family, the same in all figures of a report."""
    families = sorted({defense_names(defense) for _, defense in findings.evaluations if defense})
    looks = {
        each: (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, each in enumerate(families)
    }
    return looks | {"none": (GREY, "o")}


def _panel(axes: Axes, cost: Cost, points: Sequence[Point], looks: Mapping[str, Look]) -> None:
    paths: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda p: (p.cost, p.number)):
        paths[strength_range(point.row.defense)].append(point)
    for own in paths.values():
        look = looks[defense_names(own[0].row.defense)]
        line = [[p.cost for p in own], [100 * p.fidelity.value for p in own]]
        axes.plot(*line, color=look[0], linewidth=0.8, alpha=0.4, zorder=1)
        for point in own:
            _mark(axes, point, look)
    label = cost.label
    if _spread(points):
        axes.set_xscale("function", functions=(_signed_root, _signed_square))
        label += " (square-root scale)"
    axes.set_xlabel(label)
    axes.margins(x=0.08, y=0.08)
    axes.autoscale_view()
    if _spread(points):
        axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid()


def _mark(axes: Axes, point: Point, look: Look) -> None:
    """Draw one defense's interval and point."""
    colour, marker = (GREY if point.dominated else look[0]), look[1]
    low, value, high = (
        100 * part for part in (point.fidelity.low, point.fidelity.value, point.fidelity.high)
    )
    strength = 0.18 if point.dominated else 0.5
    axes.plot([point.cost] * 2, [low, high], color=colour, alpha=strength, linewidth=1.2, zorder=1)
    # No defense is a wider ring, so that it shows around a defense in the same place.
    size = 5.5 if point.row.defense else 8.5
    face = "none" if point.warnings or not point.row.defense else colour
    axes.plot(
        [point.cost],
        [value],
        marker,
        color=colour,
        markerfacecolor=face,
        markersize=size,
        alpha=0.6 if point.dominated else 1,
        zorder=2 if point.dominated else 3,
    )


def _step(axes: Axes, points: Sequence[Point]) -> None:
    """Draw what can be had for each cost: the lowest fidelity of all that cost no more."""
    front = sorted({(p.cost, 100 * p.fidelity.value) for p in points if not p.dominated})
    right = axes.get_xlim()[1]
    costs, fidelities = zip(*front, (right, front[-1][1]), strict=True)
    axes.step(costs, fidelities, where="post", color=GREY, linewidth=1.1, alpha=0.8, zorder=1.5)
    axes.set_xlim(axes.get_xlim()[0], right)


def _share_height(panels: Sequence[Axes]) -> None:
    low, high = (
        choose(limits)
        for choose, limits in zip((min, max), zip(*(a.get_ylim() for a in panels), strict=True), strict=True)
    )
    for axes in panels:
        axes.set_ylim(low, high)


def _spread(points: Sequence[Point]) -> bool:
    sizes = [abs(p.cost) for p in points if abs(p.cost) > 0]
    return bool(sizes) and max(sizes) > WIDE * min(sizes)


def _signed_root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(values) * np.square(values)


def _ticks(low: float, high: float) -> list[float]:
    """Return round costs that do not touch on a square-root scale, 0 among them."""
    top = max(abs(low), abs(high))
    sizes = [base * 10.0**power for power in range(math.floor(math.log10(top)), -7, -1) for base in (3, 1)]
    room = 0.11 * float(np.ptp(_signed_root(np.array([low, high]))))
    kept = [0.0]
    for size in (sign * size for size in sizes for sign in (1, -1)):
        at = _signed_root(np.array([size, *kept]))
        if low <= size <= high and np.abs(at[1:] - at[0]).min() > room:
            kept.append(size)
    return sorted(kept)


def _said(findings: Findings, point: Point) -> str:
    name = defense_label(findings, point.row.defense, 52)
    return f"{name}  {point.warnings}" if point.warnings else name


Entry = tuple[Point, str]


def _depth(entries: Sequence[Entry]) -> int:
    return sum(text.count("\n") + 1 for _, text in entries)


def _columns(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Split a key into two columns of about the same height."""
    half = math.ceil(_depth(entries) / 2)
    left = [entry for place, entry in enumerate(entries) if _depth(entries[: place + 1]) <= half]
    return [column for column in (left, list(entries[len(left) :])) if column]


def _key(
    figure: Figure, left: float, top: float, entries: Sequence[Entry], looks: Mapping[str, Look]
) -> None:
    """Write numbers and names under each other, from ``left`` and ``top`` in inches."""
    across, down = figure.get_size_inches()
    for point, text in entries:
        colour, marker = looks[defense_names(point.row.defense)]
        face = "none" if point.warnings or not point.row.defense else colour
        mark = Line2D([left / across], [(top - 0.08) / down], marker=marker, markersize=5, color=colour)
        mark.set_markerfacecolor(face)
        figure.add_artist(mark)
        figure.text((left + 0.3) / across, (top - 0.12) / down, str(point.number), fontsize=7.5, ha="right")
        for line in text.split("\n"):
            figure.text((left + 0.36) / across, (top - 0.12) / down, line, fontsize=7.5)
            top -= LINE
