"""Surrogates that an attack trains while it still queries."""

import numpy as np
import pytest

from bench.errors import NotApplicable
from bench.models import networks
from bench.models.determinism import torch_seed
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.training import logits

SHAPE = (1, 8, 8)


def labelled_set(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    x = rng.uniform(0, 0.3, (n, *SHAPE)).astype(np.float32)
    x[np.arange(n), 0, y] += 0.6
    return x, np.eye(3)[y]


@pytest.fixture
def interim():
    return InterimSurrogates("mlp", SHAPE, 3, 7)


def test_interim_surrogates_learn_their_training_set(interim):
    x, y = labelled_set(90, 0)
    other, truth = labelled_set(60, 1)
    (copy,) = interim.fit([(x, y)], 0.2)
    answers = copy(other)
    assert answers.shape == (60, 3)
    assert np.allclose(answers.sum(axis=1), 1)
    assert (answers.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.9


def test_an_online_surrogate_starts_with_the_weights_of_its_seed():
    x, _ = labelled_set(40, 0)
    with torch_seed(9):
        untrained = networks.build("mlp", SHAPE, 10)
    expected = logits(untrained.eval(), x)
    assert np.allclose(InterimSurrogates("mlp", SHAPE, 10, 9)().logits(x), expected, atol=1e-6)


def test_the_same_sets_give_the_same_bits_and_other_seeds_do_not(interim):
    sets, others = [labelled_set(30, 0), labelled_set(40, 1)], labelled_set(9, 2)[0]
    first, again = (interim.fit(sets, 0.05) for _ in range(2))
    assert all((a(others) == b(others)).all() for a, b in zip(first, again, strict=True))
    elsewhere = InterimSurrogates("mlp", SHAPE, 3, 8).fit(sets, 0.05)
    assert (elsewhere[0](others) != first[0](others)).any()
    # Each has an initialisation of its own, also where two learn the same.
    one, two = interim.fit([sets[0], sets[0]], 0.05)
    assert (one(others) != two(others)).any()


def test_more_effort_is_more_steps(interim):
    x, y = labelled_set(90, 0)
    (little,), (much,) = (interim.fit([(x, y)], effort) for effort in (0.01, 1.0))
    assert (little(x) * y).sum(axis=1).mean() < (much(x) * y).sum(axis=1).mean()
    for effort in (0, -1, 1.5):
        with pytest.raises(ValueError, match="effort"):
            interim.fit([(x, y)], effort)


def test_no_sets_give_no_surrogates_and_an_empty_set_an_untrained_one(interim):
    assert interim.fit([]) == []
    x, y = labelled_set(20, 0)
    empty, taught = interim.fit([(x[:0], y[:0]), (x, y)], 0.1)
    assert np.allclose(empty(x), interim.fit([(x[:0], y[:0])], 0.1)[0](x), atol=1e-6)
    assert (taught(x).argmax(axis=1) == y.argmax(axis=1)).mean() > 0.9


def test_a_semi_supervised_training_configuration_uses_the_labelled_set_alone():
    x, y = labelled_set(30, 0)
    plain, rest = (
        InterimSurrogates("mlp", SHAPE, 3, 7, training).fit([(x, y)], 0.05)[0](x)
        for training in ("rule", "rule(unlabelled=pseudo-labels)")
    )
    assert (plain == rest).all()


def test_scikit_learn_models_train_on_sets_but_not_step_by_step():
    tree = InterimSurrogates("sklearn-tree", SHAPE, 3, 7)
    x, y = labelled_set(60, 0)
    (copy,) = tree.fit([(x, y)])
    assert (copy(x).argmax(axis=1) == y.argmax(axis=1)).all()
    with pytest.raises(NotApplicable, match="step by step"):
        tree()


@pytest.mark.parametrize("training", ["rule", "rule(mean=0.2, std=0.5)"])
def test_the_gradient_is_that_of_the_loss(training):
    online = InterimSurrogates("mlp", SHAPE, 3, 7, training)()
    x, y = labelled_set(5, 0)
    gradient = online.gradient(x, y)
    assert gradient.shape == x.shape
    assert gradient.dtype == np.float32

    def loss(inputs):
        values = online.logits(inputs).astype(np.float64)
        return np.log(np.exp(values).sum(axis=1)) - (values * y).sum(axis=1)

    step = 1e-2 * gradient / np.linalg.norm(gradient.reshape(5, -1), axis=1).reshape(-1, 1, 1, 1)
    rise = (loss(x + step) - loss(x - step)) / 2e-2
    assert np.allclose(rise, np.linalg.norm(gradient.reshape(5, -1), axis=1), rtol=0.05)


def test_a_gradient_leaves_the_online_surrogate_unchanged(interim):
    online = interim()
    x, y = labelled_set(5, 0)
    before = online.logits(x)
    online.gradient(x, y)
    assert (online.logits(x) == before).all()
