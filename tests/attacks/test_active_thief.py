"""ActiveThief: what the copy is unsure of, what lies apart, and a schedule that no budget changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from attacked_api import SEEDS, FakeApi, rows_of

from attacks.active_thief import BY_DISTANCE, EFFORT, WIDER, ActiveThief, by_distance, by_entropy, k_center
from attacks.base import Pool, RandomSeeds, Target
from attacks.copycat import Copycat
from bench.errors import NotApplicable, UsageError
from bench.inputs import Column, InputSpace
from bench.models.interim_surrogates import InterimSurrogates
from bench.plugins import attacks

STRATEGIES = ("uncertainty", "certainty", "k-center", "both", "dfal", "dfal-k-center")


class PixelApi(FakeApi):
    """Answers by the distance of a pixel to each class' place."""

    def probabilities(self, x):
        near = -50 * (x[:, 0, 0, :1] - np.linspace(0, 1, self.nb_classes)) ** 2
        return np.exp(near) / np.exp(near).sum(axis=1, keepdims=True)


class Neighbours:
    """Trains no network: a copy answers by the mean of what was told of the nearest inputs."""

    def __init__(self):
        self.sizes, self.efforts = [], []

    def fit(self, sets, effort=1.0):
        self.efforts.append(effort)
        self.sizes += [len(x) for x, _ in sets]
        return [self.copy(x.reshape(len(x), -1), y) for x, y in sets]

    @staticmethod
    def copy(known, y):
        def answer(x):
            apart = ((x.reshape(len(x), 1, -1) - known) ** 2).sum(axis=2)
            weights = np.exp(-20 * (apart - apart.min(axis=1, keepdims=True)))
            return weights @ y / weights.sum(axis=1, keepdims=True)

        return answer


class Means:
    """A linear surrogate: each class' score is high near the mean of the inputs that were told to have it."""

    def __init__(self, x, y):
        known = y.argmax(axis=1)
        flat = x.reshape(len(x), -1).astype(np.float64)
        # A class that nothing was told of lies far away.
        centers = [flat[known == k].mean(axis=0) if (known == k).any() else -9 for k in range(y.shape[1])]
        centers = np.stack(np.broadcast_arrays(*centers, flat[0])[:-1])
        self.slopes, self.heights = 40 * centers, -20 * np.square(centers).sum(axis=1)

    def __call__(self, x):
        scores = x.reshape(len(x), -1) @ self.slopes.T + self.heights
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)

    def encoded(self, x):
        return x

    def linearised(self, encoded, classes):
        scores = encoded.reshape(len(encoded), -1) @ self.slopes.T + self.heights
        slopes = self.slopes[classes].reshape(*classes.shape, *encoded.shape[1:])
        return scores, slopes.astype(np.float32)


class MeansOnRequest(Neighbours):
    """Trains surrogates that have gradients."""

    copy = staticmethod(Means)

    def __call__(self):
        return None


def trainer_for(strategy):
    return MeansOnRequest() if strategy in BY_DISTANCE else Neighbours()


@pytest.fixture
def pool():
    x = np.random.default_rng(0).random((150, 1, 1, 2), dtype=np.float32)
    return Pool("made", x, np.zeros(150, np.int64), "near", same_classes=False)


def acquire(attack, pool, budget, surrogates=None, seeds=SEEDS, **shown):
    api = PixelApi(budget, **shown)
    return attack.acquire(api, pool, surrogates or trainer_for(getattr(attack, "strategy", "")), seeds), api


# --- the choices


def test_the_uncertain_come_by_falling_entropy_and_equals_keep_their_order():
    told = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.4, 0.3, 0.3], [0, 1, 0], [0, 0.5, 0.5], [0.9, 0.1, 0]])
    assert by_entropy(told).tolist() == [2, 1, 4, 5, 0, 3]
    assert by_entropy(told, lowest=True).tolist() == [0, 3, 5, 1, 4, 2]


def test_k_center_takes_the_farthest_from_all_that_is_covered():
    covered = np.array([[0.0, 0.0], [0.0, 1.0]])
    told = np.array([[0.5, 0.0], [0.0, 5.0], [4.0, 0.0], [0.1, 4.9], [0.0, 0.9]])
    assert k_center(covered, told, 5).tolist() == [1, 2, 0, 3, 4]
    assert k_center(np.array([[0.0, 5.0]]), told, 2).tolist() == [2, 4]


