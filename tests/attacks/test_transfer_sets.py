"""Ways to make a transfer set out of answers: which rows it holds, and which way is kept."""

import numpy as np
import pytest

from attacks.transfer_sets import ways as module
from attacks.transfer_sets.ways import ANSWERS, NOISY, PSEUDO, VIEWS, Ways, kept

CLASSES = 3


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 90)


class Network:
    """A surrogate that knows the class: that of the largest of an input's first values; ``sure`` of it."""

    def __init__(self, sure=0.99):
        self.sure = sure

    def __call__(self, x):
        labels = x.reshape(len(x), -1)[:, :CLASSES].argmax(axis=1)
        rows = np.full((len(x), CLASSES), (1 - self.sure) / (CLASSES - 1))
        rows[np.arange(len(x)), labels] = self.sure
        return rows

    def features(self, x):
        raise AssertionError("only a simulated defense looks at features")

    def perturbed(self, scale, seed):
        raise AssertionError("only a simulated defense perturbs")


class Factory:
    """Trains surrogates that know the class, and records what they were given."""

    def __init__(self, sure=0.99, network=True):
        self.sure, self.network, self.given, self.efforts = sure, network, [], []

    def __call__(self):
        raise AssertionError("nothing here learns step by step")

    def fit(self, sets, effort=1.0):
        self.given.append(list(sets))
        self.efforts.append(effort)
        return [Network(self.sure) if self.network else Network(self.sure).__call__ for _ in sets]


def table(number, seed):
    x = np.random.default_rng(seed).random((number, 4)).astype(np.float32)
    return x, np.eye(CLASSES)[x[:, :CLASSES].argmax(axis=1)]


def rows_of(x):
    return {row.tobytes() for row in x}


def compared(rest, factory=None, x=None):
    factory = factory or Factory()
    part = table(20, 0) if x is None else x
    ways = Ways(rest, factory, 5, 0.3)
    return ways, factory, ways.compared([part, part], [factory.fit([part])[0]] * 2)


def test_the_ways_that_there_are():
    rest, _ = table(30, 1)
    assert list(compared(rest)[2]) == [ANSWERS, PSEUDO, VIEWS]
    assert list(compared(rest[:0])[2]) == [ANSWERS, VIEWS]
    assert list(compared(rest, Factory(network=False))[2]) == [ANSWERS, PSEUDO]
    assert list(compared(rest, x=table(44, 0))[2]) == [ANSWERS, PSEUDO, VIEWS]
    # Two folds of 45 answers: all of them fill the 90 rows that the transfer set would be filled up to.
    assert list(compared(rest, x=table(45, 0))[2]) == [ANSWERS, PSEUDO]
    assert list(compared(rest, x=table(0, 0))[2]) == [ANSWERS]


def test_all_that_are_compared_take_the_same_share_of_the_steps():
    rest, _ = table(30, 1)
    ways, factory, found = compared(rest)
    factory.efforts.clear()
    ways.compared([table(20, 0)], found[ANSWERS][:1])
    ways.self_trained([table(20, 0)], found[VIEWS][:1])
    assert factory.efforts == [0.3] * (2 + module.ROUNDS)


def test_the_answers_alone_are_learned_as_they_are():
    x, targets = table(20, 0)
    inputs, learned = compared(table(30, 1)[0])[0].final(ANSWERS, (x, targets), [])
    assert inputs is x
    assert learned is targets


def test_views_fill_the_rows_in_turn_and_have_the_targets_of_their_inputs():
    x, _ = table(20, 0)
    targets = np.random.default_rng(3).dirichlet(np.ones(CLASSES), 20)
    inputs, learned = compared(x[:0])[0].final(VIEWS, (x, targets), [])
    assert len(inputs) == 90
    assert np.array_equal(inputs[:20], x)
    assert np.array_equal(learned, targets[np.arange(90) % 20])
    same = inputs[20:] == x[np.arange(20, 90) % 20]
    assert 0.8 < same.mean() < 1  # a tenth of the values is replaced
    assert all(set(inputs[:, column]) <= set(x[:, column]) for column in range(4))


