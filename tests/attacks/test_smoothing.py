"""Smoothing: views are billed, their mean answer is the target of the input, rejected ones are left out."""

import numpy as np
import pytest
from attacked_api import SEEDS, FakeApi, rows_of
from spaces import SPACES, drawn

from attacks.base import Pool
from attacks.smoothing import Smoothing, viewed_inputs
from bench.errors import UsageError
from bench.plugins import attacks
from bench.seeds import random_state


class BrightnessApi(FakeApi):
    """Answers by the mean of an input, so that each view has an answer of its own."""

    def probabilities(self, x):
        share = np.nan_to_num(x).reshape(len(x), -1).mean(axis=1)
        return np.stack([share, 1 - share, np.zeros(len(x))], axis=1)


def pool_of(x):
    return Pool("own", x, np.zeros(len(x), np.int64), "in-distribution", same_classes=True)


@pytest.fixture
def pool():
    return pool_of(np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32))


def acquire(pool, budget, inputs=None, reject=None, **parameters):
    api = BrightnessApi(budget, **({"reject": reject} if reject else {}))
    if inputs is not None:
        api.inputs = inputs
    return Smoothing(**parameters).acquire(api, pool, None, SEEDS), api


def sent(api, shape=(1, 8, 8)):
    return np.stack([np.frombuffer(row, np.float32).reshape(shape) for row in api.queried])


@pytest.mark.parametrize(
    ("budget", "views", "size", "expected"),
    [
        (7, 3, 5, [0, 0, 0, 1, 1, 1, 2]),
        (1, 3, 5, [0]),
        (0, 3, 5, []),
        (6, 2, 2, [0, 0, 1, 1, 0, 1]),
        (3, 1, 5, [0, 1, 2]),
        (3, 1, 0, []),
    ],
)
def test_inputs_get_their_views_in_turn(budget, views, size, expected):
    assert viewed_inputs(budget, views, size).tolist() == expected


def test_the_target_is_the_mean_answer_to_the_views(pool):
    found, api = acquire(pool, 12)
    order = random_state(SEEDS.order).permutation(20)
    assert (found.x == pool.x[order[:4]]).all()
    means = sent(api).reshape(4, 3, -1).mean(axis=(1, 2))
    assert found.y[:, 0] == pytest.approx(means, abs=1e-6)
    assert found.y.sum(axis=1) == pytest.approx(1)
    assert api.batches == [12]


def test_views_are_shifts_that_vary(pool):
    _, api = acquire(pool, 60)
    views = sent(api).reshape(20, 3, 64)
    assert len(set(rows_of(sent(api)))) > 45
    assert not np.allclose(views[:, 0], views[:, 1])


def test_votes_are_shares_of_the_views(pool):
    bright = pool_of(np.concatenate([pool.x * 0.1, 0.9 + pool.x * 0.1]))
    found, _ = acquire(bright, 120, use_probability=False)
    label = (found.x.mean(axis=(1, 2, 3)) < 0.5).astype(int)
    assert (found.y == np.eye(3, dtype=np.float32)[label]).all()


def test_rejected_views_do_not_count_in_the_mean(pool):
    found, api = acquire(pool, 12, reject=lambda x: np.arange(len(x)) % 2 == 1)
    views, inputs = sent(api).reshape(4, 3, 64), pool.x[random_state(SEEDS.order).permutation(20)[:4]]
    expected = []
    for number in range(4):
        # Of the first input, views 0 and 2 are answered; of the second, view 1; and so on.
        answered, rejected = ([0, 2], [1]) if number % 2 == 0 else ([1], [0, 2])
        if (views[number, rejected] != inputs[number].reshape(-1)).any(axis=1).all():
            expected.append(views[number, answered].mean())
    assert len(expected) >= 2
    assert found.y[:, 0] == pytest.approx(expected, abs=1e-6)


def test_an_input_that_was_itself_rejected_is_not_learned():
    flat = pool_of(np.full((6, 1, 8, 8), 0.5, np.float32))  # every view of a constant image is the image
    found, api = acquire(flat, 18, reject=lambda x: np.arange(len(x)) % 3 == 0)
    assert len(api.queried) == 18
    assert len(found.x) == 0


def test_where_everything_is_rejected_nothing_is_learned(pool):
    found, api = acquire(pool, 9, reject=lambda x: np.ones(len(x), bool))
    assert found.x.shape == (0, 1, 8, 8)
    assert found.y.shape == (0, 3)
    assert len(api.queried) == 9


def test_a_smaller_budget_sends_the_first_queries_of_a_larger_one(pool):
    _, few = acquire(pool, 7)
    _, many = acquire(pool, 30)
    assert few.queried == many.queried[:7]


def test_an_exhausted_pool_gets_further_views(pool):
    found, api = acquire(pool, 100)
    assert len(api.queried) == 100
    assert len(found.x) == 20


@pytest.mark.parametrize("name", sorted(SPACES))
def test_views_of_any_space_may_be_sent(name):
    space = SPACES[name]
    own = pool_of(drawn(space, 30, np.random.default_rng(1)))
    found, api = acquire(own, 60, space)
    assert not space.problem(sent(api, space.shape))
    assert found.x.shape[1:] == space.shape


@pytest.mark.parametrize("text", ["smoothing(views=0)", "smoothing(views=101)"])
def test_an_impossible_number_of_views_is_refused(text):
    with pytest.raises(UsageError, match=r"views=.*\[1, 100\]"):
        attacks.build(text)
