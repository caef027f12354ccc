"""JBDA: seeds of the pool, then what is made of them by the surrogate's gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_api import SEEDS, FakeApi, rows_of

from attacks import jbda
from attacks.base import Pool, RandomSeeds, Target
from attacks.copycat import Copycat
from attacks.jbda import Jbda, nearest_classes, other_classes, train
from bench.errors import NotApplicable, UsageError
from bench.inputs import InputSpace
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks
from bench.seeds import random_state

SHAPE = (1, 1, 3)
UNIT = InputSpace(SHAPE)


class PixelApi(FakeApi):
    """A linear victim: each pixel is a class' score."""

    def probabilities(self, x):
        told = np.exp(5.0 * x.reshape(len(x), -1)[:, : self.nb_classes])
        told /= told.sum(axis=1, keepdims=True)
        return told


class Linear:
    """A student whose scores are ``slope`` times the pixels, whatever it is taught."""

    slope = 4.0

    def __init__(self, classes=3):
        self.taught, self.classes = [], classes

    def step(self, x, y):
        self.taught.append((x.copy(), y.copy()))

    def logits(self, x):
        return (self.slope * x.reshape(len(x), -1)[:, : self.classes]).astype(np.float32)

    def gradient(self, x, y):
        scores = np.exp(self.slope * x.reshape(len(x), -1)[:, : y.shape[1]])
        slope = np.zeros((len(x), x[0].size))
        slope[:, : y.shape[1]] = self.slope * (scores / scores.sum(axis=1, keepdims=True) - y)
        return slope.reshape(x.shape).astype(np.float32)


class School:
    """Hands out students, and remembers them."""

    def __init__(self, classes=3):
        self.students, self.classes = [], classes

    def __call__(self):
        self.students.append(Linear(self.classes))
        return self.students[-1]

    @property
    def trained(self):
        return [student for student in self.students if student.taught]


@pytest.fixture
def pool():
    x = np.random.default_rng(0).random((40, *SHAPE), dtype=np.float32)
    return Pool("made", x, np.zeros(40, np.int64), "near", same_classes=False)


@pytest.fixture
def trained(context, digits_spec, digits_pool):
    """A network that learnt 200 digits."""
    x = digits_pool.x[:200]
    y = context.api(digits_spec, (), 0, 0, budget=None).predict(x)
    return train(InterimSurrogates("mlp", (1, 8, 8), 10, 3)(), x, y, random_state(0)), x, y


def acquire(attack, pool, budget, surrogates=None, seeds=SEEDS, **shown):
    api = PixelApi(budget, **shown)
    return attack.acquire(api, pool, surrogates or School(), seeds), api


# --- how queries are made


def test_a_step_moves_each_pixel_by_the_sign_of_the_gradient_towards_the_class():
    x = np.array([[0.5, 0.5, 0.5], [0.96, 0.02, 0.5]], np.float32).reshape(2, *SHAPE)
    towards = np.eye(3)[[0, 2]]
    made = Jbda(step=0.1, steps=1).moved(Linear(), x, towards, UNIT).reshape(2, 3)
    np.testing.assert_allclose(made, [[0.6, 0.4, 0.4], [0.86, 0.0, 0.6]], atol=1e-6)
    far = Jbda(step=0.1, steps=3).moved(Linear(), x, towards, UNIT).reshape(2, 3)
    np.testing.assert_allclose(far, [[0.8, 0.2, 0.2], [0.66, 0.0, 0.8]], atol=1e-6)
    assert made.dtype == np.float32


def test_queries_move_towards_the_class_and_stay_in_range(trained):
    student, x, y = trained
    towards = other_classes(y, random_state(1))
    attack = Jbda(step=0.05, steps=5)
    made = attack.moved(student, x, towards, UNIT)
    assert made.shape == x.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert 0.2 < np.abs(made - x).max() <= 0.25 + 1e-6

    def likely(rows):
        wide = np.exp(student.logits(rows).astype(np.float64))
        return ((wide / wide.sum(axis=1, keepdims=True)) * towards).sum(axis=1)

    assert (likely(made) > likely(x)).mean() > 0.95
    assert likely(made).mean() > likely(x).mean() + 0.3


