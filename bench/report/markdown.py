"""Markdown for reports: tables, folded parts, numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from bench.metrics.definitions import find
from bench.metrics.intervals import Interval
from bench.metrics.query_multiplier import Multiplier
from bench.records import Record

DASH = "–"


def markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """Return a GitHub table; the first ``text`` columns are aligned left, the others right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    sides = ["left"] * text + ["right"] * (len(headers) - text)
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=sides) if cells else ""


def ranged(interval: Interval | None, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """Return ``86.2 [84.9, 87.3]``; without limits the value alone, a dash where there is none."""
    if interval is None or math.isnan(interval.value):
        return DASH
    value, low, high = (number(scale * part, digits, sign) for part in _parts(interval))
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _parts(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def number(value: float, digits: int, sign: str = "") -> str:
    """Return the number with so many digits, and no minus before zero."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", "", 1) if float(text) == 0 else text


def times(multiplier: Multiplier | None) -> str:
    """Return the query multiplier, or where it left the measured budgets."""
    if multiplier is None:
        return DASH
    low = f"{multiplier.low:.2f}" if multiplier.low > 0 else "< smallest"
    high = f"{multiplier.high:.2f}" if math.isfinite(multiplier.high) else "> largest"
    edge = "< smallest, ≤ " if multiplier.below else "> largest, ≥ " if multiplier.above else ""
    return f"{edge}{multiplier.value:.2f} [{low}, {high}]"


def measured(record: Record, name: str) -> str:
    """Return a stored metric of a defense evaluation with its interval, as its definition shows it."""
    value, metric = record.metrics.get(name), find(name)
    if value is None:
        return DASH
    low, high = record.info.intervals.get(name) or (math.nan, math.nan)
    return ranged(Interval(value, low, high), metric.scale, metric.digits)


def details(summary: str, body: str) -> str:
    """Return a folded section."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"
