"""Training of several perceptrons as batched networks: the repeats of a cell differ in data and seed only.

On small models, most of a step's time goes into calling operators. One step of batched networks therefore
costs little more than one of a single network. The last bits of the results depend on which networks are
batched. So an architecture is always trained in groups that the cell's specification fixes (all repeats of a
cell), never in groups that depend on which repeats are still missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.models import fast
from bench.models.determinism import device, flush_denormals
from bench.models.fast.backprop import BatchedLinearLayer, Layer, LayerSequence, ReLULayer
from bench.models.networks import Network
from bench.models.training import (
    TrainingSchedule,
    Weights,
    batches,
    learning_rate_at,
    loss_targets,
    plain_adam,
    plain_step,
    row_losses,
    snapshot,
)

BATCHED = frozenset({"mlp", "mlp128", "logistic"})
"""Architectures of which the repeats are trained together; convolutions gain nothing by it on a CPU."""


class BatchedNetwork:
    """Perceptrons of one shape whose layers are computed together.

    ``weights``: one (networks, inputs, outputs) a layer; ``biases``: one (networks, 1, outputs) a layer.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        layers = list(zip(*map(_linear_layers, networks), strict=True))
        self.weights = [
            nn.Parameter(torch.stack([each.weight.detach().T for each in layer])) for layer in layers
        ]
        self.biases = [
            nn.Parameter(torch.stack([each.bias.detach()[None] for each in layer])) for layer in layers
        ]

    def layers(self) -> list[Layer]:
        """Return the layers for the fast path: linear ones with ReLU between them."""
        first, *others = map(BatchedLinearLayer, self.weights, self.biases)
        return [first, *(layer for other in others for layer in (ReLULayer(), other))]

    def logits(self, x: Tensor) -> Tensor:
        """Return (networks, n, classes) logits for inputs (networks, n, width); not the fast path."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.relu(x) if number else x, weight)
        return x

    def write_to(self, networks: Sequence[Network]) -> list[Weights]:
        """Write the weights into the networks and return a snapshot of each."""
        for number, network in enumerate(networks):
            for linear, weight, bias in zip(_linear_layers(network), self.weights, self.biases, strict=True):
                linear.weight.data.copy_(weight.data[number].T)
                linear.bias.data.copy_(bias.data[number, 0])
        return [snapshot(network) for network in networks]


class BatchedOptimizer:
    """Adam steps on batched networks, in place: by the fast path where that is on, else by PyTorch's own."""

    def __init__(self, batched: BatchedNetwork, schedule: TrainingSchedule) -> None:
        self._batched, self._schedule = batched, schedule
        self._sequence: LayerSequence | None = None
        if fast.enabled():
            self._sequence = LayerSequence(
                batched.layers(), loss=schedule.loss, weight_decay=schedule.weight_decay
            )
        else:
            self._plain = plain_adam([*batched.weights, *batched.biases], schedule.weight_decay)

    def step(self, x: Tensor, targets: Tensor, row_weights: Tensor, learning_rate: float) -> None:
        """Take one optimizer step on inputs (networks, n, width) and loss targets (networks, n, classes).

        ``row_weights``: each row's weight in the loss, (networks, n).
        """
        if self._sequence:
            self._sequence.step(x, targets, row_weights, learning_rate)
            return
        self._plain.zero_grad()
        losses = row_losses(self._batched.logits(x), targets, self._schedule)
        losses.mul(row_weights).sum().backward()
        plain_step(self._plain, learning_rate)


@flush_denormals()
def train_batched(
    networks: Sequence[Network],
    xs: Sequence[NDArray[np.float32]],
    ys: Sequence[NDArray[np.float32]],
    schedule: TrainingSchedule,
    seeds: Sequence[int],
) -> list[tuple[Weights, Weights]]:
    """Train each network on its own ``xs`` (n, …) and ``ys`` (n, classes).

    Each is trained as by :func:`bench.models.training.train`. Returns, for each, the weights after half of
    the steps and after all. The training sets may have different numbers of rows; a network
    without rows keeps its weights.
    """
    width = int(np.prod(xs[0].shape[1:]))
    where = device()
    inputs = _padded([x.reshape(len(x), width) for x in xs]).to(where)
    targets = _padded([loss_targets(y, schedule) for y in ys]).to(where)
    rows, weights = _batches([len(x) for x in xs], schedule, seeds)
    numbers = torch.arange(len(networks), device=where)[:, None]
    batched = BatchedNetwork([network.to(where) for network in networks])
    optimizer = BatchedOptimizer(batched, schedule)
    half = [snapshot(network) for network in networks]
    for step in range(1, schedule.steps + 1):
        batch, row_weights = rows[step - 1].to(where), weights[step - 1].to(where)
        rate = learning_rate_at(schedule, step)
        optimizer.step(inputs[numbers, batch], targets[numbers, batch], row_weights, rate)
        if step == schedule.steps // 2:
            half = batched.write_to(networks)
    return list(zip(half, batched.write_to(networks), strict=True))


def _linear_layers(network: Network) -> list[nn.Linear]:
    """Return the linear layers of a perceptron, first to last."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def _padded(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return (networks, most rows, width); shorter arrays are padded with zeros."""
    longest = max(1, *(len(array) for array in arrays))
    joined = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype=np.float32)
    for number, array in enumerate(arrays):
        joined[number, : len(array)] = array
    return torch.from_numpy(joined)


def _batches(
    sizes: Sequence[int], schedule: TrainingSchedule, seeds: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each step's rows and row weights, both (networks, batch).

    A row's weight is its part in the mean loss of its network's batch. Networks with training sets of
    different sizes have short last batches at different steps; these are padded with rows of weight zero.
    """
    batches_of = [
        list(batches(size, schedule.batch_size, schedule.steps, seed))
        if size
        else [torch.empty(0, dtype=torch.int64)] * schedule.steps
        for size, seed in zip(sizes, seeds, strict=True)
    ]
    rows, weights = [], []
    for step in zip(*batches_of, strict=True):
        widest = max(len(batch) for batch in step)
        chosen = torch.zeros(len(step), widest, dtype=torch.int64)
        weight = torch.zeros(len(step), widest)
        for number, batch in enumerate(step):
            chosen[number, : len(batch)] = batch
            weight[number, : len(batch)] = 1 / max(len(batch), 1)
        rows.append(chosen)
        weights.append(weight)
    return rows, weights
