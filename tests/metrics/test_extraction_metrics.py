"""Every metric against cases counted by hand, and against scikit-learn where it has the same."""

import math

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from bench.metrics import extraction
from bench.metrics.utility import FLOOR

SURROGATE = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1]])
VICTIM = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.45, 0.5, 0.05], [0.6, 0.2, 0.2]])
TRUTH = np.array([0, 1, 1, 2])


def random_answers(n=200, classes=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


class TestExtraction:
    def test_it_has_these_metrics(self):
        assert set(extraction.extraction(SURROGATE, VICTIM, TRUTH, VICTIM)) == {
            f"extraction.{name}"
            for name in (
                *(
                    "fidelity",
                    "balanced_fidelity",
                    "agreement_deployed",
                    "fidelity_where_victim_errs",
                    "fidelity_low_margin",
                ),
                *("accuracy", "precision", "recall", "f1", "l1", "kl", "loss", "macro_f1"),
            )
        }

    def test_shares_are_counted_by_hand(self):
        # The surrogate says 0, 1, 2, 0; the victim 0, 1, 1, 0; the truth is 0, 1, 1, 2.
        deployed = np.array([[1.0, 0, 0], [np.nan] * 3, [0, 0, 1.0], [0, 1.0, 0]])
        found = extraction.extraction(SURROGATE, VICTIM, TRUTH, deployed)
        assert found["extraction.fidelity"] == 0.75
        assert found["extraction.balanced_fidelity"] == pytest.approx((2 / 2 + 1 / 2) / 2)
        assert found["extraction.accuracy"] == 0.5
        assert found["extraction.fidelity_where_victim_errs"] == 1.0
        assert found["extraction.fidelity_low_margin"] == 0.0
        assert found["extraction.agreement_deployed"] == pytest.approx(2 / 3)

    def test_precision_recall_and_f1_are_macro_averages(self):
        # Class 0: 1 of 2 said, 1 of 1 found. Class 1: 1 of 1, 1 of 2. Class 2: 0 of 1, 0 of 1.
        found = extraction.extraction(SURROGATE, VICTIM, TRUTH, VICTIM)
        assert found["extraction.precision"] == pytest.approx((0.5 + 1 + 0) / 3)
        assert found["extraction.recall"] == pytest.approx((1 + 0.5 + 0) / 3)
        assert found["extraction.f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_precision_recall_and_f1_are_scikit_learns(self):
        surrogate, victim = random_answers(), random_answers(seed=1)
        truth = np.random.default_rng(2).integers(0, 5, 200)
        expected = precision_recall_fscore_support(truth, surrogate.argmax(axis=1), average="macro")
        found = extraction.extraction(surrogate, victim, truth, victim)
        assert [found[f"extraction.{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(
            expected[:3]
        )

    def test_a_class_without_rows_or_guesses_warns_of_nothing(self):
        answers = np.eye(4)[[0, 0, 1]]
        found = extraction.extraction(answers, answers, np.array([0, 0, 1]), answers)
        assert found["extraction.precision"] == 0.5

    def test_distances_are_means_over_inputs(self):
        found = extraction.extraction(SURROGATE, VICTIM, TRUTH, VICTIM)
        assert found["extraction.l1"] == pytest.approx((0.2 + 0.2 + 1.1 + 0.4) / 4)
        assert found["extraction.kl"] == pytest.approx(float(extraction.kl(VICTIM, SURROGATE).mean()))

    def test_nothing_to_measure_is_none(self):
        found = extraction.extraction(SURROGATE, VICTIM, VICTIM.argmax(axis=1), np.full((4, 3), np.nan))
        assert found["extraction.fidelity_where_victim_errs"] is None
        assert found["extraction.agreement_deployed"] is None

    def test_a_perfect_surrogate_is_perfect(self):
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


def test_kl_by_hand():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)]
    assert extraction.kl(p, q) == pytest.approx(expected)
    assert extraction.kl(p, p).tolist() == [0, 0]


def test_kl_is_finite_where_the_surrogate_says_never():
    assert extraction.kl(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0] == pytest.approx(-math.log(FLOOR))


def test_kl_is_never_negative():
    assert (extraction.kl(random_answers(), random_answers(seed=1)) >= 0).all()
