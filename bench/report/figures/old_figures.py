"""Figures of an earlier report in the same folder. Loads no matplotlib."""

from __future__ import annotations

import re
from pathlib import Path

EARLIER = re.compile(
    r"T\d+-(curves|pareto|costs)\.svg|(heatmap|published|confusion|roc|roc-study)-[\d-]+\.svg"
)
"""Figures of reports by older versions, which do not say who made them."""
CREATOR = "moatbench"


def remove_old_figures(folder: Path) -> None:
    """Remove the figures of an earlier report; other files stay."""
    for path in sorted(folder.glob("*.svg")):
        ours = f"<dc:title>{CREATOR}</dc:title>"
        if EARLIER.fullmatch(path.name) or ours in path.read_text(encoding="utf-8", errors="replace"):
            path.unlink()
