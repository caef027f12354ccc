"""Ambiguity and discrepancy: counted by hand, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.metrics.intervals import share_interval
from bench.metrics.multiplicity import ambiguity, discrepancy

LABELS = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 0, 7],
        [0, 1, 9, 3, 4, 0, 1, 7],
    ],
    dtype=np.uint8,
)
"""Rows 0 and 1 differ on input 6, rows 0 and 2 on 2, 5 and 6, rows 1 and 2 on the same; 5 are unanimous."""


def test_ambiguity_counts_inputs_that_are_not_unanimous():
    assert ambiguity(LABELS).value == 3 / 8
    assert ambiguity(LABELS[:2]).value == 1 / 8


def test_it_is_that_of_any_baseline():
    found = ambiguity(LABELS).value
    assert all((baseline != LABELS).any(axis=0).mean() == found for baseline in LABELS)


def test_discrepancy_is_that_of_the_two_that_differ_most():
    assert discrepancy(LABELS).value == 3 / 8
    assert discrepancy(LABELS[:2]).value == 1 / 8
    spread = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    assert ambiguity(spread).value == 2 / 4
    assert discrepancy(spread).value == 2 / 4
    assert discrepancy(np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])).value == 1 / 4


def test_equal_surrogates_leave_what_so_many_inputs_can_exclude():
    same = np.tile(np.arange(100, dtype=np.uint8), (5, 1))
    for measure in (ambiguity, discrepancy):
        found = measure(same)
        assert (found.value, found.low) == (0, 0)
        assert found.high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_the_interval_of_the_largest_allows_for_all_pairs_below_and_for_one_above():
    found, alone = discrepancy(LABELS), share_interval(3, 8)
    assert found.high == alone.high
    assert found.low == share_interval(3, 8, 1 - 0.05 / 3).low < alone.low
    assert (ambiguity(LABELS).low, ambiguity(LABELS).high) == (alone.low, alone.high)


def test_one_repeat_and_no_inputs_have_none():
    for measure in (ambiguity, discrepancy):
        assert math.isnan(measure(LABELS[:1]).value)
        assert math.isnan(measure(LABELS[:, :0]).value)


def test_the_interval_of_discrepancy_covers_the_largest_true_share():
    """Four surrogates of which each differs from the others on shares that are known."""
    rng = np.random.default_rng(0)
    shares, hits = np.array([0.0, 0.03, 0.05, 0.05]), 0
    # Two of them differ where one alone is wrong: p + q - 2 p q.
    true = max(p + q - 2 * p * q for i, p in enumerate(shares) for q in shares[i + 1 :])
    for _ in range(400):
        found = discrepancy((rng.random((4, 400)) < shares[:, None]).astype(np.uint8))
        hits += found.low <= true <= found.high
    assert hits >= 0.94 * 400
