"""The figures of a victim's page: reductions, fidelity against budget, utility loss against protection.

SVG on a transparent ground, in colours that light and dark pages both carry; layout in inches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.analysis.interval_text import in_table
from bench.analysis.threat_models import UNDEFENDED, Defense
from bench.analysis.verdicts import Criterion, DefenseVerdict, Recommendation, VictimRecommendations
from bench.metrics.intervals import Interval
from bench.report.context import ReportContext
from bench.report.figures.label_placement import name_points
from bench.report.figures.style import BLUE, GREY, STYLE, defense_label, place_axes, save
from bench.report.markdown import plain

ORANGE = "#d07a28"
COLOURS = (BLUE, ORANGE, "#1f9d95", "#c9609a", "#94932f", "#9470d0")
"""Of lines: like contrast against white and near-black, told apart by all kinds of colour vision."""
MARKERS = "osD^vP"
WIDTH = 9.0
"""Of a figure, in inches: GitHub shows it at its own size."""
COST_CAPTION = (
    "Blue: eligible, hollow where only for users who need less. Orange: not eligible. Grey: not in the table."
    " Shaded: users can afford it, and it helps."
)
FAR = 3.0
"""A value more than this many times the next one is an outlier: the axis is cut before it."""


def draw(
    context: ReportContext, found: VictimRecommendations, rows: Sequence[DefenseVerdict], prefix: str
) -> list[str]:
    """Draw the figures of one victim in the order of the page's ``rows``; return the Markdown with them.

    ``prefix``: of the names of their files.
    """
    if context.folder is None:
        return []
    rec, figures = found.strongest, []
    shown = _compared(context, found, rows)
    for name, figure, text, caption in (
        ("reduction", reduction(context, shown), _said(context, shown), ""),
        (
            "budget",
            budget(context, rec, rows),
            "Fidelity of the best attack by number of queries, a line a defense",
            "Fidelity of the best attack by number of queries. Thin lines: defenses not in the table.",
        ),
        (
            "cost",
            cost(context, rec, rows),
            "What users lose with each defense against its fidelity reduction",
            COST_CAPTION,
        ),
    ):
        path = save(figure, context.folder, prefix + name)
        parts = [f"![{text}]({path})", f"*{caption}*" if caption else ""]
        figures += ["\n\n".join(filter(None, parts))] if path else []
    return figures


@dataclass(frozen=True)
class Compared:
    """A defense's reduction under attackers that adapt and under others, fractions; None: not measured."""

    defense: Defense
    adaptive: Interval | None
    other: Interval | None
    recommended: bool


def _compared(
    context: ReportContext, found: VictimRecommendations, rows: Sequence[DefenseVerdict]
) -> list[Compared]:
    """Return what the first figure shows.

    Where no attacker was told of a defense, all that is known is what the others get.
    """
    rec = found.strongest
    weaker: dict[Defense, Interval] = {}
    if found.non_adaptive is not None and found.non_adaptive.budget == rec.budget:
        weaker = {r.defense: r.reduction.interval for r in found.non_adaptive.rows if r.reduction}
    compared = []
    for row in rows:
        if row.defense and row.reduction:
            own, told = row.reduction.interval, _told(context, rec, row.defense)
            other = weaker.get(row.defense) or _non_adaptive(context, rec, row.defense) if told else own
            chosen = row.conclusion == "recommended"
            compared.append(Compared(row.defense, own if told else None, other, chosen))
    return compared


def _told(context: ReportContext, rec: Recommendation, defense: Defense) -> bool:
    """Return whether an attack that was told of the defense was run against it."""
    return any(
        source.knowledge != "none" and (source, defense, rec.budget) in context.findings.raw_results
        for source in (rec.threat, *rec.threat.weaker())
    )


def _non_adaptive(context: ReportContext, rec: Recommendation, defense: Defense) -> Interval | None:
    own = (row for row in context.findings.rows.get(rec.threat, []) if row.defense == defense)
    result = next((row.results.get(rec.budget) for row in own), None)
    return result.non_adaptive.reduction if result and result.non_adaptive else None


def _said(context: ReportContext, shown: Sequence[Compared]) -> str:
    adapt = any(each.adaptive for each in shown)
    parts = []
    for each in shown:
        values = [in_table(interval) for interval in (each.adaptive, each.other) if interval is not None]
        if adapt and each.adaptive is None:
            values.insert(0, "not run")
        parts.append(f"{plain(context.findings.defense_name(each.defense))} {' and '.join(values)}")
    kinds = "attackers who adapt and who do not" if adapt else "attackers"
    return f"Fidelity reduction in pp by defense under {kinds}: {'; '.join(parts)}"


