"""Inverses of defenses that move mass: what was moved is found and given back."""

import numpy as np
import pytest

from attacks.inverse import inverse_of
from attacks.inverse.base import StackPosition
from attacks.inverse.numerics.moved_mass import given_back, without_drawn, without_receiver
from bench.linear_programme import cheapest
from bench.plugins import defenses
from defenses.base import Batch


def synthetic(number=1_000, classes=10, lead=5.0, seed=0):
    """Return answers of a victim: softmax of normal logits, one raised by ``lead`` (5: mean top-1 of .8)."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(number, classes))
    logits[np.arange(number), rng.integers(classes, size=number)] += lead
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    return rows / rows.sum(axis=1, keepdims=True)


def l1(one, other):
    return np.abs(one - other).sum(axis=1)


def labels(rows):
    return np.eye(rows.shape[1])[rows.argmax(axis=1)]


def answered(text, rows):
    inputs = np.random.default_rng(3).random((len(rows), 1, 2, 2), dtype=np.float32)
    return defenses.build(text).answer(Batch(inputs, rows, rows.copy(), seed=1)).probabilities


def inverted(name, answers, estimate=None, parameters=None):
    parameters = inverse_of(name)().fit(answers, lambda: answers) if parameters is None else parameters
    return inverse_of(name)(parameters).invert(answers, estimate, StackPosition())


def test_mass_of_the_runners_up_goes_back_to_the_label_down_to_the_least_entry():
    given = [[0.491, 0.4909, 0.0111, *[0.001] * 7]]
    np.testing.assert_allclose(given_back(np.array(given), 0.5), [[0.991, *[0.001] * 9]], atol=1e-12)


def test_where_everything_else_received_everything_goes_back():
    np.testing.assert_allclose(given_back(np.array([[0.3, 0.7]]), 0.2), [[0.1, 0.9]], atol=1e-12)
    np.testing.assert_allclose(given_back(np.array([[0.2, 0.2, 0.6]]), 0.5), [[0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("lead", "raw", "label", "recovered"), [(5.0, 1.0, 0.38, 0.16), (8.0, 1.0, 0.045, 0.006)]
)
def test_modelguard_w_is_undone_better_than_by_labels(lead, raw, label, recovered):
    """Mean L1 to the clean answer at eps of 1: untouched, label alone, mass given back."""
    rows = synthetic(lead=lead)
    given = answered("modelguard_w", rows)
    back, explained = inverted("modelguard_w", given, parameters={"eps": 1.0})
    assert l1(given, rows).mean() == pytest.approx(raw, abs=0.01)
    assert l1(labels(given), rows).mean() == pytest.approx(label, rel=0.1)
    assert l1(back, rows).mean() < recovered
    assert explained.all()
    assert (back.argmax(axis=1) == rows.argmax(axis=1)).all()
    np.testing.assert_allclose(back.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 1.5])
def test_the_bound_of_modelguard_w_is_fitted_on_confident_answers(eps):
    given = answered(f"modelguard_w(eps={eps})", synthetic(lead=8.0))
    assert inverse_of("modelguard_w")().fit(given, lambda: given)["eps"] == pytest.approx(eps, abs=0.03)


@pytest.mark.parametrize("eps", [0.2, 0.8, 1.0, 1.6])
def test_the_random_class_is_found(eps):
    rows = synthetic(lead=7.0)
    given = answered(f"random_one_hot(eps={eps})", rows)
    assert inverse_of("random_one_hot")().fit(given, lambda: given)["eps"] == pytest.approx(eps, abs=0.01)
    found, explained = inverted("random_one_hot", given, parameters={"eps": eps})
    assert explained.mean() > 0.99
    assert l1(found, rows).mean() < 0.25 * l1(labels(rows), rows).mean()
    assert np.median(l1(found, rows)) < 1e-9


def test_an_estimate_decides_between_two_classes_that_may_have_been_drawn():
    """(.4, .3, .3) with a share of .3: of class 1 or 2."""
    given = np.array([[0.4, 0.3, 0.3]])
    for drawn in (1, 2):
        clean = (given[0] - 0.3 * np.eye(3)[drawn]) / 0.7
        found, explained = without_drawn(given, 0.3, clean[None] + 0.01)
        np.testing.assert_allclose(found[0], clean, atol=1e-12)
        assert explained.all()


def test_where_only_the_drawn_class_is_left_nothing_is_said():
    found, explained = inverted("random_one_hot", np.eye(3), parameters={"eps": 2.0})
    assert np.isnan(found).all()
    assert not explained.any()


def redirected(rows, eps, *, keep_label):
    """GRAD² with random slopes."""
    slopes = np.random.default_rng(4).normal(size=rows.shape)
    return cheapest(rows, -slopes, eps, keep_label=keep_label)


@pytest.mark.parametrize("eps", [0.6, 1.0])
@pytest.mark.parametrize("keep_label", [False, True])
def test_gradient_redirection_is_undone_better_than_by_labels(eps, keep_label):
    rows = synthetic(lead=7.0)
    given = redirected(rows, eps, keep_label=keep_label)
    parameters = {"eps": eps, "keep_label": keep_label}
    back, _ = inverted("grad_redirection", given, parameters=parameters)
    assert l1(back, rows).mean() < 0.5 * l1(given, rows).mean()
    assert l1(back, rows).mean() < l1(labels(given), rows).mean()
    assert (back.argmax(axis=1) == rows.argmax(axis=1)).mean() > 0.95
    if not keep_label and eps == 1:
        assert (given.argmax(axis=1) == rows.argmax(axis=1)).mean() < 0.3, "labels alone are wrong"


def test_an_estimate_decides_who_received():
    """(.5, .5): one of both received .4 from the other."""
    given = np.array([[0.5, 0.5, 0.0]])
    for clean in ([[0.9, 0.1, 0.0]], [[0.1, 0.9, 0.0]]):
        found, _ = without_receiver(given, 0.4, np.array(clean))
        np.testing.assert_allclose(found, clean, atol=1e-12)


@pytest.mark.parametrize(("eps", "keep_label"), [(0.4, False), (1.0, False), (1.3, False), (1.0, True)])
def test_the_bound_of_gradient_redirection_is_fitted_on_confident_answers(eps, keep_label):
    given = redirected(synthetic(lead=8.0), eps, keep_label=keep_label)
    fitted = inverse_of("grad_redirection")().fit(given, lambda: given)
    assert fitted["eps"] == pytest.approx(eps, abs=0.03 if keep_label else 0.001)
    assert fitted["keep_label"] == keep_label


def test_a_quantised_answer_is_left_as_it_is():
    answers = np.array([[0.6, 0.4, 0], [0.6, 0.4, 0]])
    found, explained = inverted("modelguard_s", answers, np.eye(3)[[0, 1]])
    assert (found == answers).all()
    assert explained.all()


MOVERS = {
    "random_one_hot": {"eps": 1.0},
    "mad": {"eps": 1.0, "proxy": "scratch"},
    "grad_redirection": {"eps": 1.0, "keep_label": False},
}


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_no_class_is_preferred_for_its_number(name, classes):
    """At eps = 1 an answer of which the victim is certain becomes a tie of two classes."""
    victim = np.eye(classes)[np.arange(40) % classes]
    given = (victim + np.roll(victim, 1, axis=1)) / 2
    rows, known = inverted(name, given, parameters=MOVERS[name])
    turned, too = inverted(name, given[:, ::-1], parameters=MOVERS[name])
    np.testing.assert_array_equal(rows, turned[:, ::-1])
    assert known.tolist() == too.tolist() == [classes > 2] * 40
    np.testing.assert_array_equal(rows, given if classes > 2 else np.full_like(given, np.nan))


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("classes", [2, 10])
def test_an_estimate_decides_a_tie(name, classes):
    victim = np.eye(classes)[np.arange(40) % classes]
    given = (victim + np.roll(victim, 1, axis=1)) / 2
    rows, known = inverted(name, given, 0.6 * victim + 0.4 / classes, MOVERS[name])
    assert known.all()
    np.testing.assert_allclose(rows, victim, atol=1e-9)
