"""What a thief can train while he buys."""

import numpy as np
import pytest

from bench.errors import NotApplicable
from bench.models.interim_surrogates import InterimSurrogates

SHAPE = (1, 8, 8)


def lesson(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    x = rng.uniform(0, 0.3, (n, *SHAPE)).astype(np.float32)
    x[np.arange(n), 0, y] += 0.6
    return x, np.eye(3)[y]


@pytest.fixture
def apprentice():
    return InterimSurrogates("mlp", SHAPE, 3, 7)


def test_copies_learn_what_they_are_taught(apprentice):
    x, y = lesson(90, 0)
    other, truth = lesson(60, 1)
    (copy,) = apprentice.fit([(x, y)], 0.2)
    told = copy(other)
    assert told.shape == (60, 3)
    assert np.allclose(told.sum(axis=1), 1)
    assert (told.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.9


def test_the_same_lessons_give_the_same_bits_and_others_do_not(apprentice):
    sets, others = [lesson(30, 0), lesson(40, 1)], lesson(9, 2)[0]
    first, again = (apprentice.fit(sets, 0.05) for _ in range(2))
    assert all((a(others) == b(others)).all() for a, b in zip(first, again, strict=True))
    elsewhere = InterimSurrogates("mlp", SHAPE, 3, 8).fit(sets, 0.05)
    assert (elsewhere[0](others) != first[0](others)).any()
    # Each has an initialisation of its own, also where two learn the same.
    one, two = apprentice.fit([sets[0], sets[0]], 0.05)
    assert (one(others) != two(others)).any()


def test_more_effort_is_more_steps(apprentice):
    x, y = lesson(90, 0)
    (little,), (much,) = (apprentice.fit([(x, y)], effort) for effort in (0.01, 1.0))
    assert (little(x) * y).sum(axis=1).mean() < (much(x) * y).sum(axis=1).mean()
    for effort in (0, -1, 1.5):
        with pytest.raises(ValueError, match="effort"):
            apprentice.fit([(x, y)], effort)


def test_no_lessons_make_no_copies_and_an_empty_one_an_untrained_copy(apprentice):
    assert apprentice.fit([]) == []
    x, y = lesson(20, 0)
    empty, taught = apprentice.fit([(x[:0], y[:0]), (x, y)], 0.1)
    assert np.allclose(empty(x), apprentice.fit([(x[:0], y[:0])], 0.1)[0](x), atol=1e-6)
    assert (taught(x).argmax(axis=1) == y.argmax(axis=1)).mean() > 0.9


def test_a_rule_that_learns_from_the_rest_of_the_pool_trains_by_what_is_taught_alone():
    x, y = lesson(30, 0)
    plain, rest = (
        InterimSurrogates("mlp", SHAPE, 3, 7, how).fit([(x, y)], 0.05)[0](x)
        for how in ("rule", "rule(unlabelled=pseudo-labels)")
    )
    assert (plain == rest).all()


def test_library_models_can_be_taught_but_not_step_by_step():
    tree = InterimSurrogates("sklearn-tree", SHAPE, 3, 7)
    x, y = lesson(60, 0)
    (copy,) = tree.fit([(x, y)])
    assert (copy(x).argmax(axis=1) == y.argmax(axis=1)).all()
    with pytest.raises(NotApplicable, match="step by step"):
        tree()


@pytest.mark.parametrize("how", ["rule", "rule(mean=0.2, std=0.5)"])
def test_the_gradient_is_the_slope_of_the_loss(how):
    student = InterimSurrogates("mlp", SHAPE, 3, 7, how)()
    x, y = lesson(5, 0)
    slope = student.gradient(x, y)
    assert slope.shape == x.shape
    assert slope.dtype == np.float32

    def loss(inputs):
        logits = student.logits(inputs).astype(np.float64)
        return np.log(np.exp(logits).sum(axis=1)) - (logits * y).sum(axis=1)

    step = 1e-2 * slope / np.linalg.norm(slope.reshape(5, -1), axis=1).reshape(-1, 1, 1, 1)
    rise = (loss(x + step) - loss(x - step)) / 2e-2
    assert np.allclose(rise, np.linalg.norm(slope.reshape(5, -1), axis=1), rtol=0.05)


def test_a_gradient_leaves_the_student_as_it_was(apprentice):
    student = apprentice()
    x, y = lesson(5, 0)
    before = student.logits(x)
    student.gradient(x, y)
    assert (student.logits(x) == before).all()
