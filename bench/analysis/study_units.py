"""Numbers of a replication as its page writes them: with units and significant digits."""

from __future__ import annotations

import math

from bench.metrics.definitions import find
from bench.plan.study import PublishedValue


def number(row: PublishedValue, value: float) -> str:
    """Return a measured value in the row's unit: shares times 100, seconds to three digits."""
    return _written(row, scale(row) * value, "")


def difference(row: PublishedValue, difference: float) -> str:
    """Return a difference in the row's unit with its sign: ``-1.0 pp``."""
    text = _written(row, difference, "+")
    return f"{text} pp" if row.unit == "%" else with_unit(row, text)


def published(row: PublishedValue) -> str:
    """Return the published number with its unit, digit for digit."""
    return "" if row.published is None else with_unit(row, str(row.published))


def with_unit(row: PublishedValue, text: str) -> str:
    """Return a number with the row's unit; a difference of shares is in percentage points (pp)."""
    between = row.difference or find(row.metric).signed
    return f"{text} {'pp' if between and row.unit == '%' else row.unit}".strip()


def scale(row: PublishedValue) -> int:
    """Return what a measured fraction is multiplied by."""
    return 100 if row.unit == "%" else 1


def _written(row: PublishedValue, value: float, sign: str) -> str:
    digits = {"%": 1, "": 3}.get(row.unit, 0)
    if row.unit == "s" and value:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:{sign},.{digits if row.digits is None else row.digits}f}"
    return text.lstrip("-+") if float(text.replace(",", "")) == 0 else text
