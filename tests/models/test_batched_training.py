"""Batched training gives each perceptron what the plain loop gives it alone."""

import numpy as np
import pytest
import torch

from bench.models import networks as architectures
from bench.models import training
from bench.models.batched_training import BATCHED, train_batched
from bench.models.determinism import torch_seed
from bench.models.training import TrainingSchedule

SHAPE = (1, 4, 4)
SCHEDULE = TrainingSchedule(30, 16, 3e-3)


def networks(name, seeds):
    made = []
    for seed in seeds:
        with torch_seed(seed):
            made.append(architectures.build(name, SHAPE, 3))
    return made


def data(*sizes):
    rng = np.random.default_rng(sum(sizes))
    xs = [rng.random((n, *SHAPE), dtype=np.float32) for n in sizes]
    return xs, [rng.dirichlet(np.ones(3), n).astype(np.float32) for n in sizes]


def furthest(one, other):
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", sorted(BATCHED))
@pytest.mark.parametrize("sizes", [(40, 40, 40), (40, 7, 100), (1, 64), (33,)])
def test_batched_networks_are_trained_as_each_alone(name, sizes):
    xs, ys = data(*sizes)
    seeds = range(len(sizes))
    together = train_batched(networks(name, seeds), xs, ys, SCHEDULE, seeds)
    for network, x, y, seed, stacked in zip(networks(name, seeds), xs, ys, seeds, together, strict=True):
        alone = training.train(network, x, y, SCHEDULE, seed)
        for one, other in zip(stacked, alone, strict=True):
            assert furthest(one, other) < 1e-4


@pytest.mark.parametrize("name", sorted(BATCHED))
def test_a_network_without_rows_keeps_its_weights(name):
    xs, ys = data(20, 0, 30)
    start = [training.snapshot(network) for network in networks(name, range(3))]
    together = train_batched(networks(name, range(3)), xs, ys, SCHEDULE, range(3))
    assert furthest(together[1][0], start[1]) == furthest(together[1][1], start[1]) == 0
    assert furthest(together[0][1], start[0]) > 1e-2
    alone = training.train(networks(name, [2])[0], xs[2], ys[2], SCHEDULE, 2)
    assert furthest(together[2][1], alone[1]) < 1e-4


def test_networks_without_any_rows_keep_their_weights():
    xs, ys = data(0, 0)
    start = [training.snapshot(network) for network in networks("mlp", range(2))]
    for (half, full), before in zip(
        train_batched(networks("mlp", range(2)), xs, ys, SCHEDULE, range(2)), start, strict=True
    ):
        assert furthest(half, before) == furthest(full, before) == 0


def test_the_same_batched_training_twice_is_equal_to_the_last_bit():
    xs, ys = data(20, 30)
    one, other = (train_batched(networks("mlp", range(2)), xs, ys, SCHEDULE, range(2)) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert furthest(first[0], second[0]) == furthest(first[1], second[1]) == 0


def test_weights_after_half_and_all_of_the_steps_differ():
    xs, ys = data(20, 30)
    for half, full in train_batched(networks("mlp", range(2)), xs, ys, SCHEDULE, range(2)):
        assert all(not torch.equal(half[name], full[name]) for name in full)
