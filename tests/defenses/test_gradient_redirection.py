"""GRAD² and its random control: derivatives by another method, optimal answers, inputs of any layout."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from spaces import SPACES, victim_of

from bench.inputs import InputSpace
from bench.plugins import defenses
from defenses import grad_redirection
from defenses.base import Batch, Calibration
from defenses.grad_redirection import along_ones
from defenses.networks import initial


def by_double_backpropagation(network, x):
    """Return (n, classes): the gradient by u of the sum of the entries of grad_w <u, log F(x; w)>."""
    inputs = torch.from_numpy(network.encoded(x)).double()
    module = network.module.double()
    weights = torch.zeros(len(x), network.classes, dtype=torch.float64, requires_grad=True)
    logs = torch.log_softmax(module(inputs), dim=1)
    gradients = torch.autograd.grad((weights * logs).sum(), list(module.parameters()), create_graph=True)
    (result,) = torch.autograd.grad(sum(each.sum() for each in gradients), weights)
    module.float()
    return result.numpy()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_derivatives_are_those_of_double_backpropagation(shape):
    network = initial(InputSpace(shape), 7, 3)
    x = np.random.default_rng(0).random((20, *shape), dtype=np.float32)
    found = along_ones(network, x)
    expected = by_double_backpropagation(network, x)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    # The expectation of d log F under F is 0.
    np.testing.assert_allclose((network.probabilities(x) * found).sum(axis=1), 0, atol=1e-4)


def data(seed=5):
    """Return a calibration split, and a batch of other inputs with answers: 3 classes, 4×4 images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=120)
    inputs = (labels[:, None, None, None] / 3 + rng.uniform(0, 0.3, (120, 1, 4, 4))).astype(np.float32)
    rows = 0.9 * np.eye(3)[labels] + 0.1 * rng.dirichlet(np.ones(3), 120)
    split = Calibration(inputs[:60], labels[:60], inputs[:80], labels[:80], rows[:80], seed=7)
    return split, Batch(inputs[80:], rows[80:], rows[80:].copy())


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def build(text):
        if text not in made:
            made[text] = defenses.build(text)
            made[text].fit(data()[0])
        return made[text]

    return build


def test_the_surrogate_learns_the_victim(fitted):
    batch = data()[1]
    predicted = fitted("grad_redirection").surrogate_.probabilities(batch.inputs)
    assert (predicted.argmax(axis=1) == batch.raw.argmax(axis=1)).mean() > 0.9


def test_answers_move_the_thrust_of_training_towards_all_ones(fitted):
    """The sum of the cross-entropy's descent direction over all parameters rises by what the answer gains."""
    defense, batch = fitted("grad_redirection"), data()[1]
    given = defense.answer(batch).probabilities
    slopes = by_double_backpropagation(defense.surrogate_, batch.inputs)
    gained = ((given - batch.raw) * slopes).sum(axis=1)
    # By hand: mass 1/2 goes to the class of the steepest slope, first from that of the flattest.
    for row, clean, gain in zip(slopes, batch.raw, gained, strict=True):
        order = np.argsort(row)
        moved, left = 0.0, min(0.5, 1 - clean[order[-1]])
        for paying in order[:-1]:
            paid = min(left, clean[paying])
            moved, left = moved + paid * (row[order[-1]] - row[paying]), left - paid
        assert gain == pytest.approx(moved, rel=1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("keep_label", ["false", "true"])
def test_the_bound_holds_and_the_label_where_it_is_kept(eps, keep_label, fitted):
    batch = data()[1]
    given = fitted(f"grad_redirection(eps={eps}, keep_label={keep_label})").answer(batch).probabilities
    assert (np.abs(given - batch.raw).sum(axis=1) <= eps).all()
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-12)
    flips = (given.argmax(axis=1) != batch.raw.argmax(axis=1)).mean()
    if keep_label == "true" or eps in {0.0, 0.3}:
        assert flips == 0
    elif eps == 2:
        assert flips > 0.3
        assert (given.max(axis=1) > 1 - 1e-9).all()


def test_it_redirects_the_answers_of_the_defense_before_it(fitted):
    batch = data()[1]
    rows = batch.raw.round(1)
    given = fitted("grad_redirection").answer(replace(batch, probabilities=rows)).probabilities
    assert (np.abs(given - rows).sum(axis=1) <= 1).all()
    np.testing.assert_allclose(given.sum(axis=1), rows.sum(axis=1), atol=1e-12)


def test_two_fits_have_the_same_bits_and_another_secret_others(fitted):
    split, batch = data()
    again, other = (defenses.build("grad_redirection") for _ in range(2))
    again.fit(split)
    other.fit(replace(split, seed=8))
    first = fitted("grad_redirection").answer(batch).probabilities
    assert again.answer(batch).probabilities.tobytes() == first.tobytes()
    assert other.answer(batch).probabilities.tobytes() != first.tobytes()


