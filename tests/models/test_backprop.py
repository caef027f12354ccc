"""Hand-written training steps equal those of autograd and Adam to the last bit."""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
from cases import slow_unless
from online import online_surrogate
from torch import nn
from torch.nn import functional

from bench.models import networks, training
from bench.models.batched_training import BATCHED, BatchedNetwork
from bench.models.determinism import flush_denormals, single_thread, torch_seed
from bench.models.fast.adam import FlatAdam
from bench.models.fast.backprop import LayerSequence, TrainableLayer, layers_of
from bench.models.fast.max_pooling import MaxPool2x2, PooledConv2d
from bench.models.training import Optimizer, TrainingSchedule

STEPS = 40
LOSSES = ("cross-entropy", "mse-log-softmax")


def network(name, shape, seed=0):
    with torch_seed(seed):
        return networks.build(name, shape, 10)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3, weight_decay=1e-4, fused=True)


def training_batches(rows, pixels, loss, *, hard=False, seed=0):
    """Yield inputs (…, pixels) and loss targets."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        x = torch.rand(*rows, pixels, generator=generator)
        x[..., :3] = 0  # as the border of handwriting: gradients of exactly nothing
        y = torch.softmax(3 * torch.randn(*rows, 10, generator=generator), -1)
        if hard:
            y = functional.one_hot(y.argmax(-1), 10).float()
        yield x, y if loss == "cross-entropy" else torch.log(y + 1e-6)


def learn(outputs, y, schedule):
    if schedule.loss == "cross-entropy":
        functional.cross_entropy(outputs, y).backward()
    else:
        training.row_losses(outputs, y, schedule).mean().backward()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def as_in_a_worker():
    with single_thread(), flush_denormals():
        yield


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("name", "size", "n", "hard"),
    slow_unless(
        lambda _, size, n, hard: (size == 8 and n in (1, 7)) or (size, n, hard) == (28, 64, True),
        [
            (name, size, *rows)
            for name in sorted(BATCHED)
            for size in (8, 28)
            for rows in ((1, True), (7, False), (64, False), (64, True))
        ],
    ),
)
def test_a_step_alone_is_autograds_to_the_last_bit(name, size, n, hard, loss):
    schedule = TrainingSchedule(1, weight_decay=1e-4, loss=loss)
    theirs, ours = (network(name, (1, size, size)) for _ in range(2))
    optimizer, fast_optimizer = adam(theirs.parameters()), Optimizer(ours, schedule)
    for x, y in training_batches((n,), size**2, loss, hard=hard):
        optimizer.zero_grad()
        outputs = theirs(x)
        learn(outputs, y, schedule)
        optimizer.step()
        fast_optimizer.step(x.reshape(n, 1, size, size), y, 3e-3)
        assert same(theirs.parameters(), ours.parameters())
    with torch.no_grad():
        assert torch.equal(theirs(x), fast_optimizer.logits(x.reshape(n, 1, size, size)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("name", "members", "n"),
    slow_unless(
        lambda _, members, n: (members, n) in ((1, 1), (3, 64)), product(sorted(BATCHED), (1, 3, 5), (1, 64))
    ),
)
def test_a_batched_step_is_autograds_to_the_last_bit(name, members, n, loss):
    schedule = TrainingSchedule(1, learning_rate=3e-3, weight_decay=1e-4, loss=loss)
    theirs, ours = (
        BatchedNetwork([network(name, (1, 8, 8), seed) for seed in range(members)]) for _ in range(2)
    )
    optimizer = adam([*theirs.weights, *theirs.biases])
    sequence = LayerSequence(ours.layers(), loss=loss, weight_decay=1e-4)
    share = torch.full((members, n), 1 / n)
    share[0, 0] = 0
    for x, y in training_batches((members, n), 64, loss):
        optimizer.zero_grad()
        outputs = x
        for place, (weight, bias) in enumerate(zip(theirs.weights, theirs.biases, strict=True)):
            outputs = torch.baddbmm(bias, torch.relu(outputs) if place else outputs, weight)
        training.row_losses(outputs, y, schedule).mul(share).sum().backward()
        optimizer.step()
        sequence.step(x, y, share, 3e-3)
        assert same([*theirs.weights, *theirs.biases], [*ours.weights, *ours.biases])


def test_an_online_surrogate_is_trained_to_the_same_bits():
    online, theirs = online_surrogate(network("mlp", (1, 8, 8)), 1e-3, (1, 8, 8)), network("mlp", (1, 8, 8))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    for x, y in training_batches((1,), 64, "cross-entropy", hard=True):
        online.step(x.reshape(1, 1, 8, 8).numpy(), y.double().numpy())
        optimizer.zero_grad()
        functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            assert np.array_equal(online.logits(x.reshape(1, 1, 8, 8).numpy()), theirs(x).numpy())
    x = x.reshape(1, 1, 8, 8).numpy()
    inputs = torch.from_numpy(x).requires_grad_()
    functional.cross_entropy(theirs(inputs), y, reduction="sum").backward()
    assert np.array_equal(online.gradient(x, y.double().numpy()), inputs.grad.numpy())


def pytorchs(found):
    """Return a copy of a network with PyTorch's own convolutions and pooling."""
    theirs = copy.deepcopy(found)
    for module in list(theirs.modules()):
        if isinstance(module, nn.Sequential):
            for place, layer in enumerate(module):
                if isinstance(layer, PooledConv2d):
                    plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
                    plain.load_state_dict(layer.state_dict())
                    module[place] = nn.Sequential(plain, nn.MaxPool2d(2))
                elif isinstance(layer, MaxPool2x2):
                    module[place] = nn.MaxPool2d(2)
    assert not any(isinstance(module, MaxPool2x2 | PooledConv2d) for module in theirs.modules())
    return theirs


