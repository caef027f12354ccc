"""Names points of a scatter so that no name covers a point or another name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's tag beside it: ``points`` are x, y and tag, in data coordinates.

    A tag takes the nearest place that no point and no other tag has, with a line to its point where
    that is not next to it. The axes must have their final place and limits.
    """
    inch = axes.get_figure(root=True).dpi  # type: ignore[union-attr]  # the axes are in a figure
    scale = 72 / inch
    axes.autoscale_view()
    inside = Bbox(np.asarray(axes.get_window_extent()) * scale)
    places = [axes.transData.transform((x, y)) * scale for x, y, _ in points]
    dots = [Bbox.from_bounds(px - 3.5, py - 3.5, 7, 7) for px, py in places]
    tags: list[Bbox] = []
    back = axes.transData.inverted()
    for (x, y, tag), (px, py) in sorted(zip(points, places, strict=True), key=lambda pair: -pair[0][1]):
        # DejaVu Sans at 8 points: about 4.9 wide a letter, 10 high a line.
        lines = tag.split("\n")
        box = _free(px, py, 4.9 * max(map(len, lines)) + 2, 10.0 * len(lines), inside, dots, tags)
        tags.append(box)
        # Letters differ in width: a tag on the left ends at its box, so that it is not far from its point.
        side = "right" if box.x1 <= px else "left"
        edge, middle = back.transform(
            ((box.x1 if side == "right" else box.x0) / scale, (box.y0 + box.y1) / 2 / scale)
        )
        axes.text(edge, middle, tag, fontsize=8, va="center", ha=side, linespacing=0.95)
        near = min(max(px, box.x0), box.x1), min(max(py, box.y0), box.y1)
        if math.dist((px, py), near) > 9:
            end = back.transform((near[0] / scale, near[1] / scale))
            axes.add_artist(
                Line2D([x, end[0]], [y, end[1]], color=axes.xaxis.label.get_color(), linewidth=0.5, alpha=0.7)
            )


def _free(
    px: float,
    py: float,
    width: float,
    height: float,
    inside: Bbox,
    dots: Sequence[Bbox],
    tags: Sequence[Bbox],
) -> Bbox:
    first = Bbox.from_bounds(px + 6, py + 3, width, height)
    # Up or down from the point first, so that its intervals do not run through its name.
    for radius in (11, 15, 21, 28, 37, 48, 62, 78, 96, 120, 150):
        for angle in np.radians((35, -35, 145, -145, 60, -60, 90, -90, 120, -120, 0, 180)):
            x, y = px + radius * np.cos(angle), py + radius * np.sin(angle)
            left = x if np.cos(angle) > 0.2 else x - width if np.cos(angle) < -0.2 else x - width / 2
            box = Bbox.from_bounds(left, y - height / 2, width, height)
            held = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if (
                held
                and not any(box.overlaps(other) for other in (*dots, *tags))
                and not _crosses(px, py, box, tags)
            ):
                return box
    return first


def _crosses(px: float, py: float, box: Bbox, tags: Sequence[Bbox]) -> bool:
    """Return whether the line from a point to its tag would run through another tag."""
    x, y = min(max(px, box.x0), box.x1), min(max(py, box.y0), box.y1)
    way = [(px + part * (x - px), py + part * (y - py)) for part in (0.2, 0.4, 0.6, 0.8)]
    return any(other.contains(*step) for other in tags for step in way)
