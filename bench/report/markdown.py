"""Markdown for reports: tables, folded parts, numbers with their intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tabulate import tabulate

from bench.analysis.interval_text import DASH, in_table
from bench.metrics.definitions import find
from bench.metrics.intervals import Interval
from bench.metrics.query_multiplier import Multiplier
from bench.records import Record


def markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """Return a GitHub table; the first ``text`` columns are aligned left, the others right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    sides = ["left"] * text + ["right"] * (len(headers) - text)
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=sides) if cells else ""


def code(text: str) -> str:
    """Return text as it is, in a code span; line breaks become spaces."""
    shown = " ".join(text.split()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padded = f" {shown} " if "`" in (shown[0], shown[-1]) else shown
    return f"{fence}{padded}{fence}"


def plain(text: str) -> str:
    """Return text that holds no Markdown and no HTML of its own, in one line."""
    shown = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]])", r"\\\1", shown)


def times(multiplier: Multiplier | None) -> str:
    """Return the query multiplier, or where it left the measured budgets."""
    if multiplier is None:
        return DASH
    low = f"{multiplier.low:.2f}" if multiplier.low > 0 else "< smallest"
    high = f"{multiplier.high:.2f}" if math.isfinite(multiplier.high) else "> largest"
    edge = "< smallest, ≤ " if multiplier.below else "> largest, ≥ " if multiplier.above else ""
    return f"{edge}{multiplier.value:.2f} ({low} to {high})"


def measured(record: Record, name: str) -> str:
    """Return a stored metric of a defense evaluation with its interval, as its definition shows it."""
    value, metric = record.metrics.get(name), find(name)
    if value is None:
        return DASH
    low, high = record.info.intervals.get(name) or (math.nan, math.nan)
    return in_table(Interval(value, low, high), metric.scale, metric.digits)


def details(summary: str, body: str) -> str:
    """Return a folded section."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"
