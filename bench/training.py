"""One training loop for victims and surrogates: Adam, a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.architectures import Network
from bench.numerics import device, flushed, in_chunks

Weights = dict[str, Tensor]
MODAL = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # noqa: SLF001  # torch has no other name
"""Modules that do something else in training."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. ``decay``: the learning rate falls to zero along a half cosine.

    ``loss``: "cross-entropy", or "mse-log-softmax" with the ``constant`` that is added before the log.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decay: bool = True
    loss: str = "cross-entropy"
    constant: float = 0.0

    def __str__(self) -> str:
        other = "" if self.loss == "cross-entropy" else f", {self.loss} with {self.constant:g}"
        return (
            f"adam, {self.steps} steps of {self.batch_size}, lr {self.learning_rate:g}"
            f"{' cosine' if self.decay else ''}, weight decay {self.weight_decay:g}{other}"
        )


def epochs(n: int, batch_size: int, how_many: int) -> int:
    """Return the number of steps in ``how_many`` passes over ``n`` rows."""
    return how_many * math.ceil(n / batch_size)


def batches(n: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield ``steps`` index batches: a new permutation each epoch, its last batch perhaps short."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for rows in torch.randperm(n, generator=generator).split(batch_size):
            if done == steps:
                return
            yield rows
            done += 1


@flushed()
def train(
    network: Network, x: NDArray[np.float32], y: NDArray[np.float32], recipe: Recipe, seed: int
) -> tuple[Weights, Weights]:
    """Train in place and return the weights after half of the steps and after all.

    ``x``: (n, channels, height, width); ``y``: (n, classes) targets, hard or soft. ``seed`` draws
    the batches. The network is left in evaluation mode.
    """
    where = device()
    inputs, targets = torch.from_numpy(x).to(where), torch.from_numpy(aims(y, recipe)).to(where)
    optimizer = adam(network.to(where), recipe)
    half = snapshot(network)
    network.train()
    for step, rows in enumerate(batches(len(inputs), recipe.batch_size, recipe.steps, seed), 1):
        optimizer.param_groups[0]["lr"] = rate_at(recipe, step)
        optimizer.zero_grad()
        chosen = rows.to(where)
        outputs = network(inputs[chosen])
        if recipe.loss == "cross-entropy":
            functional.cross_entropy(outputs, targets[chosen]).backward()
        else:
            row_losses(outputs, targets[chosen], recipe).mean().backward()
        optimizer.step()
        if step == recipe.steps // 2:
            half = snapshot(network)
    network.to("cpu").eval()
    return half, snapshot(network)


def scaled(x: NDArray[np.float32], mean: float, std: float) -> NDArray[np.float32]:
    """Return pixels less ``mean``, over ``std``; untouched where these are 0 and 1."""
    if (mean, std) == (0.0, 1.0):
        return x
    result: NDArray[np.float32] = (x - np.float32(mean)) / np.float32(std)
    return result


def aims(y: NDArray[np.float32], recipe: Recipe) -> NDArray[np.float32]:
    """Return what the loss compares a network's output with: ``y`` (n, classes), or its log."""
    if recipe.loss == "cross-entropy":
        return y
    logs: NDArray[np.float32] = np.log(y.astype(np.float64) + recipe.constant).astype(np.float32)
    return logs


def row_losses(outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Return the loss of each row (…, n) for logits and :func:`aims` (…, n, classes)."""
    likely = torch.log_softmax(outputs, dim=-1)
    if recipe.loss == "cross-entropy":
        return -(likely * targets).sum(dim=-1)
    return (likely - targets).square().mean(dim=-1)


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, which counts from 1."""
    if not recipe.decay:
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / recipe.steps))


def adam(network: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Return the recipe's optimiser over the network's parameters."""
    return torch.optim.Adam(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def snapshot(network: nn.Module) -> Weights:
    """Return a copy of the weights and buffers, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()
    }


def logits(network: Network, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, classes) logits, evaluated in padded chunks."""

    def evaluate(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return (network(torch.from_numpy(rows)).numpy(),)

    with torch.inference_mode():
        return in_chunks(evaluate, x)[0]


def activations(network: Network, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return each block's flattened output (n, d), shallow to deep, evaluated in padded chunks."""

    def evaluate(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return tuple(output.numpy() for output in network.activations(torch.from_numpy(rows)))

    with torch.inference_mode():
        return in_chunks(evaluate, x)


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, classes) probabilities in double precision.

    Single precision would round a confident top entry to exactly 1, and defenses that take its
    log-odds (ReverseSigmoid) would then answer something else.
    """
    wide = values.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = wide / wide.sum(axis=1, keepdims=True)
    return result


class OnlineSurrogate:
    """A surrogate that takes one plain Adam step a call, for attacks that train while they buy."""

    def __init__(
        self, network: Network, learning_rate: float, *, mean: float = 0.0, std: float = 1.0
    ) -> None:
        self._network = network.train()
        # Changing the mode walks all modules, which takes longer than asking a small network.
        self._modal = any(isinstance(module, MODAL) for module in network.modules())
        self._mean, self._std = mean, std
        self._optimizer = adam(network, Recipe(1, learning_rate=learning_rate))

    def step(self, x: NDArray[np.float32], y: NDArray[np.float64]) -> None:
        """Take one optimiser step of cross-entropy on inputs (n, …) and targets (n, classes)."""
        self._mode(training=True)
        self._optimizer.zero_grad()
        targets = torch.from_numpy(np.asarray(y, dtype=np.float32))
        functional.cross_entropy(self._network(self._scaled(x)), targets).backward()
        self._optimizer.step()

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, classes) logits."""
        self._mode(training=False)
        with torch.inference_mode():
            result: NDArray[np.float32] = self._network(self._scaled(x)).numpy()
        return result

    def gradient(self, x: NDArray[np.float32], y: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return (n, …): the slope of each row's cross-entropy with ``y`` (n, classes) along its input."""
        self._mode(training=False)
        inputs = torch.from_numpy(np.array(x, dtype=np.float32)).requires_grad_()
        shown = (inputs - self._mean) / self._std
        targets = torch.from_numpy(np.asarray(y, dtype=np.float32))
        loss = functional.cross_entropy(self._network(shown), targets, reduction="sum")
        (slope,) = torch.autograd.grad(loss, inputs)
        result: NDArray[np.float32] = slope.numpy()
        return result

    def _mode(self, *, training: bool) -> None:
        if self._modal:
            self._network.train(training)

    def _scaled(self, x: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(scaled(x, self._mean, self._std))
