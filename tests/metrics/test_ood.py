"""The AUROC of confidence: worked out by hand, by scikit-learn, and its interval in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bench.metrics.ood import ood_auroc, ood_auroc_lost, served_confidence

NAN = [math.nan] * 3


def test_confidence_is_the_largest_entry_as_served_and_nothing_where_rejected():
    answers = np.array([[0.7, 0.2, 0.1], [0, 0, 0.4], NAN, [1, 0, 0], [0.5, math.nan, 0.5]])
    assert served_confidence(answers).tolist() == [0.7, 0.4, -math.inf, 1, -math.inf]
    assert np.isnan(answers[2]).all()  # the answers stay as they are
    assert served_confidence(np.zeros((0, 3))).tolist() == []


def test_pairs_are_counted_and_ties_count_half():
    usual, foreign = np.array([0.9, 0.6, 0.6]), np.array([0.5, 0.6])
    # .9 wins 2, each .6 wins 1 and ties 1: (2 + 1.5 + 1.5) / 6.
    assert ood_auroc(usual, foreign).value == pytest.approx(5 / 6)
    assert ood_auroc(foreign, usual).value == pytest.approx(1 / 6)


def test_labels_alone_have_a_half_whatever_the_numbers_of_inputs():
    found = ood_auroc(np.ones(7), np.ones(90))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_rejected_query_ranks_below_every_answer_and_ties_with_another():
    answers = np.array([[0.4, 0.3, 0.3], NAN])
    usual, foreign = served_confidence(answers), served_confidence(np.array([NAN, NAN, [0.9, 0.1, 0]]))
    # .4 wins over two rejected ones and loses to .9; the rejected one ties with two and loses.
    assert ood_auroc(usual, foreign).value == pytest.approx((2 + 1) / 6)
    all_rejected = np.full(4, -np.inf)
    assert ood_auroc(usual[:1], all_rejected).value == 1
    assert ood_auroc(all_rejected, all_rejected).value == 0.5


def test_it_is_what_scikit_learn_finds():
    rng = np.random.default_rng(0)
    usual, foreign = rng.random(80).round(1), (rng.random(130) * 0.8).round(1)
    truth = roc_auc_score(np.repeat([1, 0], [80, 130]), np.r_[usual, foreign])
    found = ood_auroc(usual, foreign)
    assert found.value == pytest.approx(truth)
    assert 0 <= found.low < found.value < found.high <= 1


def test_what_is_lost_is_the_difference_with_its_sign():
    before = np.array([0.9, 0.8]), np.array([0.3, 0.4])
    after = np.array([0.9, 0.2]), np.array([0.3, 0.4])
    lost = ood_auroc_lost(before, after)
    assert lost.value == pytest.approx(0.5)
    assert ood_auroc_lost(after, before).value == pytest.approx(-0.5)
    assert -1 <= lost.low < lost.value < lost.high <= 1


def test_equal_rankings_lose_nothing_give_or_take_one_input():
    rng = np.random.default_rng(1)
    usual, foreign = rng.random(100), rng.random(400)
    lost = ood_auroc_lost((usual, foreign), (usual**2, foreign**2))
    assert lost.value == 0
    assert 0 < lost.high == -lost.low < 0.02


def test_without_inputs_of_both_kinds_there_is_none():
    empty, some = np.zeros(0), np.ones(3)
    for pair in ((empty, some), (some, empty)):
        assert math.isnan(ood_auroc(*pair).value)
        assert math.isnan(ood_auroc_lost(pair, pair).value)


def test_the_paired_interval_covers_the_true_difference():
    """Scores are normal, and noise is added to them: the area is the normal distribution of a difference."""
    rng = np.random.default_rng(2)
    covered, widths, spread = [], [], []
    for _ in range(300):
        usual, foreign = rng.normal(1.5, 1, 120), rng.normal(0, 1, 200)
        after = usual + rng.normal(0, 1, 120), foreign + rng.normal(0, 1, 200)
        lost = ood_auroc_lost((usual, foreign), after)
        # The differences of a pair have the mean 1.5, and the variance 2 before and 4 after.
        truth = 0.5 * (math.erf(1.5 / 2) - math.erf(1.5 / 2 / math.sqrt(2)))
        covered.append(lost.low <= truth <= lost.high)
        widths.append((lost.high - lost.low) / 2 / 1.96)
        spread.append(lost.value)
    assert 0.91 <= np.mean(covered) <= 0.985
    assert np.mean(widths) == pytest.approx(np.std(spread), rel=0.15)
