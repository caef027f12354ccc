"""The figures of a first page: reduction, fidelity against budget, cost against protection."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.verdicts import DefenseVerdict, VictimRecommendations
from bench.report.context import ReportContext


def draw(
    context: ReportContext, found: VictimRecommendations, rows: Sequence[DefenseVerdict], prefix: str
) -> list[str]:
    """Draw the figures of one victim; return the Markdown that shows them."""
    del context, found, rows, prefix
    return []