@mpl.rc_context(STYLE)
def reduction(context: ReportContext, shown: Sequence[Compared]) -> Figure | None:
    """Draw the reductions with their intervals, a row a defense; None without any."""
    if not shown:
        return None
    names = [defense_label(context.findings, each.defense, 34) for each in shown]
    left = 0.25 + 0.073 * max(len(line) for name in names for line in name.split("\n"))
    heights = [0.3 + 0.14 * name.count("\n") for name in names]
    figure = Figure(figsize=(WIDTH, 0.95 + sum(heights)))
    axes = place_axes(figure, left, 0.5, WIDTH - left - 0.95, sum(heights))
    intervals = [i for each in shown for i in (each.adaptive, each.other) if i is not None]
    low, high = _limits(intervals)
    axes.set(xlim=(low, high), ylim=(sum(heights), 0))
    middles = []
    edge = 0.0
    for each, height in zip(shown, heights, strict=True):
        middle = edge + height / 2
        both = each.adaptive is not None and each.other is not None
        for interval, colour, marker, shift in (
            (each.other, ORANGE, "D", 0.065 if both else 0),
            (each.adaptive, BLUE, "o", -0.065 if both else 0),
        ):
            if interval is not None:
                _dot(axes, interval, middle + shift, colour, marker)
        middles.append(middle)
        edge += height
    axes.set_yticks(middles, names, fontsize=9)
    for label, each in zip(axes.get_yticklabels(), shown, strict=True):
        if each.recommended:
            label.set(fontweight="bold", color=BLUE)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.set_xlabel(
        "fidelity reduction (percentage points, 95 % interval): further right protects more", labelpad=3
    )
    _mark_cuts(axes, intervals)
    top = 1 - 0.16 / figure.get_figheight()
    at = left / WIDTH
    if any(each.adaptive is not None for each in shown):
        figure.text(at, top, "● attackers who adapt to the defense", color=BLUE, va="center")
        at += 2.85 / WIDTH
    if any(each.other is not None for each in shown):
        figure.text(at, top, "◆ attackers who do not adapt", color=ORANGE, va="center")
    return figure


def _limits(intervals: Iterable[Interval]) -> tuple[float, float]:
    """Return the axis' limits in pp: all intervals, but for outliers, beyond which the axis is cut."""
    every = list(intervals)
    most = max(1.0, cut([100 * interval.value for interval in every]))
    kept = [interval for interval in every if 100 * interval.value <= most]
    # Wide intervals are cut, too, rather than squash the dots.
    high = min(max([most, *(100 * _finite(i.high, i.value) for i in kept)]), 2.5 * most)
    low = max(min([0.0, *(100 * _finite(i.low, i.value) for i in kept)]), -0.6 * high)
    room = 0.04 * (high - low)
    return low - room, high + room


def cut(values: Sequence[float], least: float = 5.0) -> float:
    """Return the largest value that is shown: those above :data:`FAR` times the next smaller are cut off.

    Next to smaller values than ``least`` nothing is an outlier below :data:`FAR` times that.
    """
    ordered = sorted((value for value in values if value > 0), reverse=True)
    while len(ordered) > 1 and ordered[0] > FAR * max(ordered[1], least):
        ordered.pop(0)
    for place, value in enumerate(ordered[:-1]):
        # A group of outliers is cut off together, as long as most values stay.
        if value > FAR * max(ordered[place + 1], least) and place + 1 <= len(ordered) / 2:
            return ordered[place + 1]
    return ordered[0] if ordered else 0.0


def _finite(limit: float, value: float) -> float:
    return value if math.isnan(limit) else limit


def _dot(axes: Axes, interval: Interval, y: float, colour: str, marker: str) -> None:
    """Draw an interval with its dot; one beyond the axis as an arrow with its number at the edge."""
    start, end = axes.get_xlim()
    value, low, high = (100 * part for part in (interval.value, interval.low, interval.high))
    if value > end or value < start:
        at = end if value > end else start
        axes.annotate(
            f"{value:.1f} ",
            (at, y),
            xytext=(7 if value > end else -7, 0),
            textcoords="offset points",
            ha="left" if value > end else "right",
            va="center",
            color=colour,
            fontsize=8,
            annotation_clip=False,
        )
        axes.plot([at], [y], ">" if value > end else "<", color=colour, markersize=5, clip_on=False)
        return
    if not math.isnan(interval.low):
        axes.plot(
            [max(low, start), min(high, end)], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt"
        )
        for limit, arrow in ((low, "<"), (high, ">")):
            if not start <= limit <= end:
                edge = start if limit < start else end
                axes.plot([edge], [y], arrow, color=colour, markersize=4, clip_on=False)
    axes.plot([value], [y], marker, color=colour, markersize=5.5)


def _mark_cuts(axes: Axes, intervals: Iterable[Interval]) -> None:
    """Mark the axis where it is cut: two strokes through it."""
    end = axes.get_xlim()[1]
    if any(100 * each.value > end for each in intervals):
        _strokes(axes, 1.0, 0.0)


