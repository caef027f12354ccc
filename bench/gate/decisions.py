"""From p-values to decisions: Holm's correction, tests of equivalence, and required repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from bench.analysis.multiple_tests import ALPHA, holm
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.pooled_difference import Contrast, Prior

CHANGES = 0.005
"""The part of ``ALPHA`` for changed answer statistics, which fail only with ``--strict``."""
ALARMS = ALPHA - CHANGES
"""The part of ``ALPHA`` for all other tests, which fail by default."""
WORSE = {
    RowKind.strength: Decision.weaker,
    RowKind.sentinel: Decision.weaker,
    RowKind.detection: Decision.weaker,
    RowKind.claim: Decision.broken,
    RowKind.honest: Decision.costlier,
    RowKind.contract: Decision.changed,
}
"""What a row is if its test finds it worse, or for answer statistics different."""


MANY = 10_000
"""Largest number of repeats that is named as what a decision would need."""


@dataclass(frozen=True)
class RowTest:
    """A row with its p-values before correction for multiple comparisons."""

    row: ComparisonRow
    worse: float = 1.0
    """That the row is what :data:`WORSE` says of its kind."""
    better: float = 1.0
    apart: float = 1.0
    """That the difference is within the tolerance: the larger of two one-sided p-values."""
    still: Callable[[float], str] = lambda _: ""
    """Returns how many repeats a decision would need, for a share of the probability of an error."""
    already: float = 1.0
    """The p-value ``worse`` of the baseline itself, where it has one."""
    settled: bool = False
    """Whether the row has its decision already, without a test."""


def decide(tests: Sequence[RowTest]) -> list[ComparisonRow]:
    """Return the rows with their decisions, by Holm's procedure in each direction.

    Tests of answer statistics, which fail only with ``--strict``, are a family with ``CHANGES`` of the
    probability of an error, all others one with ``ALARMS``: together they keep ``ALPHA``.
    """
    rows = [test.row for test in tests if test.settled]
    tested = [test for test in tests if not test.settled]
    statistics = [test for test in tested if test.row.kind is RowKind.contract]
    others = [test for test in tested if test.row.kind is not RowKind.contract]
    for family, alpha in ((others, ALARMS), (statistics, CHANGES)):
        worse, better = (
            holm([each.worse for each in family], alpha),
            holm([each.better for each in family], alpha),
        )
        rows += [_decided(*each, alpha / len(family)) for each in zip(family, worse, better, strict=True)]
    return rows


def _decided(test: RowTest, worse: bool, better: bool, alpha: float) -> ComparisonRow:
    if worse and test.already <= max(test.worse, alpha):
        note = f"the baseline shows the same (p = {test.already:.2g})"
        return replace(test.row, decision=Decision.cannot_tell, note=note)
    if worse:
        return replace(test.row, decision=WORSE[test.row.kind])
    if better:
        return note_if_lower(replace(test.row, decision=Decision.stronger, note=""))
    if test.apart <= ALPHA:
        return replace(test.row, decision=Decision.same)
    return replace(test.row, decision=Decision.cannot_tell, note=test.still(alpha))


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
    """Return a row; on a utility loss that is lower, with a note that says so."""
    lower = row.kind is RowKind.honest and row.decision is Decision.stronger
    return replace(row, note="lower utility loss") if lower else row
