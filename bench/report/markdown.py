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


def measured(record: Record, name: str) -> str:
    """Return a stored metric of a defense evaluation with its interval, as its definition shows it."""
    value, metric = record.metrics.get(name), find(name)
    if value is None:
        return DASH
    low, high = record.info.intervals.get(name) or (math.nan, math.nan)
    return in_table(Interval(value, low, high), metric.scale, metric.digits)
