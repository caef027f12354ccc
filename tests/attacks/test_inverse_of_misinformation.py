"""What an attacker who knows adaptive misinformation or the diverse ensemble makes of the answers."""

import numpy as np

from attacks.inverse.adaptive_misinformation import AdaptiveMisinformationInverse
from attacks.inverse.base import StackPosition
from attacks.inverse.diverse_ensemble import DiverseEnsembleInverse

WHOLE = StackPosition()
KNOWN = {"tau": 0.7, "nu": 1000.0}


def test_an_answer_below_the_threshold_is_not_the_victims():
    answers = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.705, 0.295, 0.0]])
    rows, kept = AdaptiveMisinformationInverse(KNOWN).invert(answers, None, WHOLE)
    assert kept.tolist() == [True, False, False]
    np.testing.assert_array_equal(rows[0], answers[0])
    assert np.isnan(rows[1:]).all()


def test_where_all_answers_are_blends_those_above_the_threshold_are_kept():
    """With nu of 5, an answer of .95 is to 78 % the victim's; if all were dropped, nothing would be left."""
    answers = np.array([[0.95, 0.05, 0.0], [0.76, 0.24, 0.0], [0.74, 0.26, 0.0]])
    _, kept = AdaptiveMisinformationInverse({"tau": 0.7, "nu": 5.0}).invert(answers, None, WHOLE)
    assert kept.tolist() == [True, True, False]


def test_a_threshold_near_one_leaves_room_for_the_victims_own_answers():
    """The second network's answers are among the surest; a margin beyond them would keep these alone."""
    answers = np.array([[0.9951, 0.0049], [0.994, 0.006], [1.0, 0.0]])
    _, kept = AdaptiveMisinformationInverse({"tau": 0.99, "nu": 1000.0}).invert(answers, None, WHOLE)
    assert kept.tolist() == [True, False, True]


def test_with_a_threshold_of_one_no_answer_is_the_victims():
    answers = np.array([[1.0, 0.0], [0.5, 0.5]])
    rows, kept = AdaptiveMisinformationInverse({"tau": 1.0, "nu": 1000.0}).invert(answers, None, WHOLE)
    assert not kept.any()
    assert np.isnan(rows).all()


def test_a_sure_answer_that_surrogates_contradict_is_dropped():
    answers = np.tile([0.9, 0.05, 0.05], (3, 1))
    # Of three classes, a quarter wrong: dropped below p with p = (1 - p) / 2 / 3, which is 1/7.
    estimate = np.array([[0.9, 0.05, 0.05], [0.15, 0.8, 0.05], [0.14, 0.81, 0.05]])
    rows, kept = AdaptiveMisinformationInverse(KNOWN).invert(answers, estimate, WHOLE)
    assert kept.tolist() == [True, True, False]
    assert np.isnan(rows[2]).all()


def test_forward_blends_at_the_threshold():
    rows = np.array([[0.7, 0.2, 0.1], [0.9, 0.1, 0.0], [0.5, 0.3, 0.2]])
    found = AdaptiveMisinformationInverse(KNOWN).forward(rows)
    np.testing.assert_allclose(found, [[0.35, 0.35, 0.3], [0.9, 0.1, 0], [0, 0.5, 0.5]], atol=1e-12)


def test_of_the_diverse_ensemble_the_label_is_read():
    answers = np.array([[0.2, 0.5, 0.3]])
    inverse = DiverseEnsembleInverse({})
    rows, _ = inverse.invert(answers, None, WHOLE)
    assert rows.tolist() == [[0, 1, 0]]
    assert not inverse.has_forward
