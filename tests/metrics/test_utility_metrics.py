"""Metrics of answers against cases counted by hand, and against scikit-learn where it has the same."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from bench.metrics import utility


def random_answers(n=200, classes=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


def test_l1_is_between_0_and_2():
    assert utility.l1(np.eye(3), np.eye(3)[[0, 2, 1]]).tolist() == [0, 2, 2]


def test_answers_become_distributions():
    answers = np.array(
        [[0.2, 0.2, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.5, 0.0], [-1.0, -2.0, -3.0], [0.5, 0.3, 0.2]]
    )
    expected = [[0.5, 0.5, 0], [1 / 3] * 3, [0, 1, 0], [1 / 3] * 3, [0.5, 0.3, 0.2]]
    assert utility.normalised(answers) == pytest.approx(np.array(expected))
    assert answers[0, 0] == 0.2


def test_negative_log_likelihood_is_scikit_learns_and_bounded():
    answers, truth = random_answers(), np.random.default_rng(2).integers(0, 5, 200)
    loss = utility.negative_log_likelihood(answers, truth)
    assert loss.mean() == pytest.approx(log_loss(truth, answers, labels=range(5)))
    assert utility.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))[0] == pytest.approx(
        27.63, abs=0.01
    )


class TestCalibration:
    def test_by_hand(self):
        # Ten bins: two answers at .65 of which one is right, one at .95 that is.
        confidence, correct = np.array([0.65, 0.65, 0.95]), np.array([True, False, True])
        expected = (2 * 0.15 + 1 * 0.05) / 3
        assert utility.expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)

    def test_errors_of_opposite_sign_in_one_bin_cancel_and_across_bins_do_not(self):
        correct = np.array([True, False])
        assert utility.expected_calibration_error(np.array([0.5, 0.5]), correct) == pytest.approx(0)
        assert utility.expected_calibration_error(np.array([0.4, 0.6]), correct) == pytest.approx(0.6)

    def test_certainty_that_is_right_costs_nothing(self):
        assert utility.expected_calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0
        assert utility.expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == 0.25

    def test_certainty_shares_the_last_bin(self):
        confidence, correct = np.array([1.0, 0.95]), np.array([False, True])
        assert utility.expected_calibration_error(confidence, correct) == pytest.approx(0.475)

    def test_confidence_that_is_right_as_often_as_it_says_is_calibrated(self):
        rng = np.random.default_rng(0)
        confidence = rng.random(200_000)
        assert utility.expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.01

    def test_no_answers_have_no_error(self):
        assert utility.expected_calibration_error(np.empty(0), np.empty(0, dtype=bool)) == 0


class TestRiskCoverage:
    def test_by_hand(self):
        # Ranked: right, wrong, right. Risk at coverage 1/3, 2/3, 1: 0, 1/2, 1/3.
        confidence, correct = np.array([0.2, 0.9, 0.5]), np.array([True, True, False])
        found = utility.area_under_risk_coverage(confidence, correct)
        assert found == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)

    def test_ties_count_as_the_mean_over_their_orders(self):
        confidence, correct = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, True])
        orders = ([1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0])
        by_order = [(np.cumsum(1 - np.array(order)) / np.arange(1, 5)).mean() for order in orders]
        assert utility.area_under_risk_coverage(confidence, correct) == pytest.approx(np.mean(by_order))

    def test_the_order_of_the_inputs_does_not_matter(self):
        rng = np.random.default_rng(0)
        confidence, correct = rng.integers(0, 4, 50) / 4, rng.random(50) < 0.7
        shuffled = rng.permutation(50)
        assert utility.area_under_risk_coverage(confidence, correct) == pytest.approx(
            utility.area_under_risk_coverage(confidence[shuffled], correct[shuffled])
        )

    def test_answers_without_confidence_get_their_error_rate(self):
        correct = np.array([True, False, True, True, False])
        assert utility.area_under_risk_coverage(np.ones(5), correct) == pytest.approx(0.4)

    def test_knowing_what_one_does_not_know_pays(self):
        correct = np.array([True] * 8 + [False] * 2)
        good, bad = np.linspace(1, 0, 10), np.linspace(0, 1, 10)
        assert (
            utility.area_under_risk_coverage(good, correct)
            < 0.2
            < utility.area_under_risk_coverage(bad, correct)
        )

    def test_no_answers_have_no_area(self):
        assert math.isnan(utility.area_under_risk_coverage(np.empty(0), np.empty(0, dtype=bool)))


class TestBrierScore:
    def test_by_hand_as_served(self):
        answers, truth = np.array([[0.8, 0.2], [0.6, 0.0], [0.0, 1.0]]), np.array([0, 1, 0])
        expected = [0.2**2 + 0.2**2, 0.6**2 + 1, 1 + 1]
        assert utility.brier_score(answers, truth) == pytest.approx(expected)

    def test_the_answers_are_left_alone(self):
        answers = np.array([[0.8, 0.2]])
        utility.brier_score(answers, np.array([0]))
        assert answers.tolist() == [[0.8, 0.2]]

    def test_the_true_probabilities_have_the_lowest_score(self):
        rng = np.random.default_rng(0)
        rows = rng.dirichlet(np.ones(4), 20_000)
        truth = np.array([rng.choice(4, p=row) for row in rows])
        sharper = utility.at_temperature(rows, 0.5)
        assert utility.brier_score(rows, truth).mean() < utility.brier_score(sharper, truth).mean()


class TestTemperature:
    def test_scaling_undoes_what_made_answers_too_sure(self):
        rng = np.random.default_rng(0)
        rows = rng.dirichlet(np.ones(4), 20_000)
        truth = np.array([rng.choice(4, p=row) for row in rows])
        too_sure = utility.at_temperature(rows, 0.4)
        found = utility.temperature(too_sure, truth)
        assert found == pytest.approx(1 / 0.4, rel=0.05)
        assert utility.at_temperature(too_sure, found) == pytest.approx(rows, abs=0.03)

    def test_a_temperature_of_one_changes_nothing(self):
        rows = np.random.default_rng(0).dirichlet(np.ones(4), 50)
        assert utility.at_temperature(rows, 1.0) == pytest.approx(rows)

    def test_one_hot_answers_have_a_temperature_too(self):
        found = utility.temperature(np.eye(3), np.array([0, 1, 0]))
        assert np.isfinite(utility.at_temperature(np.eye(3), found)).all()

    def test_no_answers_have_none(self):
        with pytest.raises(ValueError, match="at least one"):
            utility.temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))


class TestAreaUnderRoc:
    def test_it_is_that_of_scikit_learn_with_ties(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            score, positive = rng.integers(0, 5, 30) / 5, rng.random(30) < 0.4
            assert utility.area_under_roc(score, positive) == pytest.approx(roc_auc_score(positive, score))

    def test_one_class_alone_has_none(self):
        assert math.isnan(utility.area_under_roc(np.ones(3), np.ones(3, dtype=bool)))


def test_a_mean_with_balanced_weights_is_the_mean_over_labels():
    labels = np.array([0, 0, 0, 2, 2, 7])
    hits = np.array([1, 1, 0, 0, 1, 1])
    weights = utility.balanced_weights(labels)
    assert weights.mean() == pytest.approx(1)
    assert (weights * hits).mean() == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
