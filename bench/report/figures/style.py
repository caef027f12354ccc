"""How the report's figures look: colours that light and dark pages both carry, layout in inches."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense
from bench.files import replacement
from bench.report.figures.old_figures import CREATOR

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


def defense_label(findings: Findings, defense: Defense, width: int = 30) -> str:
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


def place_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / down, width / across, height / down))


def save(figure: Figure | None, folder: Path | None, name: str) -> str:
    """Write a figure as ``NAME.svg``; return its path relative to the page, empty for no figure or folder."""
    if figure is None or folder is None:
        return ""
    with mpl.rc_context(STYLE), replacement(folder / f"{name}.svg") as part:
        figure.savefig(part, format="svg", transparent=True, metadata={"Date": None, "Creator": CREATOR})
    return f"{folder.name}/{name}.svg"