def test_of_unqueried_inputs_only_those_with_a_sure_label_are_learned():
    rest, labels = table(30, 1)
    x, targets = table(20, 0)

    def half_sure(inputs):
        rows = Network()(inputs)
        rows[inputs[:, 3] < 0.5] = 1 / CLASSES
        return rows

    sure = rest[:, 3] >= 0.5
    ways = compared(rest)[0]
    inputs, learned = ways.made(PSEUDO, (x, targets), half_sure(rest), "")
    assert np.array_equal(inputs[20:], rest[sure])
    assert np.array_equal(learned[20:], labels[sure])
    inputs, learned = ways.final(NOISY, (x, targets), [half_sure, half_sure])
    assert len(inputs) == 90
    # By hand: a third of 90 rows are answered; 30 % of the others' values may be replaced, by answered ones.
    assert np.array_equal(learned[:30], targets[np.arange(30) % 20])
    own = np.array([(rest[sure] == row).sum(axis=1).max() for row in inputs[30:]])
    assert own.mean() > 2.4
    unsure = [lambda inputs: np.full((len(inputs), CLASSES), 1 / CLASSES)]
    inputs, learned = ways.final(NOISY, (x, targets), unsure)
    assert np.array_equal(learned, targets[np.arange(90) % 20])


def test_labels_of_the_last_teachers_are_those_on_which_they_agree():
    rest, labels = table(30, 1)
    part = table(20, 0)

    def other(inputs):
        rows = Network()(inputs)
        rows[inputs[:, 3] < 0.5] = rows[inputs[:, 3] < 0.5][:, [1, 2, 0]]
        return rows

    inputs, learned = compared(rest)[0].final(NOISY, part, [Network(), other])
    for row, target in zip(inputs[30:], learned[30:], strict=True):
        near = (rest == row).sum(axis=1)
        if near.max() >= 3:  # else too much of it was replaced to know which one it was
            assert rest[near.argmax(), 3] >= 0.5
            assert np.array_equal(target, labels[near.argmax()])


def test_many_answers_are_never_dropped():
    x, targets = table(60, 0)
    inputs, learned = compared(table(30, 1)[0])[0].final(NOISY, (x, targets), [Network()])
    assert len(inputs) == len(learned) == 90
    assert np.array_equal(inputs[:60], x)
    inputs, _ = compared(table(30, 1)[0])[0].final(NOISY, table(120, 0), [Network()])
    assert np.array_equal(inputs, table(120, 0)[0])


def test_views_of_images_are_shifted_and_strong_ones_are_turned():
    rng = np.random.default_rng(0)
    x, rest = (rng.random((number, 1, 8, 8)).astype(np.float32) for number in (20, 30))
    targets = np.eye(CLASSES)[np.arange(20) % 3]
    ways = Ways(rest, Factory(), 5, 0.3)
    views, _ = ways.final(VIEWS, (x, targets), [])
    assert all(set(view.ravel()) <= set(x[row % 20].ravel()) for row, view in enumerate(views))
    noisy, _ = ways.final(NOISY, (x, targets), [Network()])
    assert not rows_of(noisy[30:]) & rows_of(rest)


def test_two_runs_draw_the_same_views_and_each_set_has_its_own():
    rest, _ = table(30, 1)
    part = table(20, 0)
    first, second = (compared(rest)[0].final(NOISY, part, [Network()]) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    _, factory, _ = compared(rest)
    sets = factory.given[-1]
    assert not np.array_equal(sets[0][0], sets[1][0])
    other = Ways(rest, Factory(), 6, 0.3).final(NOISY, part, [Network()])
    assert not np.array_equal(first[0], other[0])


BETTER, NEAR = np.zeros(100), np.tile([1.0, -0.9], 50)
"""Losses of which the mean of the second is above that of the first by .05, with a standard error of .095."""
WORSE = np.full(100, 0.05)


@pytest.mark.parametrize(
    ("losses", "labels", "expected"),
    [
        ({ANSWERS: NEAR, VIEWS: BETTER}, False, ANSWERS),
        ({ANSWERS: WORSE, VIEWS: BETTER}, False, VIEWS),
        ({ANSWERS: WORSE, VIEWS: NEAR, NOISY: BETTER}, False, NOISY),
        ({ANSWERS: BETTER, PSEUDO: NEAR}, False, ANSWERS),
        ({ANSWERS: BETTER, PSEUDO: NEAR}, True, PSEUDO),
        ({ANSWERS: BETTER, PSEUDO: WORSE}, True, ANSWERS),
        ({ANSWERS: NEAR, PSEUDO: WORSE, VIEWS: BETTER}, True, ANSWERS),
        ({ANSWERS: WORSE, PSEUDO: NEAR, NOISY: BETTER}, True, NOISY),
        ({ANSWERS: WORSE}, True, ANSWERS),
    ],
)
def test_the_best_way_is_kept_unless_a_simple_one_is_as_good(losses, labels, expected):
    assert kept(losses, labels=labels) == expected