def test_k_center_takes_one_of_each_cluster_before_a_second_of_any():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [9, 0], [0, 9], [9, 9], [4, 4]])
    cluster = rng.permutation(np.repeat(np.arange(5), 20))
    told = middles[cluster] + rng.normal(scale=0.1, size=(100, 2))
    assert sorted(cluster[k_center(middles[:1], told, 4)]) == [1, 2, 3, 4]


def test_k_center_takes_no_row_twice_and_the_first_of_equals():
    told = np.array([[0.0], [2.0], [2.0], [0.0]])
    assert k_center(np.zeros((1, 1)), told, 4).tolist() == [1, 0, 2, 3]
    assert k_center(np.zeros((0, 1)), told, 2).tolist() == [0, 1]


def test_uncertainty_queries_what_the_surrogate_is_least_sure_of(pool):
    transfer_set, _ = acquire(ActiveThief(strategy="uncertainty", seeds=20, rounds=1), pool, 40)
    start = transfer_set.x[:20], transfer_set.y[:20].astype(np.float64)
    copy = Neighbours.copy(start[0].reshape(20, -1), start[1])
    rest = pool.x[[row not in rows_of(start[0]) for row in rows_of(pool.x)]]
    left = rows_of(rest)
    entropy = -(copy(rest) * np.log(np.maximum(copy(rest), 1e-300))).sum(axis=1)
    ranks = np.argsort(np.argsort(-entropy))
    assert [ranks[left.index(row)] for row in rows_of(transfer_set.x[20:])] == list(range(20))


def test_k_center_chooses_by_what_the_surrogate_answers_not_by_pixels(pool):
    """Of a pool in which answers fall into two kinds, it buys the rare one first."""
    rare = np.arange(150) % 15 == 7
    told = np.where(rare[:, None], [[0.0, 1.0]], [[1.0, 0.0]])
    place = {row: index for index, row in enumerate(rows_of(pool.x))}

    def copy(x):
        return told[[place[row] for row in rows_of(x)]]

    chosen = ActiveThief(strategy="k-center").choose(copy, pool.x[~rare][:5], pool.x, 3)
    assert rare[chosen[0]]


def test_both_takes_what_lies_apart_among_the_uncertain_alone():
    alike = [[0.345, 0.33, 0.325]] * (2 * WIDER - 2)
    told = np.array([[0, 0, 1], [0.5, 0.5, 0], *alike, [0.34, 0.33, 0.33], [0, 0.5, 0.5], [1, 0, 0]])
    x = np.arange(len(told), dtype=np.float32)
    most, next_kind, surest = len(told) - 3, 1, {0, len(told) - 1}

    def copy(rows):
        return told[rows.astype(int)]

    def chosen(strategy):
        return ActiveThief(strategy=strategy).choose(copy, x[most : most + 1], x, 2).tolist()

    assert chosen("uncertainty") == [most, 2]
    assert chosen("certainty") == [0, len(told) - 1]
    assert set(chosen("k-center")) == surest
    assert chosen("both")[0] == next_kind
    assert ActiveThief(strategy="both").choose(copy, x[:0], x, 2).tolist() == [most, next_kind]


def test_dfal_takes_what_is_nearest_to_another_label_in_the_units_of_the_inputs():
    # Class 1 begins at 1: distances .9, .2, .5, 0 and, from the other side, .3.
    surrogate = Means(np.array([[0.0], [2.0]]), np.eye(2))
    x = np.array([[0.1], [0.8], [0.5], [1.0], [1.3]], np.float32)
    assert by_distance(surrogate, x).tolist() == [3, 1, 4, 2, 0]
    assert ActiveThief(strategy="dfal").choose(surrogate, x[:1], x, 2).tolist() == [3, 1]


