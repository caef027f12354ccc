"""What an attacker who knows MAD or MAD-argmax makes of the answers, on rows of which the truth is known."""

import numpy as np
import pytest

from attacks.inverse.base import StackPosition
from attacks.inverse.mad import MadInverse
from attacks.inverse.mad_argmax import MadArgmaxInverse
from defenses.gradient_angle.angle import best_set, best_vertex, set_targets, towards, with_sole_maximum
from defenses.networks import softmax

WHOLE = StackPosition()


def l1(one, other):
    return np.abs(one - other).sum(axis=1).mean()


@pytest.fixture(scope="module")
def victim():
    """Rows of a confident victim of 10 classes, what a random network says, and a poor surrogate."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 10))
    logits[np.arange(500), rng.integers(0, 10, 500)] += 6
    proxy = softmax(rng.normal(0, 0.15, 10) + rng.normal(0, 0.05, (500, 10)))
    return softmax(logits), proxy, softmax(0.5 * logits + rng.normal(0, 0.5, logits.shape))


def smoothed(victim, eps):
    clean, proxy, _ = victim
    top = clean.argmax(axis=1)
    return with_sole_maximum(towards(clean, set_targets(best_set(clean, proxy), top), eps), top)


def poisoned(victim, eps):
    clean, proxy, _ = victim
    return towards(clean, np.eye(10)[best_vertex(clean, proxy)], eps)


@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_the_smoothing_of_mad_argmax_comes_off(victim, eps):
    clean, answers = victim[0], smoothed(victim, eps)
    rows, explained = MadArgmaxInverse({"eps": eps}).invert(answers, None, WHOLE)
    label = l1(np.eye(10)[clean.argmax(axis=1)], clean)
    assert l1(answers, clean) > 2.5 * label
    assert l1(rows, clean) < 0.1 * label
    assert explained.mean() > 0.99


def test_of_an_answer_that_is_its_target_the_label_is_left(victim):
    clean, answers = victim[0], smoothed(victim, 2.0)
    rows, explained = MadArgmaxInverse({"eps": 2.0}).invert(answers, None, WHOLE)
    assert not explained.any()
    np.testing.assert_array_equal(rows, np.eye(10)[clean.argmax(axis=1)])


@pytest.mark.parametrize("eps", [0.3, 0.9, 1.0, 1.8])
def test_mad_is_undone_exactly_where_the_class_is_found(victim, eps):
    clean, answers, estimate = victim[0], poisoned(victim, eps), victim[2]
    inverse = MadInverse({"eps": eps, "proxy": "scratch"})
    rows, explained = inverse.invert(answers, estimate, WHOLE)
    assert explained.all()
    assert l1(answers, clean) == pytest.approx(eps, abs=1e-6)
    # The estimate itself is worse than the label of the clean answer.
    assert l1(rows, clean) < 1e-3 < l1(estimate, clean)
    assert l1(inverse.invert(answers, None, WHOLE)[0], clean) < 0.05


def test_where_labels_are_flipped_mad_is_undone_all_the_same(victim):
    clean, answers = victim[0], poisoned(victim, 1.2)
    assert (answers.argmax(axis=1) != clean.argmax(axis=1)).all()
    rows, _ = MadInverse({"eps": 1.2}).invert(answers, None, WHOLE)
    assert (rows.argmax(axis=1) == clean.argmax(axis=1)).all()


@pytest.mark.parametrize("eps", [1.0, 1.1, 1.5, 2.0])
def test_of_two_classes_that_are_swapped_the_victims_label_is_found(eps):
    tops = np.linspace(0.52, 0.999, 60)
    clean = np.stack([tops, 1 - tops], axis=1)
    clean[::2] = clean[::2, ::-1]
    answers = towards(clean, 1 - np.eye(2)[clean.argmax(axis=1)], eps)
    rows, explained = MadInverse({"eps": eps, "proxy": "scratch"}).invert(answers, None, WHOLE)
    assert explained.all()
    np.testing.assert_array_equal(rows.argmax(axis=1), clean.argmax(axis=1))
    np.testing.assert_allclose(rows.sum(axis=1), 1)


def test_the_control_without_a_network_is_undone_by_its_rule():
    clean = np.array([[0.6, 0.3, 0.1], [0.2, 0.05, 0.75]])
    answers = towards(clean, np.eye(3)[clean.argmin(axis=1)], 0.5)
    rows, explained = MadInverse({"eps": 0.5, "proxy": "identity"}).invert(answers, None, WHOLE)
    np.testing.assert_allclose(rows, clean, atol=1e-12)
    assert explained.all()


@pytest.mark.parametrize("eps", [0.3, 0.9, 1.2, 1.5])
def test_the_bound_is_estimated_from_answers(victim, eps):
    assert MadInverse().fit(poisoned(victim, eps), None)["eps"] == pytest.approx(eps, abs=0.05)
    assert MadArgmaxInverse().fit(smoothed(victim, eps), None)["eps"] == pytest.approx(eps, abs=0.05)


def test_forward_is_within_the_bound_and_simulates_the_mean(victim):
    clean = victim[0]
    for inverse, answers in (
        (MadInverse({"eps": 0.4}), poisoned(victim, 0.4)),
        (MadArgmaxInverse({"eps": 0.4}), smoothed(victim, 0.4)),
    ):
        simulated = inverse.forward(clean)
        np.testing.assert_allclose(simulated.sum(axis=1), 1, atol=1e-12)
        assert np.abs(simulated - clean).sum(axis=1).max() <= 0.4 + 1e-12
        top = np.arange(len(clean)), clean.argmax(axis=1)
        assert simulated[top].mean() == pytest.approx(answers[top].mean(), abs=0.02)


def test_rounded_answers_are_undone_about(victim):
    clean, answers = victim[0], np.round(smoothed(victim, 1.0), 3)
    rows, _ = MadArgmaxInverse({"eps": 1.0}).invert(answers, None, StackPosition(exact=False))
    assert l1(rows, clean) < 0.5 * l1(np.eye(10)[clean.argmax(axis=1)], clean)


@pytest.mark.parametrize("classes", [2, 100])
def test_two_and_a_hundred_classes_are_undone_better_than_by_labels(classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, classes))
    logits[np.arange(400), rng.integers(0, classes, 400)] += 4
    clean = softmax(logits)
    proxy = softmax(rng.normal(0, 0.15, classes) + rng.normal(0, 0.05, clean.shape))
    victim = (clean, proxy, softmax(0.5 * logits + rng.normal(0, 0.5, logits.shape)))
    label = l1(np.eye(classes)[clean.argmax(axis=1)], clean)
    kept, _ = MadArgmaxInverse({"eps": 0.5}).invert(smoothed(victim, 0.5), None, WHOLE)
    assert l1(kept, clean) < 0.7 * label
    changed = towards(clean, np.eye(classes)[best_vertex(clean, proxy)], 1.0)
    rows, _ = MadInverse({"eps": 1.0, "proxy": "scratch"}).invert(changed, victim[2], WHOLE)
    assert l1(rows, clean) < 0.1 * label
    assert (rows.argmax(axis=1) == clean.argmax(axis=1)).all()