@pytest.mark.parametrize(
    ("name", "n", "shape", "loss"),
    slow_unless(
        lambda name, n, shape, loss: (
            (n, shape, loss) == (1, (1, 28, 28), LOSSES[0]) or (name, n, shape) == ("lenet", 16, (1, 29, 30))
        ),
        product(["lenet", "cnn"], [16, 1], [(1, 28, 28), (3, 32, 32), (1, 29, 30), (4, 22, 22)], LOSSES),
    ),
)
def test_a_step_of_convolutions_is_autograds_to_the_last_bit(name, n, shape, loss):
    if n == 1 and name == "cnn":
        n = 2  # batch normalisation wants two
    schedule = TrainingSchedule(1, weight_decay=1e-4, loss=loss)
    ours = network(name, shape).train()
    theirs = pytorchs(ours)
    optimizer, fast_optimizer = adam(theirs.parameters()), Optimizer(ours, schedule)
    for rows, y in training_batches((n,), math.prod(shape), loss):
        x = rows.reshape(n, *shape)
        optimizer.zero_grad()
        outputs = theirs(x)
        learn(outputs, y, schedule)
        optimizer.step()
        fast_optimizer.step(x, y, 3e-3)
        assert same(theirs.state_dict().values(), ours.state_dict().values())
    theirs.eval()
    ours.eval()
    with torch.inference_mode():
        expected = theirs(x)
        assert torch.equal(fast_optimizer.logits(x), expected)
        assert same(ours.activations(x), theirs.activations(x))
    x.requires_grad_()
    gradients = [torch.autograd.grad(each(x).square().sum(), x)[0] for each in (ours, theirs)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (1, 1, 2, 2), (2, 3, 4, 10), (0, 1, 4, 4), (2, 2, 7, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_pooling_is_pytorchs_with_ties_included(shape, ties):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    x = (torch.relu(x).round() if ties else x).requires_grad_()
    found, expected = MaxPool2x2()(x), functional.max_pool2d(x, 2)
    assert torch.equal(found, expected)
    gradient = torch.randn(found.shape, generator=generator)
    assert same(torch.autograd.grad(found, x, gradient), torch.autograd.grad(expected, x, gradient))
    turned = x.detach().transpose(-1, -2)
    assert torch.equal(MaxPool2x2()(turned), functional.max_pool2d(turned, 2))


def test_corners_that_differ_by_a_denormal_number_are_distinguished():
    squares = torch.tensor(
        [[0, 1e-40, 0, 0], [2e-38, 2.1e-38, 0, 0], [0, 1.19e-38, 0, 0], [1e-40, 0, 2e-40, 0]]
    )
    x = squares.view(4, 1, 2, 2).requires_grad_()
    torch.set_flush_denormal(False)
    found, expected = (torch.autograd.grad(pool(x).sum(), x) for pool in (MaxPool2x2(), nn.MaxPool2d(2)))
    assert same(found, expected)


def test_adam_of_any_shapes_is_adam():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (16,), (5, 7), (4, 4), (1,), (100, 16)]
    theirs = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    ours = [nn.Parameter(each.detach().clone()) for each in theirs]
    optimizer, flat = torch.optim.Adam(theirs, lr=1e-2, fused=True), FlatAdam(ours, 0.0)
    for _ in range(STEPS):
        for each, gradient in zip(theirs, flat.gradients, strict=True):
            each.grad = torch.randn(each.shape, generator=generator)
            gradient.copy_(each.grad)
        optimizer.step()
        with torch.no_grad():
            flat.step(1e-2)
        assert same(theirs, ours)


def test_networks_of_known_layers_give_a_layer_sequence():
    def depth(*given):
        return len(layers_of(nn.Sequential(*given)))

    def trainable(name, size):
        return [isinstance(layer, TrainableLayer) for layer in layers_of(network(name, (1, size, size)))]

    assert trainable("mlp", 8) == [0, 1, 0, 1, 0, 1]
    assert trainable("mlp128", 8) == [0, 1, 0, 1]
    assert trainable("logistic", 8) == [0, 1]
    assert trainable("lenet", 28) == [1, 0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert trainable("cnn", 8) == []
    assert depth(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)) == 3
    assert depth(nn.Linear(2, 3), nn.Linear(3, 2)) == 2
    assert depth(nn.Linear(2, 3), nn.ReLU()) == 0
    assert depth(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)) == 0
    assert depth(nn.ReLU(), nn.Linear(2, 3)) == 0
    assert depth(nn.Linear(2, 3), nn.ReLU(), nn.ReLU(), nn.Linear(3, 2)) == 0
    relu = nn.ReLU()
    assert depth(nn.Linear(2, 3), relu, nn.Linear(3, 3), relu, nn.Linear(3, 2)) == 5
    assert depth(nn.Flatten(2), nn.Linear(2, 3)) == 0
    assert depth(nn.Linear(2, 3, bias=False)) == 0
    assert depth(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3)) == 0
    assert depth() == 0