def test_another_strength_uses_the_same_surrogate(fitted, monkeypatch):
    defense = fitted("grad_redirection(eps=1.0, keep_label=true)")
    monkeypatch.setattr(grad_redirection, "train", None)
    other = defense.at(0.25, data()[0])
    assert (other.eps, other.keep_label) == (0.25, True)
    assert other.surrogate_ is defense.surrogate_


@pytest.mark.parametrize("name", SPACES)
def test_tables_bytes_and_sequences_are_answered_row_by_row_as_in_a_batch(name):
    victim = victim_of(SPACES[name])
    train, test = victim.splits.train, victim.splits.test
    rows = victim.probabilities(train.x)
    split = Calibration(train.x, train.y, train.x, train.y, rows, seed=1, space=SPACES[name])
    defense = defenses.build("grad_redirection(keep_label=true)")
    defense.fit(split)
    raw = victim.probabilities(test.x[:6])
    whole = defense.answer(Batch(test.x[:6], raw, raw.copy())).probabilities
    assert np.isfinite(whole).all()
    assert (whole != raw).any(axis=1).all()
    for row in range(6):
        part = slice(row, row + 1)
        alone = defense.answer(Batch(test.x[part], raw[part], raw[part].copy())).probabilities
        assert alone.tobytes() == whole[part].tobytes()


@pytest.mark.parametrize("classes", [2, 100])
def test_two_and_a_hundred_classes(classes):
    rng = np.random.default_rng(0)
    x = rng.random((150, 1, 4, 4), dtype=np.float32)
    rows = rng.dirichlet(np.full(classes, 0.1), 150)
    for keep_label in (False, True):
        defense = defenses.build(f"grad_redirection(keep_label={str(keep_label).lower()})")
        defense.fit(Calibration(x, rows.argmax(axis=1), x, rows.argmax(axis=1), rows, seed=2))
        given = defense.answer(Batch(x, rows, rows.copy())).probabilities
        assert (np.abs(given - rows).sum(axis=1) <= 1).all()
        assert (given >= 0).all()
        np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-12)
        assert not keep_label or (given.argmax(axis=1) == rows.argmax(axis=1)).all()


def test_it_has_to_be_fitted():
    with pytest.raises(NotFittedError, match="calibration"):
        defenses.build("grad_redirection").answer(data()[1])


# --- the random control


def control(rows, text="random_one_hot(eps=0.6)", **changes):
    rows = np.array(rows)
    inputs = np.random.default_rng(1).random((len(rows), 1, 2, 2), dtype=np.float32)
    return defenses.build(text).answer(replace(Batch(inputs, rows, rows.copy()), **changes)).probabilities


def test_the_mass_goes_to_one_class_that_is_not_the_top():
    rows = np.random.default_rng(2).dirichlet([0.5] * 4, size=600)
    moved = control(rows) - 0.7 * rows
    drawn = moved.argmax(axis=1)
    np.testing.assert_allclose(moved, 0.3 * np.eye(4)[drawn], atol=1e-12)
    assert (drawn != rows.argmax(axis=1)).all()
    # Each other class is as likely: 200 expected of those whose top is one class, in thirds.
    for top in range(4):
        counts = np.bincount(drawn[rows.argmax(axis=1) == top], minlength=4)
        others = np.delete(counts, top)
        expected = others.sum() / 3
        assert ((others - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, .001


def test_from_a_bound_of_one_on_no_label_is_right():
    rows = np.random.default_rng(2).dirichlet([0.1] * 10, size=200)
    given = control(rows, "random_one_hot(eps=1.01)")
    assert (given.argmax(axis=1) != rows.argmax(axis=1)).all()


def test_at_a_bound_of_one_certain_answers_tie():
    """The tie shows the first class: of two, that is right for one of them."""
    given = control([[1, 0], [0, 1], [0.9, 0.1]], "random_one_hot(eps=1.0)")
    np.testing.assert_array_equal(given[:2], 0.5)
    assert given[2].argmax() == 1


def test_with_two_classes_the_other_one_is_drawn():
    np.testing.assert_allclose(control([[0.9, 0.1], [0.2, 0.8]]), [[0.63, 0.37], [0.44, 0.56]], atol=1e-12)


def test_repeated_inputs_get_a_new_class_unless_it_is_consistent():
    rows = np.tile([0.97, 0.01, 0.01, 0.01], (30, 1))
    for text, same in (("random_one_hot", False), ("random_one_hot(consistent=true)", True)):
        first, later = control(rows, text), control(rows, text, number=30)
        assert (first.tobytes() == later.tobytes()) == same