def test_the_class_is_any_but_the_answers_own():
    y = np.eye(4)[np.repeat(np.arange(4), 100)] * 0.7 + 0.075
    drawn = other_classes(y, random_state(3))
    assert (drawn.sum(axis=1) == 1).all()
    assert set(np.unique(drawn)) == {0, 1}
    pairs = {(int(own), int(other)) for own, other in zip(y.argmax(1), drawn.argmax(1), strict=True)}
    assert pairs == {(own, other) for own in range(4) for other in range(4) if own != other}


def test_of_two_classes_it_is_the_other():
    y = np.eye(2)[[0, 1, 1, 0]]
    assert (other_classes(y, random_state(0)) == 1 - y).all()
    x = np.random.default_rng(0).random((20, *SHAPE), dtype=np.float32)
    two = Pool("made", x, np.zeros(20, np.int64), "near", same_classes=False)
    for targets in ("random", "top3", "self"):
        transfer_set, api = acquire(Jbda(targets=targets, seeds=10), two, 35, School(2), classes=2)
        assert transfer_set.y.shape == (35, 2)
        assert api.batches == [10, 10, 15]


def test_the_nearest_classes_are_the_likeliest_others_and_ties_go_to_the_lowest():
    logits = np.array([[1, 3, 2, 0, -1], [5, 4, 4, 6, 7]], np.float32)
    y = np.array([[0, 0.9, 0.1, 0, 0], [0, 0, 0, 1, 0]])
    assert [each.argmax(axis=1).tolist() for each in nearest_classes(logits, y)] == [[2, 4], [0, 0], [3, 1]]
    assert all((each.sum(axis=1) == 1).all() for each in nearest_classes(logits, y))
    assert [each.tolist() for each in nearest_classes(logits[:1, :2], y[:1, :2])] == [[[1, 0]]]


def test_top3_makes_a_query_towards_each_other_class_the_nearest_of_all_inputs_first(pool):
    school = School()
    transfer_set, api = acquire(Jbda(targets="top3", seeds=10, step=0.1, steps=1), pool, 100, school)
    assert api.batches == [10, 20, 60, 10]
    assert len(school.trained) == 3
    start, made = transfer_set.x[:10].reshape(10, 3), transfer_set.x[10:30].reshape(2, 10, 3)
    ranked = np.argsort(-start, axis=1)
    for turn in (0, 1):
        # A pixel is a class' score: only the one that is aimed at rises.
        rises = made[turn] > start
        full = start[np.arange(10), ranked[:, 1 + turn]] < 1
        assert (rises.argmax(axis=1) == ranked[:, 1 + turn])[full].all()
        assert (rises.sum(axis=1) == 1)[full].all()


def test_self_moves_each_input_towards_the_class_that_was_answered(pool):
    transfer_set, api = acquire(Jbda(targets="self", seeds=10, step=0.1, steps=2), pool, 20)
    assert api.batches == [10, 10]
    start, made = transfer_set.x[:10].reshape(10, 3), transfer_set.x[10:].reshape(10, 3)
    signs = np.where(np.eye(3)[start.argmax(axis=1)] == 1, 1, -1)
    np.testing.assert_allclose(made, np.clip(start + 0.2 * signs, 0, 1), atol=1e-6)


def test_the_variants_draw_nothing_but_the_seeds_and_the_batches(pool):
    for targets in ("top3", "self"):
        one, other = (
            acquire(Jbda(targets=targets, seeds=10), pool, 60, seeds=RandomSeeds(11, choices))[0]
            for choices in (12, 99)
        )
        assert one.digest() == other.digest()  # this student is the same whatever it learns


def test_a_student_learns_batches_of_what_was_obtained(pool):
    y = np.eye(3)[np.arange(40) % 3]
    student = train(Linear(), pool.x, y, random_state(0))
    assert len(student.taught) == jbda.STUDENT_STEPS
    place = {row: index for index, row in enumerate(rows_of(pool.x))}
    seen = set()
    for x, told in student.taught[:20]:
        assert len(x) == jbda.BATCH
        rows = [place[row] for row in rows_of(x)]
        assert (told == y[rows]).all()
        seen |= set(rows)
    assert len(seen) == 40


