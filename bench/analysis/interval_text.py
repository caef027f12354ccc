"""Numbers with their confidence intervals, as every page and sentence writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from bench.metrics.intervals import Interval

DASH: Final = "–"


def number(value: float, digits: int, sign: str = "") -> str:
    """Return the number with so many digits, and no minus before zero."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", "", 1) if float(text) == 0 else text


def in_table(interval: Interval | None, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """Return ``86.2 (84.9–87.3)``; without limits the value alone, a dash where there is none.

    Where a limit is negative, "to" stands between them.
    """
    if interval is None or math.isnan(interval.value):
        return DASH
    value = number(scale * interval.value, digits, sign)
    known = _limits(interval, scale, digits, sign)
    return f"{value} {limits(*known)}" if known else value


def limits(low: str, high: str, between: str = "") -> str:
    """Return ``(84.9–87.3)``, with "to" between the limits where one is negative, or what is given."""
    negative = low.startswith("-") or high.startswith("-")
    return f"({low}{between or (' to ' if negative else '–')}{high})"


def in_text(interval: Interval | None, unit: str = "pp", scale: float = 100, digits: int = 1) -> str:
    """Return ``5.5 pp (95 % CI 2.8 to 8.2)``; without limits the value alone, a dash where there is none."""
    if interval is None or math.isnan(interval.value):
        return DASH
    value = f"{number(scale * interval.value, digits)} {unit}".strip()
    known = _limits(interval, scale, digits)
    return f"{value} (95 % CI {' to '.join(known)})" if known else value


def in_clause(interval: Interval, unit: str = "pp", scale: float = 100, digits: int = 1) -> str:
    """Return ``5.5 pp, 95 % CI 2.8 to 8.2``, for parentheses."""
    return in_text(interval, unit, scale, digits).replace(" (", ", ").removesuffix(")")


def _limits(interval: Interval, scale: float, digits: int, sign: str = "") -> list[str]:
    if math.isnan(interval.low):
        return []
    return [number(scale * limit, digits, sign) for limit in (interval.low, interval.high)]


def joined(parts: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
