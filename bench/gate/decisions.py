"""From p-values to decisions: Holm's correction, tests of equivalence, and required repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.pooled_difference import Contrast, Prior

ALPHA = 0.05
"""Probability of any false alarm, and of deciding that one row is the same if it is not."""


MANY = 10_000
"""Largest number of repeats that is named as what a decision would need."""


@dataclass(frozen=True)
class RowTest:
    """A row with its p-values before correction for multiple comparisons."""

    row: ComparisonRow
    weaker: float = 1.0
    stronger: float = 1.0
    apart: float = 1.0
    """That the difference is within the tolerance: the larger of two one-sided p-values."""
    still: Callable[[float], str] = lambda _: ""
    """Returns how many repeats a decision would need, for a share of ALPHA."""
    settled: bool = False
    """Whether the row has its decision already, without a test."""


def decide(tests: Sequence[RowTest]) -> list[ComparisonRow]:
    """Return the rows with their decisions, by Holm's procedure over all tested rows in each direction."""
    tested = [test for test in tests if not test.settled]
    weaker, stronger = holm([test.weaker for test in tested]), holm([test.stronger for test in tested])
    rows = [test.row for test in tests if test.settled]
    for test, worse, better in zip(tested, weaker, stronger, strict=True):
        honest = test.row.kind is RowKind.honest
        if worse:
            decision, note = Decision.costlier if honest else Decision.weaker, ""
        elif better:
            decision, note = Decision.stronger, ""
        elif test.apart <= ALPHA:
            decision, note = Decision.same, test.row.note
        else:
            decision, note = Decision.cannot_tell, test.still(ALPHA / len(tested))
        row = replace(test.row, decision=decision, note=note)
        rows.append(note_if_lower(row) if honest else row)
    return rows


def holm(chances: list[float], alpha: float = ALPHA) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects at a family-wise error of ``alpha``."""
    order = sorted(range(len(chances)), key=lambda position: chances[position])
    rejected = [False] * len(chances)
    for rank, position in enumerate(order):
        if chances[position] > alpha / (len(chances) - rank):
            break
        rejected[position] = True
    return rejected


def repeats_needed(each: Contrast, prior: Prior, tolerance: float, alpha: float) -> str:
    """Return how many repeats a decision would need if the difference is as observed, as text."""
    away = abs(abs(each.value) - tolerance)
    within = abs(each.value) <= tolerance
    quantile = -float(special.ndtri(ALPHA if within else alpha))
    left = (away / quantile) ** 2 - each.inputs
    if left <= 0:
        return "no number of repeats is enough with these test inputs"
    error = prior.error(each)
    if error.freedom <= 0:
        return "a single repeat says nothing about the variation between repeats; run more"
    number = max((error.size**2 - each.inputs) * each.repeats / left, each.repeats + 1)
    if number > MANY:
        return f"more than {MANY:,} repeats would be needed"
    return f"about {math.ceil(number):,} repeats would be needed"


def note_if_lower(row: ComparisonRow) -> ComparisonRow:
    """Return a row on utility loss, with a note if the loss is lower."""
    note = "lower utility loss"
    return replace(row, note=note) if row.decision is Decision.stronger else row