# --- rounds


def test_it_starts_with_the_draw_that_every_attack_shares(pool):
    school = School()
    seeds, _ = acquire(Jbda(seeds=25), pool, 25, school)
    random, _ = acquire(Copycat(), pool, 25)
    assert seeds.digest() == random.digest()
    assert school.trained == []


def test_each_round_makes_one_query_of_every_input_it_has(pool):
    school = School()
    transfer_set, api = acquire(Jbda(seeds=10, step=0.1, steps=2), pool, 70, school)
    assert api.batches == [10, 10, 20, 30]
    assert len(school.trained) == 3
    own = set(rows_of(pool.x))
    assert all(row in own for row in rows_of(transfer_set.x[:10]))
    assert not any(row in own for row in rows_of(transfer_set.x[10:]))
    parents = np.concatenate([transfer_set.x[:10], transfer_set.x[:20], transfer_set.x[:30]])
    apart = np.abs(transfer_set.x[10:] - parents)
    assert apart.max() <= 0.2 + 1e-6
    assert (apart.max(axis=(1, 2, 3)) > 0.05).all()
    assert transfer_set.x.min() >= 0
    assert transfer_set.x.max() <= 1
    for student, had in zip(school.trained, (10, 20, 40), strict=True):
        assert {row for x, _ in student.taught for row in rows_of(x)} == set(rows_of(transfer_set.x[:had]))


@pytest.mark.parametrize("targets", ["random", "top3", "self"])
def test_a_smaller_budget_obtains_the_beginning_of_a_larger_one(targets, pool):
    attack = Jbda(targets=targets, seeds=10, use_probability=True)
    large, _ = acquire(attack, pool, 100)
    for budget in (1, 10, 11, 33, 80):
        small, api = acquire(attack, pool, budget)
        assert len(api.queried) == budget
        assert small.x.tobytes() == large.x[:budget].tobytes()
        assert small.y.tobytes() == large.y[:budget].tobytes()


def test_it_spends_more_than_the_pool_holds(pool):
    transfer_set, _ = acquire(Jbda(seeds=10), pool, 300)
    assert len(transfer_set.x) == 300
    assert Jbda().supply(7) is None


def test_it_needs_its_seeds_in_the_pool(pool):
    target = Target(3, linear=False)
    assert Jbda(seeds=40).applicable(pool, target) == ""
    reason = Jbda(seeds=41).applicable(pool, target)
    assert "seeds=41" in reason
    assert "40 inputs" in reason


@pytest.mark.parametrize("budget", [5, 60])
def test_a_surrogate_without_gradients_is_said_to_be_one_at_every_budget(budget, pool):
    with pytest.raises(NotApplicable, match="sklearn-tree"):
        acquire(Jbda(seeds=10), pool, budget, InterimSurrogates("sklearn-tree", SHAPE, 3, 0))


# --- what it is told


def bright(x):
    return x[:, 0, 0, 0] > 0.6


def test_what_is_rejected_is_neither_learnt_from_nor_built_upon(pool):
    school = School()
    transfer_set, api = acquire(Jbda(seeds=10), pool, 100, school, reject=bright)
    queried = np.array([np.frombuffer(row, np.float32) for row in api.queried]).reshape(-1, *SHAPE)
    assert len(queried) == 100
    assert rows_of(transfer_set.x) == rows_of(queried[~bright(queried)])
    assert bright(queried).any()
    assert np.isfinite(transfer_set.y).all()
    assert not any(bright(x).any() for student in school.students for x, _ in student.taught)


def test_rejected_seeds_are_replaced_from_the_pool(pool):
    _, api = acquire(Jbda(seeds=10), pool, 40, reject=bright)
    own = rows_of(pool.x[random_state(SEEDS.order).permutation(40)])
    drawn = [row for row in api.queried if row in own]
    refused = np.array([np.frombuffer(row, np.float32)[0] > 0.6 for row in drawn])
    assert drawn == own[: len(drawn)]
    assert (~refused).sum() == 10
    assert refused.any()
    assert api.queried[: len(drawn)] == drawn


