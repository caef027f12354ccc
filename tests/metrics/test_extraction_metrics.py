"""Every metric against cases counted by hand, and against scikit-learn where it has the same."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, precision_recall_fscore_support

from bench.metrics import extraction

COPY = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1]])
VICTIM = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.45, 0.5, 0.05], [0.6, 0.2, 0.2]])
TRUTH = np.array([0, 1, 1, 2])


def random_answers(n=200, classes=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


class TestExtraction:
    def test_it_has_these_metrics(self):
        assert set(extraction.extraction(COPY, VICTIM, TRUTH, VICTIM)) == {
            f"extraction.{name}"
            for name in (
                *("fidelity", "agreement_deployed", "fidelity_where_victim_errs", "fidelity_low_margin"),
                *("accuracy", "precision", "recall", "f1", "l1", "kl", "loss"),
            )
        }

    def test_shares_are_counted_by_hand(self):
        # The copy says 0, 1, 2, 0; the victim 0, 1, 1, 0; the truth is 0, 1, 1, 2.
        deployed = np.array([[1.0, 0, 0], [np.nan] * 3, [0, 0, 1.0], [0, 1.0, 0]])
        found = extraction.extraction(COPY, VICTIM, TRUTH, deployed)
        assert found["extraction.fidelity"] == 0.75
        assert found["extraction.accuracy"] == 0.5
        assert found["extraction.fidelity_where_victim_errs"] == 1.0
        assert found["extraction.fidelity_low_margin"] == 0.0
        assert found["extraction.agreement_deployed"] == pytest.approx(2 / 3)

    def test_precision_recall_and_f1_are_macro_averages(self):
        # Class 0: 1 of 2 said, 1 of 1 found. Class 1: 1 of 1, 1 of 2. Class 2: 0 of 1, 0 of 1.
        found = extraction.extraction(COPY, VICTIM, TRUTH, VICTIM)
        assert found["extraction.precision"] == pytest.approx((0.5 + 1 + 0) / 3)
        assert found["extraction.recall"] == pytest.approx((1 + 0.5 + 0) / 3)
        assert found["extraction.f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_precision_recall_and_f1_are_scikit_learns(self):
        copy, victim = random_answers(), random_answers(seed=1)
        truth = np.random.default_rng(2).integers(0, 5, 200)
        expected = precision_recall_fscore_support(truth, copy.argmax(axis=1), average="macro")
        found = extraction.extraction(copy, victim, truth, victim)
        assert [found[f"extraction.{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(
            expected[:3]
        )

    def test_a_class_that_nobody_has_or_says_warns_of_nothing(self):
        copy = np.eye(4)[[0, 0, 1]]
        found = extraction.extraction(copy, copy, np.array([0, 0, 1]), copy)
        assert found["extraction.precision"] == 0.5

    def test_distances_are_means_over_inputs(self):
        found = extraction.extraction(COPY, VICTIM, TRUTH, VICTIM)
        assert found["extraction.l1"] == pytest.approx((0.2 + 0.2 + 1.1 + 0.4) / 4)
        assert found["extraction.kl"] == pytest.approx(float(extraction.kl(VICTIM, COPY).mean()))

    def test_nothing_to_measure_is_none(self):
        found = extraction.extraction(COPY, VICTIM, VICTIM.argmax(axis=1), np.full((4, 3), np.nan))
        assert found["extraction.fidelity_where_victim_errs"] is None
        assert found["extraction.agreement_deployed"] is None

    def test_a_perfect_copy_is_perfect(self):
        found = extraction.extraction(VICTIM, VICTIM, TRUTH, VICTIM)
        assert found["extraction.fidelity"] == found["extraction.agreement_deployed"] == 1
        assert found["extraction.l1"] == found["extraction.kl"] == 0


def test_a_share_is_among_what_it_is_asked_for():
    hits = np.array([True, False, True, True])
    assert extraction.share(hits, np.array([True, True, False, True])) == pytest.approx(2 / 3)
    assert extraction.share(hits, np.zeros(4, dtype=bool)) is None


def test_low_margin_is_the_tenth_with_the_smallest_gap():
    gaps = np.random.default_rng(0).permutation(np.linspace(0.05, 0.95, 40))
    victim = np.stack([(1 + gaps) / 2, (1 - gaps) / 2], axis=1)
    chosen = extraction.low_margin(victim)
    assert chosen.sum() == 4
    assert set(np.flatnonzero(chosen)) == set(np.argsort(gaps)[:4])


def test_low_margin_is_one_input_at_least_and_ties_go_to_the_first():
    assert extraction.low_margin(np.full((5, 2), 0.5)).tolist() == [True, False, False, False, False]
    assert extraction.low_margin(np.full((30, 2), 0.5)).sum() == 3


def test_l1_is_between_0_and_2():
    assert extraction.l1(np.eye(3), np.eye(3)[[0, 2, 1]]).tolist() == [0, 2, 2]


def test_kl_by_hand():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)]
    assert extraction.kl(p, q) == pytest.approx(expected)
    assert extraction.kl(p, p).tolist() == [0, 0]


def test_kl_is_finite_where_the_copy_says_never():
    assert extraction.kl(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0] == pytest.approx(
        -math.log(extraction.FLOOR)
    )


def test_kl_is_never_negative():
    assert (extraction.kl(random_answers(), random_answers(seed=1)) >= 0).all()


def test_answers_become_distributions():
    answers = np.array(
        [[0.2, 0.2, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.5, 0.0], [-1.0, -2.0, -3.0], [0.5, 0.3, 0.2]]
    )
    expected = [[0.5, 0.5, 0], [1 / 3] * 3, [0, 1, 0], [1 / 3] * 3, [0.5, 0.3, 0.2]]
    assert extraction.normalised(answers) == pytest.approx(np.array(expected))
    assert answers[0, 0] == 0.2


def test_negative_log_likelihood_is_scikit_learns_and_bounded():
    answers, truth = random_answers(), np.random.default_rng(2).integers(0, 5, 200)
    loss = extraction.negative_log_likelihood(answers, truth)
    assert loss.mean() == pytest.approx(log_loss(truth, answers, labels=range(5)))
    assert extraction.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))[0] == pytest.approx(
        27.63, abs=0.01
    )


class TestCalibration:
    def test_by_hand(self):
        # Ten bins: two answers at .65 of which one is right, one at .95 that is.
        confidence, correct = np.array([0.65, 0.65, 0.95]), np.array([True, False, True])
        expected = (2 * 0.15 + 1 * 0.05) / 3
        assert extraction.expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)

    def test_errors_of_opposite_sign_in_one_bin_cancel_and_across_bins_do_not(self):
        correct = np.array([True, False])
        assert extraction.expected_calibration_error(np.array([0.5, 0.5]), correct) == pytest.approx(0)
        assert extraction.expected_calibration_error(np.array([0.4, 0.6]), correct) == pytest.approx(0.6)

    def test_certainty_that_is_right_costs_nothing(self):
        assert extraction.expected_calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0
        assert extraction.expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == 0.25

    def test_certainty_shares_the_last_bin(self):
        confidence, correct = np.array([1.0, 0.95]), np.array([False, True])
        assert extraction.expected_calibration_error(confidence, correct) == pytest.approx(0.475)

    def test_honest_confidence_is_calibrated(self):
        rng = np.random.default_rng(0)
        confidence = rng.random(200_000)
        assert extraction.expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.01

    def test_no_answers_have_no_error(self):
        assert extraction.expected_calibration_error(np.empty(0), np.empty(0, dtype=bool)) == 0


class TestRiskCoverage:
    def test_by_hand(self):
        # Ranked: right, wrong, right. Risk at coverage 1/3, 2/3, 1: 0, 1/2, 1/3.
        confidence, correct = np.array([0.2, 0.9, 0.5]), np.array([True, True, False])
        found = extraction.area_under_risk_coverage(confidence, correct)
        assert found == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)

    def test_ties_count_as_the_mean_over_their_orders(self):
        confidence, correct = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, True])
        orders = ([1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0])
        by_order = [(np.cumsum(1 - np.array(order)) / np.arange(1, 5)).mean() for order in orders]
        assert extraction.area_under_risk_coverage(confidence, correct) == pytest.approx(np.mean(by_order))

    def test_the_order_of_the_inputs_does_not_matter(self):
        rng = np.random.default_rng(0)
        confidence, correct = rng.integers(0, 4, 50) / 4, rng.random(50) < 0.7
        shuffled = rng.permutation(50)
        assert extraction.area_under_risk_coverage(confidence, correct) == pytest.approx(
            extraction.area_under_risk_coverage(confidence[shuffled], correct[shuffled])
        )

    def test_answers_without_confidence_get_their_error_rate(self):
        correct = np.array([True, False, True, True, False])
        assert extraction.area_under_risk_coverage(np.ones(5), correct) == pytest.approx(0.4)

    def test_knowing_what_one_does_not_know_pays(self):
        correct = np.array([True] * 8 + [False] * 2)
        good, bad = np.linspace(1, 0, 10), np.linspace(0, 1, 10)
        assert (
            extraction.area_under_risk_coverage(good, correct)
            < 0.2
            < extraction.area_under_risk_coverage(bad, correct)
        )

    def test_no_answers_have_no_area(self):
        assert math.isnan(extraction.area_under_risk_coverage(np.empty(0), np.empty(0, dtype=bool)))
