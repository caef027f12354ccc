"""Positions of detector scores keep the order of the scores, whatever the reference holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.metrics.detection import highest_position, position
from bench.metrics.membership import auc

FINITE = st.floats(-1e100, 1e100)
ANY = FINITE | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, -0.0])
SEEDED = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def some(elements, smallest=0):
    return st.integers(smallest, 12).flatmap(lambda n: arrays(np.float64, n, elements=elements))


@SEEDED
@given(scores=some(ANY, 2), reference=some(ANY))
def test_a_higher_score_never_has_a_lower_position(scores, reference):
    found = position(scores, reference)
    assert not np.isnan(found).any()
    for one, score in zip(found, scores, strict=True):
        for other, lower in zip(found, scores, strict=True):
            if np.isnan(score) or score >= lower:
                assert one >= other


@SEEDED
@given(
    scores=arrays(np.int64, 12, elements=st.integers(-1000, 1000)),
    reference=arrays(np.int64, 9, elements=st.integers(-100, 100)),
)
def test_one_test_has_the_auroc_of_its_scores_as_they_are(scores, reference):
    pool = np.arange(12) % 2 == 0
    placed = position(scores / 8, reference / 8)
    assert auc(pool, placed) == auc(pool, scores / 8)


@pytest.mark.parametrize("shift", [-7.0, 0.0, 3.0])
def test_positions_do_not_depend_on_where_zero_lies(shift):
    rng = np.random.default_rng(0)
    scores, reference = rng.normal(0, 3, 50), rng.normal(0, 1, 40)
    assert position(scores + shift, reference + shift) == pytest.approx(position(scores, reference))


def test_positions_are_shares_of_the_reference_and_grow_beyond_it():
    reference = np.array([1.0, 2.0, 2.0, 4.0])
    assert position(np.array([1.0, 2.0, 3.0, 4.0]), reference).tolist() == [0.125, 0.5, 0.6875, 0.875]
    spread = reference.std()
    beyond = position(np.array([4 + spread, 4 + 5 * spread, 1 - spread, np.inf]), reference)
    assert beyond == pytest.approx([1.875, 5.875, -0.875, np.inf])


def test_a_reference_that_does_not_vary_or_is_empty_still_gives_an_order():
    scores = np.array([-1.0, 0.0, 0.5, 3.0])
    assert (np.diff(position(scores, np.zeros(5))) > 0).all()
    assert (np.diff(position(scores, np.empty(0))) > 0).all()
    assert (np.diff(position(scores, np.array([np.nan, np.inf]))) > 0).all()


def test_tests_of_different_units_are_compared_by_their_positions():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(200, 2)) * [1, 1e-6] + [0, -5]
    unusual = np.array([[0.0, -5 + 1e-5], [10.0, -5.0], [0.0, -5.0]])
    first, second, usual = highest_position(unusual, reference)
    assert min(first, second) > 5
    assert usual < 1
    assert highest_position(unusual[:, ::-1], reference[:, ::-1]).tolist() == [first, second, usual]