def test_seeds_that_the_pool_cannot_replace_are_done_without(pool):
    few = replace(pool, x=pool.x[:12])
    transfer_set, api = acquire(Jbda(seeds=12), few, 60, reject=bright)
    assert len(api.queried) == 60
    assert sum(row in rows_of(few.x) for row in api.queried) == 12
    assert len(transfer_set.x) > 12


def test_against_a_wall_it_asks_for_the_pool_again(pool):
    school = School()
    wall, api = acquire(Jbda(seeds=15), pool, 90, school, reject=lambda x: np.ones(len(x), bool))
    own = rows_of(pool.x[random_state(SEEDS.order).permutation(40)])
    assert api.queried == (own * 3)[:90]
    assert school.trained == []
    assert wall.x.shape == (0, *SHAPE)
    assert wall.y.shape == (0, 3)
    assert wall.x.dtype == wall.y.dtype == np.float32


def test_a_student_is_trained_anew_only_where_there_is_something_new(pool):
    own = set(rows_of(pool.x))
    school = School()
    _, api = acquire(
        Jbda(seeds=10), pool, 60, school, reject=lambda x: np.array([row not in own for row in rows_of(x)])
    )
    assert api.batches == [10] * 6
    assert len(school.trained) == 1


def test_it_learns_labels_or_whole_answers(pool):
    whole, _ = acquire(Jbda(seeds=10, use_probability=True), pool, 30)
    labels, _ = acquire(Jbda(seeds=10), pool, 30)
    assert (whole.y == PixelApi(30).predict(whole.x).astype(np.float32)).all()
    assert (labels.y == np.eye(3)[PixelApi(30).predict(labels.x).argmax(axis=1)]).all()


# --- seeds


def test_it_depends_on_its_two_streams_alone_and_touches_no_global_generator(
    context, digits_spec, digits_pool, monkeypatch
):
    monkeypatch.setattr(jbda, "STUDENT_STEPS", 30)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    def purchase(seeds):
        api = context.api(digits_spec, (), 0, 0, budget=45)
        return Jbda(seeds=20).acquire(api, digits_pool, InterimSurrogates("mlp", (1, 8, 8), 10, 3), seeds)

    one, again, choices, order = map(purchase, (SEEDS, SEEDS, RandomSeeds(11, 99), RandomSeeds(12, 12)))
    assert one.digest() == again.digest()
    assert one.x[:20].tobytes() == choices.x[:20].tobytes()
    assert one.x[20:].tobytes() != choices.x[20:].tobytes()
    assert one.x[:20].tobytes() != order.x[:20].tobytes()
    assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before


def test_the_classes_are_drawn_anew_each_round_from_the_stream_of_choices(pool):
    """The student here is the same whatever it is taught, so that the classes alone tell queries apart."""
    one, _ = acquire(Jbda(seeds=30), pool, 90)
    other, _ = acquire(Jbda(seeds=30), pool, 90, seeds=RandomSeeds(11, 99))
    assert rows_of(one.x[:30]) == rows_of(other.x[:30])
    assert rows_of(one.x[30:60]) != rows_of(other.x[30:60])
    assert rows_of(one.x[30:60]) != rows_of(one.x[60:])


def test_the_rounds_are_no_more_than_it_says(pool):
    for targets in ("random", "top3", "self"):
        attack = Jbda(targets=targets, seeds=10)
        for budget in (1, 10, 11, 90, 200):
            assert len(acquire(attack, pool, budget)[1].batches) <= attack.round_trips(budget)


def test_unknown_targets_are_an_error_that_names_those_there_are():
    assert attacks.build("jbda(targets=top3)").targets == "top3"
    with pytest.raises(UsageError, match=r"targets='top5'; .*top3"):
        attacks.build("jbda(targets=top5)")


def test_a_step_out_of_range_is_an_error_that_names_the_range():
    with pytest.raises(UsageError, match=r"step=1.5; number in \(0, 1\]"):
        attacks.build("jbda(step=1.5)")
