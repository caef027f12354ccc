"""Training several perceptrons as one: the repeats of a cell differ in data and seed, not in shape.

One stacked step costs little more than a single one on small models, where the time goes into
calling operators. A stack's last bits depend on its members, so a recipe is always trained in
groups that the spec fixes (all repeats of a cell), never in what happens to be left to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.models.determinism import device, flushed
from bench.models.fast.backprop import Chain, Layer, Learning, Rectified, SideBySide, layers
from bench.models.networks import Network
from bench.models.training import TrainingSchedule, Weights, aims, batches, rate_at, snapshot

STACKED = frozenset({"mlp", "mlp128", "logistic"})
"""Architectures of which repeats are trained as one model; convolutions gain nothing by it on a CPU."""


class BatchedNetwork:
    """The layers of perceptrons of one shape side by side."""

    def __init__(self, networks: Sequence[Network]) -> None:
        same = list(zip(*map(_parameters, networks), strict=True))
        self.weights = [
            nn.Parameter(torch.stack([weight.detach().T for weight, _ in place])) for place in same
        ]
        self.biases = [
            nn.Parameter(torch.stack([bias.detach()[None] for _, bias in place])) for place in same
        ]

    def layers(self) -> list[Layer]:
        """Return what learns: the layers with ReLU between them."""
        first, *others = map(SideBySide, self.weights, self.biases)
        return [first, *(layer for other in others for layer in (Rectified(), other))]

    def unstack(self, networks: Sequence[Network]) -> list[Weights]:
        """Write the weights into the networks and return a snapshot of each."""
        for number, network in enumerate(networks):
            for (weight, bias), *together in zip(
                _parameters(network), self.weights, self.biases, strict=True
            ):
                weight.data.copy_(together[0].data[number].T)
                bias.data.copy_(together[1].data[number, 0])
        return [snapshot(network) for network in networks]


@flushed()
def train_stacked(
    networks: Sequence[Network],
    xs: Sequence[NDArray[np.float32]],
    ys: Sequence[NDArray[np.float32]],
    recipe: TrainingSchedule,
    seeds: Sequence[int],
) -> list[tuple[Weights, Weights]]:
    """Train each network on its own ``xs`` (n, …), ``ys`` (n, classes), as :func:`training.train` does.

    Returns, for each, the weights after half of the steps and after all. Members may have
    different numbers of rows; one without rows stays as it is.
    """
    pixels = int(np.prod(xs[0].shape[1:]))
    where = device()
    inputs = _padded([x.reshape(len(x), pixels) for x in xs]).to(where)
    targets = _padded([aims(y, recipe) for y in ys]).to(where)
    rows, shares = _schedule([len(x) for x in xs], recipe, seeds)
    members = torch.arange(len(networks), device=where)[:, None]
    stack = BatchedNetwork([network.to(where) for network in networks])
    together = Chain(stack.layers(), loss=recipe.loss, weight_decay=recipe.weight_decay)
    half = [snapshot(network) for network in networks]
    for step in range(1, recipe.steps + 1):
        chosen, share = rows[step - 1].to(where), shares[step - 1].to(where)
        together.step(inputs[members, chosen], targets[members, chosen], share, rate_at(recipe, step))
        if step == recipe.steps // 2:
            half = stack.unstack(networks)
    return list(zip(half, stack.unstack(networks), strict=True))


def _parameters(network: Network) -> list[Sequence[Tensor]]:
    """Return each layer's weight and bias."""
    return [layer.parameters for layer in layers(network) if isinstance(layer, Learning)]


def _padded(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return (members, most rows, width), short members filled up with zeros."""
    longest = max(1, *(len(array) for array in arrays))
    joined = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype=np.float32)
    for place, array in enumerate(arrays):
        joined[place, : len(array)] = array
    return torch.from_numpy(joined)


def _schedule(
    sizes: Sequence[int], recipe: TrainingSchedule, seeds: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each step's rows (members, batch) and every row's share of its member's mean loss.

    Members' epochs end at different steps where their sizes differ; the short last batches are
    filled up with rows of share zero.
    """
    plans = [
        list(batches(size, recipe.batch_size, recipe.steps, seed))
        if size
        else [torch.empty(0, dtype=torch.int64)] * recipe.steps
        for size, seed in zip(sizes, seeds, strict=True)
    ]
    rows, shares = [], []
    for step in zip(*plans, strict=True):
        widest = max(len(batch) for batch in step)
        chosen = torch.zeros(len(step), widest, dtype=torch.int64)
        share = torch.zeros(len(step), widest)
        for member, batch in enumerate(step):
            chosen[member, : len(batch)] = batch
            share[member, : len(batch)] = 1 / max(len(batch), 1)
        rows.append(chosen)
        shares.append(share)
    return rows, shares
