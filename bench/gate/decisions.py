"""From p-values to verdicts: what is rejected, what is shown to be the same, and what cannot be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.pooled_difference import Contrast, Prior

ALPHA = 0.05
"""Chance of any false alarm, and of calling one row the same that is not."""


@dataclass(frozen=True)
class Trial:
    """A row with its p-values before anything is corrected."""

    row: ComparisonRow
    weaker: float = 1.0
    stronger: float = 1.0
    apart: float = 1.0
    """That the difference is within the tolerance: the larger of two one-sided p-values."""
    still: Callable[[float], str] = lambda _: ""
    """What it would take to tell, for a share of ALPHA."""
    settled: bool = False
    """Whether the row's verdict is a fact already."""


def judged(tests: Sequence[Trial]) -> list[ComparisonRow]:
    """Return the rows with their verdicts; Holm's procedure over all that are tested, in either direction."""
    tested = [test for test in tests if not test.settled]
    weaker, stronger = holm([test.weaker for test in tested]), holm([test.stronger for test in tested])
    rows = [test.row for test in tests if test.settled]
    for test, worse, better in zip(tested, weaker, stronger, strict=True):
        honest = test.row.family is RowKind.honest
        if worse:
            verdict, note = Decision.costlier if honest else Decision.weaker, ""
        elif better:
            verdict, note = Decision.stronger, ""
        elif test.apart <= ALPHA:
            verdict, note = Decision.same, test.row.note
        else:
            verdict, note = Decision.cannot_tell, test.still(ALPHA / len(tested))
        row = replace(test.row, verdict=verdict, note=note)
        rows.append(cheaper(row) if honest else row)
    return rows


def holm(chances: list[float], alpha: float = ALPHA) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects at a family-wise error of ``alpha``."""
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    rejected = [False] * len(chances)
    for rank, place in enumerate(order):
        if chances[place] > alpha / (len(chances) - rank):
            break
        rejected[place] = True
    return rejected


def needed(each: Contrast, prior: Prior, tolerance: float, alpha: float) -> str:
    """Return how many repeats would tell, if the difference is what it seems."""
    away = abs(abs(each.value) - tolerance)
    within = abs(each.value) <= tolerance
    quantile = -float(special.ndtri(ALPHA if within else alpha))
    left = (away / quantile) ** 2 - each.inputs
    if left <= 0:
        return "no number of repeats would tell on these test inputs"
    spread = prior.error(each).size ** 2 - each.inputs
    number = max(math.ceil(spread * each.repeats / left), each.repeats + 1)
    return f"about {number:,} repeats would" if number <= 10_000 else "more repeats than anybody has would"


def cheaper(row: ComparisonRow) -> ComparisonRow:
    """Return a row on honest users with a note where it is for the better."""
    note = "honest users pay less"
    return replace(row, note=note) if row.verdict is Decision.stronger else row