def test_dfal_k_center_takes_what_lies_apart_among_as_many_of_the_nearest_as_are_then_queried():
    surrogate = Means(np.array([[0.0], [2.0]]), np.eye(2))
    x = np.array([[0.1], [0.9], [0.98], [1.02], [1.04], [2.0]], np.float32)
    attack = ActiveThief(strategy="dfal-k-center")
    # One was queried, two are asked for: three are preselected, 2, 3 and 4, and not the far ones.
    queried = np.array([[1.0]], np.float32)
    assert attack.choose(surrogate, queried, x, 2).tolist() == [4, 2]
    assert attack.choose(surrogate, np.array([[1.04]], np.float32), x, 2).tolist() == [2, 3]
    # With two queried before, four are preselected: of these 1 is the farthest from all.
    assert attack.choose(surrogate, np.repeat(queried, 2, axis=0), x, 2).tolist() == [1, 4]


@pytest.mark.parametrize("strategy", sorted(BY_DISTANCE))
@pytest.mark.parametrize("budget", [5, 60])
def test_a_surrogate_without_gradients_is_said_to_be_one_at_every_budget(strategy, budget, pool):
    attack = ActiveThief(strategy=strategy, seeds=10)
    with pytest.raises(NotApplicable, match="sklearn-tree"):
        acquire(attack, pool, budget, InterimSurrogates("sklearn-tree", (1, 1, 2), 3, 0))
    with pytest.raises(NotApplicable, match="gradients"):
        by_distance(Neighbours.copy(pool.x[:5].reshape(5, -1), np.eye(5)), pool.x)


def test_a_table_with_categories_is_said_to_have_no_gradients(pool):
    numbers = [Column("amount", "number", 0, 1), Column("rate", "number", 0, 1)]
    kinds = [*numbers, Column.of_categories("kind", ["a", "b"])]
    for columns, reason in ((numbers, ""), (kinds, "category")):
        target = Target(3, None, InputSpace.of_columns(columns))
        assert reason in ActiveThief(strategy="dfal").applicable(pool, target)
        assert bool(ActiveThief(strategy="dfal-k-center").applicable(pool, target)) == bool(reason)
        assert ActiveThief().applicable(pool, target) == ""
    assert ActiveThief(strategy="dfal").applicable(pool, Target(3, None)) == ""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_queries_nearer_to_the_victims_borders_than_chance_does_or_farther_if_asked_to(
    strategy, context, digits_spec, digits_pool
):
    def margin(attack):
        api = context.api(digits_spec, (), 0, 0, budget=100)
        surrogates = InterimSurrogates("mlp", (1, 8, 8), 10, 3)
        ranked = np.sort(attack.acquire(api, digits_pool, surrogates, SEEDS).y, axis=1)
        return (ranked[:, -1] - ranked[:, -2]).mean()

    chosen, drawn = ActiveThief(strategy=strategy, use_probability=True), Copycat(use_probability=True)
    farther = strategy == "certainty"
    assert (margin(drawn) - margin(chosen)) * (-1 if farther else 1) > 0.03


# --- the schedule


def test_what_was_asked_doubles_in_as_many_rounds_as_it_says(pool):
    assert list(islice(ActiveThief(seeds=20, rounds=1).totals(), 4)) == [20, 40, 80, 160]
    assert list(islice(ActiveThief(seeds=20, rounds=2).totals(), 5)) == [20, 28, 40, 57, 80]
    surrogates = Neighbours()
    _, api = acquire(ActiveThief(seeds=20, rounds=2), pool, 70, surrogates)
    assert api.batches == [20, 8, 12, 17, 13]
    assert surrogates.sizes == [20, 28, 40, 57]
    assert set(surrogates.efforts) == {EFFORT}


def test_every_batch_of_a_slow_schedule_holds_an_input():
    totals = list(islice(ActiveThief(seeds=1, rounds=100).totals(), 300))
    assert totals[0] == 1
    assert (np.diff(totals) >= 1).all()