def _strokes(axes: Axes, x: float, y: float) -> None:
    for shift in (-0.012, -0.004):
        axes.plot(
            [x + shift - 0.004, x + shift + 0.004],
            [y - 0.02, y + 0.02],
            transform=axes.transAxes,
            color=GREY,
            linewidth=1.2,
            clip_on=False,
        )


MOST_LINES = 6


@mpl.rc_context(STYLE)
def budget(context: ReportContext, rec: Recommendation, rows: Sequence[DefenseVerdict]) -> Figure | None:
    """Draw fidelity of the best attack against budget: up to six lines with names, the others grey.

    None with fewer than two budgets.
    """
    lines: dict[Defense, list[tuple[int, Interval]]] = {}
    for row in context.findings.rows.get(rec.threat, []):
        known = [(b, result.best.interval) for b, result in row.results.items() if result.best]
        if len(known) > 1:
            lines[row.defense] = known
    if not lines:
        return None
    named = [row.defense for row in rows if row.defense in lines][:MOST_LINES]
    looks = _looks(named)
    budgets = sorted({b for points in lines.values() for b, _ in points})
    tops = {defense: max(100 * i.value for _, i in points) for defense, points in lines.items()}
    most = max(100 * _finite(i.high, i.value) for points in lines.values() for _, i in points)
    below = cut([most - 100 * _finite(i.low, i.value) for d in named for _, i in lines[d]])
    floor = max(0.0, most - 1.08 * below)
    names = {defense: defense_label(context.findings, defense, 26) for defense in named}
    right = 0.35 + 0.073 * max(len(line) for name in names.values() for line in name.split("\n"))
    figure = Figure(figsize=(WIDTH, 3.9))
    axes = place_axes(figure, 0.65, 0.55, WIDTH - 0.65 - right, 3.2)
    axes.set(
        xscale="log",
        xlim=(budgets[0] / 1.12, budgets[-1] * 1.12),
        ylim=(floor, min(100.5, most + 0.03 * below)),
    )
    for defense, points in lines.items():
        if defense not in looks:
            axes.plot(*_xy(points), color=GREY, linewidth=0.9, alpha=0.45, zorder=1)
    ends = []
    for place, defense in enumerate(named):
        colour, marker, dash = looks[defense]
        xs, ys = _xy(lines[defense])
        # Side by side, so that intervals of lines that run together can be seen.
        xs = [x * 1.012 ** (place - (len(named) - 1) / 2) for x in xs]
        for x, (_, interval) in zip(xs, lines[defense], strict=True):
            if not math.isnan(interval.low):
                axes.plot(
                    [x, x], [100 * interval.low, 100 * interval.high], color=colour, linewidth=1.1, alpha=0.7
                )
        axes.plot(xs, ys, color=colour, marker=marker, markersize=5, linewidth=1.8, linestyle=dash)
        ends.append((ys[-1], tops[defense], names[defense], colour))
    name_ends(axes, ends)
    if floor > 0 and any(min(ys) < floor for ys in (_xy(points)[1] for points in lines.values())):
        _strokes_y(axes)
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")
    axes.set_xlabel("queries (log scale)", labelpad=3)
    axes.set_ylabel("fidelity of the best attack (%)")
    return figure


def _looks(named: Sequence[Defense]) -> dict[Defense, tuple[str, str, Any]]:
    looks: dict[Defense, tuple[str, str, Any]] = {}
    free = iter(zip(COLOURS, MARKERS, strict=True))
    for defense in named:
        looks[defense] = (GREY, "x", "--") if defense == UNDEFENDED else (*next(free), "-")
    return looks


