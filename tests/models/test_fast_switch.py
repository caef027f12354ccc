"""MOATBENCH_FAST=0 trains and evaluates by PyTorch's own operators, with equal weights and answers."""

import math

import numpy as np
import pytest
import torch

from attacks.base import TransferSet
from bench.models import fast, networks, surrogates, training
from bench.models.determinism import single_thread, torch_seed
from bench.models.fast import adam, backprop, max_pooling
from bench.models.interim_surrogates import InterimSurrogates

LOSSES = ("cross-entropy", "mse-log-softmax")
SHAPES = {
    "logistic": (1, 8, 8),
    "mlp": (1, 8, 8),
    "mlp128": (1, 8, 8),
    "cnn": (1, 8, 8),
    "lenet": (1, 28, 28),
}


def transfer_sets(shape, sizes, hard):
    rng = np.random.default_rng(0)
    for size in sizes:
        x = rng.random((size, *shape), dtype=np.float32)
        x[:, :, 0] = 0  # like the border of handwriting: its gradients are exactly zero
        y = rng.dirichlet(np.ones(10), size).astype(np.float32)
        yield TransferSet(x, np.eye(10, dtype=np.float32)[y.argmax(axis=1)] if hard else y)


def switch(monkeypatch, *, on):
    monkeypatch.setenv("MOATBENCH_FAST", "1" if on else "0")
    surrogates._blank.cache_clear()


def forbid_fast_path(monkeypatch):
    def never(*_, **__):
        raise AssertionError("the fast path ran")

    for cls in (adam.FlatAdam, backprop.LayerSequence, max_pooling.MaxPool2x2, max_pooling.PooledConv2d):
        monkeypatch.setattr(cls, "__init__", never)
    for name in ("max_pool_2x2", "maxima", "corners", "pool_backward"):
        monkeypatch.setattr(max_pooling, name, never)


@pytest.fixture(autouse=True)
def as_in_a_worker():
    with single_thread():
        yield
    surrogates._blank.cache_clear()


def both_ways(monkeypatch, work):
    """Return what ``work`` returns with the fast path and without it."""
    switch(monkeypatch, on=True)
    quick = work()
    switch(monkeypatch, on=False)
    with monkeypatch.context() as patch:
        forbid_fast_path(patch)
        plain = work()
    return quick, plain


def test_the_fast_path_is_on_unless_switched_off(monkeypatch):
    monkeypatch.delenv("MOATBENCH_FAST", raising=False)
    assert fast.enabled()
    monkeypatch.setenv("MOATBENCH_FAST", "0")
    assert not fast.enabled()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_whole_training_gives_equal_weights_and_answers_without_the_fast_path(
    name, loss, hard, monkeypatch
):
    shape = SHAPES[name]
    # Three repeats: batched networks where the architecture allows it, with short last batches.
    sizes, config = (70, 64, 33), f"rule(epochs=4, batch_size=32, loss={loss}, constant=0.001)"
    sets = list(transfer_sets(shape, sizes, hard))
    inputs = np.random.default_rng(1).random((40, *shape), dtype=np.float32)

    def work():
        trained = surrogates.fit(sets, name, 10, [1, 2, 3], None, config)
        return [(each.half, each.full, each.probabilities(inputs)) for each in trained]

    for quick, plain in zip(*both_ways(monkeypatch, work), strict=True):
        for one, other in zip(quick[:2], plain[:2], strict=True):
            assert list(one) == list(other)
            assert all(torch.equal(one[key], other[key]) for key in one)
        assert np.array_equal(quick[2], plain[2])


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_training_alone_gives_equal_weights_logits_and_features(name, monkeypatch):
    shape = SHAPES[name]
    (transfer_set,) = transfer_sets(shape, (70,), hard=True)
    schedule = training.TrainingSchedule(12, 32, 2e-3, weight_decay=1e-4)

    def work():
        with torch_seed(5):
            network = networks.build(name, shape, 10)
            weights = training.train(network, transfer_set.x, transfer_set.y, schedule, 5)
        outputs = training.logits(network, transfer_set.x), *training.activations(network, transfer_set.x)
        return [value.numpy() for state in weights for value in state.values()] + list(outputs)

    quick, plain = both_ways(monkeypatch, work)
    assert all(np.array_equal(one, other) for one, other in zip(quick, plain, strict=True))


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet"])
def test_an_online_surrogate_gives_equal_logits_and_gradients(name, monkeypatch):
    shape = SHAPES[name]
    (transfer_set,) = transfer_sets(shape, (24,), hard=False)

    def work():
        online = InterimSurrogates(name, shape, 10, 3)()
        for start in range(0, 24, 2):
            batch = slice(start, start + 2)
            online.step(transfer_set.x[batch], transfer_set.y[batch].astype(np.float64))
        y = transfer_set.y.astype(np.float64)
        return online.logits(transfer_set.x), online.gradient(transfer_set.x, y)

    quick, plain = both_ways(monkeypatch, work)
    assert all(np.array_equal(one, other) for one, other in zip(quick, plain, strict=True))
    assert math.prod(quick[1].shape) == transfer_set.x.size