@pytest.mark.parametrize("use_probability", [True, False])
def test_it_starts_with_the_draw_that_every_attack_shares(use_probability, pool):
    surrogates = Neighbours()
    first, _ = acquire(ActiveThief(seeds=25, use_probability=use_probability), pool, 25, surrogates)
    random, _ = acquire(Copycat(use_probability=use_probability), pool, 25)
    assert first.digest() == random.digest()
    assert surrogates.sizes == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_smaller_budget_obtains_the_beginning_of_a_larger_one(strategy, pool):
    attack = ActiveThief(strategy=strategy, seeds=10, use_probability=True)
    large, _ = acquire(attack, pool, 120)
    for budget in (1, 10, 11, 33, 80):
        small, api = acquire(attack, pool, budget)
        assert len(api.queried) == budget
        assert small.x.tobytes() == large.x[:budget].tobytes()
        assert small.y.tobytes() == large.y[:budget].tobytes()


def test_a_budget_beyond_the_pool_queries_each_input_once(pool):
    transfer_set, api = acquire(ActiveThief(seeds=40), pool, 1_000)
    assert len(api.queried) == len(transfer_set.x) == 150
    assert set(api.queried) == set(rows_of(pool.x))
    few, _ = acquire(ActiveThief(seeds=40), replace(pool, x=pool.x[:7]), 20)
    assert len(few.x) == 7
    assert ActiveThief().supply(7) == 7


# --- what it is told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_rejected_is_neither_learnt_from_nor_queried_again(strategy, pool):
    surrogates = trainer_for(strategy)
    attack = ActiveThief(strategy=strategy, seeds=20, rounds=1)
    transfer_set, api = acquire(attack, pool, 100, surrogates, reject=lambda x: x[:, 0, 0, 1] > 0.6)
    assert len(api.queried) == len(set(api.queried)) == 100
    kept = [row for row in api.queried if np.frombuffer(row, np.float32)[1] <= 0.6]
    assert rows_of(transfer_set.x) == kept
    assert len(kept) < 90
    assert np.isfinite(transfer_set.y).all()
    assert surrogates.sizes[0] == sum(row in kept for row in api.queried[:20])


def test_against_a_wall_the_random_draw_goes_on(pool):
    surrogates = Neighbours()
    wall, api = acquire(ActiveThief(seeds=10), pool, 60, surrogates, reject=lambda x: np.ones(len(x), bool))
    random, _ = acquire(Copycat(), pool, 60)
    assert api.queried == rows_of(random.x)
    assert surrogates.sizes == []
    assert wall.x.shape == (0, 1, 1, 2)
    assert wall.y.shape == (0, 3)
    assert wall.x.dtype == wall.y.dtype == np.float32


def test_it_learns_labels_or_whole_answers(pool):
    whole, api = acquire(ActiveThief(seeds=60, use_probability=True), pool, 60)
    labels, _ = acquire(ActiveThief(seeds=60), pool, 60)
    truth = PixelApi(60).predict(whole.x)
    assert (whole.y == truth.astype(np.float32)).all()
    assert (labels.y == np.eye(3)[truth.argmax(axis=1)]).all()
    assert api.nb_classes == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_classes_are_enough(strategy, pool):
    transfer_set, _ = acquire(ActiveThief(strategy=strategy, seeds=10), pool, 50, classes=2)
    assert transfer_set.y.shape == (50, 2)
    assert len(set(rows_of(transfer_set.x))) == 50


# --- seeds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_depends_on_the_order_alone_and_touches_no_global_generator(strategy, pool):
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    attack = ActiveThief(strategy=strategy, seeds=10)
    seeds = (SEEDS, SEEDS, RandomSeeds(11, 99), RandomSeeds(12, 12))
    one, again, choices, order = (acquire(attack, pool, 60, seeds=each)[0].digest() for each in seeds)
    assert one == again == choices != order
    assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before


def test_a_surrogate_without_steps_can_choose_too(context, digits_spec, digits_pool):
    api = context.api(digits_spec, (), 0, 0, budget=60)
    surrogates = InterimSurrogates("sklearn-logistic", (1, 8, 8), 10, 3)
    transfer_set = ActiveThief().acquire(api, digits_pool, surrogates, SEEDS)
    assert len(set(rows_of(transfer_set.x))) == 60


def test_an_unknown_strategy_is_an_error_that_names_those_there_are():
    assert attacks.build("active_thief(strategy=k-center)").strategy == "k-center"
    with pytest.raises(UsageError, match=r"strategy='margin'; .*k-center"):
        attacks.build("active_thief(strategy=margin)")