def _xy(points: Sequence[tuple[int, Interval]]) -> tuple[list[float], list[float]]:
    return [float(b) for b, _ in points], [100 * interval.value for _, interval in points]


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the right ends of lines, moved apart so that they do not touch."""
    low, high = axes.get_ylim()
    inch = (high - low) / 3.2
    sizes = [0.16 * (name.count("\n") + 1) * inch for _, _, name, _ in ends]
    order = sorted(range(len(ends)), key=lambda place: -ends[place][0])
    at: dict[int, float] = {}
    ceiling = high + 0.1 * inch
    for place in order:
        y = min(max(ends[place][0], low), ceiling - sizes[place] / 2)
        at[place] = y
        ceiling = y - sizes[place] / 2
    # What was pushed below the axis moves back up, and what is above it too.
    bottom = low
    for place in reversed(order):
        at[place] = max(at[place], bottom + sizes[place] / 2)
        bottom = at[place] + sizes[place] / 2
    for place, (y, _, name, colour) in enumerate(ends):
        below = "" if y >= low else f" ▾ {y:.0f} %"
        axes.annotate(
            name + below,
            (1.0, at[place]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9,
            linespacing=0.95,
            annotation_clip=False,
        )


def _strokes_y(axes: Axes) -> None:
    for shift in (0.012, 0.03):
        axes.plot(
            [-0.008, 0.008],
            [shift - 0.008, shift + 0.008],
            transform=axes.transAxes,
            color=GREY,
            linewidth=1.2,
            clip_on=False,
        )


_LOSSES = {"labels": {"accuracy", "balanced accuracy", "rejected"}}
_LOSSES["ranking"] = _LOSSES["labels"] | {"ranking"}
_LOSSES["probabilities"] = _LOSSES["ranking"] | {"brier", "changed"}


def dearest(row: DefenseVerdict, sells: str) -> Criterion | None:
    """Return the criterion with the largest loss (upper end) relative to its limit; None without any.

    ``sells``: what users pay for, which decides what counts.
    """
    known = [c for c in row.criteria if c.loss is not None and c.limit and c.name in _LOSSES[sells]]
    return max(known, key=lambda each: _relative(each).high, default=None)


def _relative(criterion: Criterion) -> Interval:
    """Return the loss in multiples of its limit; raises ValueError without either."""
    loss, limit = criterion.loss, criterion.limit
    if loss is None or not limit:
        raise ValueError(f"criterion {criterion.name} has no loss or no limit")
    high = _finite(loss.high, loss.value)
    return Interval(loss.value / limit, _finite(loss.low, loss.value) / limit, high / limit)


@mpl.rc_context(STYLE)
def cost(context: ReportContext, rec: Recommendation, rows: Sequence[DefenseVerdict]) -> Figure | None:
    """Draw each defense's largest loss relative to its limit against its reduction; None without any."""
    places: Mapping[Defense, tuple[Interval, Interval]] = {
        row.defense: (_relative(worst), row.reduction.interval)
        for row in rec.rows
        if row.defense and row.reduction and (worst := dearest(row, rec.options.sells)) is not None
    }
    named = [row for row in rows if row.defense in places]
    if not named:
        return None
    intervals = [reduced for _, reduced in places.values()]
    low, high = _limits(intervals)
    right = max(1.6, 1.1 * cut([loss.high for loss, _ in places.values()], least=1.0))
    right = min(right, 6.0)
    figure = Figure(figsize=(WIDTH, 4.3))
    axes = place_axes(figure, 0.65, 0.55, WIDTH - 1.2, 3.55)
    axes.set(xlim=(-0.06 * right, right), ylim=(low, high))
    axes.axvspan(-0.06 * right, 1, ymin=(0 - low) / (high - low), color=BLUE, alpha=0.1, linewidth=0)
    axes.text(0.5, high, "affordable, and helps", color=BLUE, ha="center", va="bottom", fontsize=9)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    labels = []
    shown = {row.defense: row for row in named}
    taken: list[float] = []
    for defense, (loss, reduced) in places.items():
        row = shown.get(defense)
        beyond, above = loss.value > right, 100 * reduced.value > high
        x = min(loss.value, right)
        # Side by side, so that intervals of defenses that cost the same can be seen.
        while not beyond and any(abs(x - other) < 0.012 * right for other in taken):
            x += 0.013 * right
        taken.append(x)
        y = min(max(100 * reduced.value, low), high)
        colour = GREY if row is None else BLUE if row.eligible_for else ORANGE
        look: dict[str, Any] = {"color": colour, "alpha": 0.4 if row is None else 1.0}
        _cross(axes, (x, y), loss, reduced, look)
        usable = row is not None and rec.options.sells in row.eligible_for
        axes.plot(
            [x],
            [y],
            ">" if beyond else "^" if above else "o",
            markerfacecolor=colour if usable else "none",
            markersize=6,
            clip_on=False,
            **look,
        )
        if row is not None:
            more = [f"costs {loss.value:.0f} limits"] if beyond else []
            more += [f"lowers {100 * reduced.value:.0f} pp"] if above else []
            text = defense_label(context.findings, defense, 30)
            labels.append((x, y, f"{text}\n({', '.join(more)})" if more else text))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel(
        "users' largest loss, as a multiple of its limit (1: as much as they can afford)", labelpad=3
    )
    axes.set_ylabel("fidelity reduction (pp)")
    name_points(axes, labels)
    return figure


def _cross(
    axes: Axes, at: tuple[float, float], across: Interval, up: Interval, look: Mapping[str, Any]
) -> None:
    """Draw both intervals of a point, as far as the axes reach."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = at
    if across.low < across.high:
        axes.plot([max(across.low, left), min(across.high, right)], [y, y], linewidth=0.9, **look)
    if up.low < up.high:
        axes.plot([x, x], [max(100 * up.low, low), min(100 * up.high, high)], linewidth=0.9, **look)
