"""One training loop for victims and surrogates: Adam, a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.models.determinism import device, flushed, in_chunks
from bench.models.fast.adam import FlatAdam
from bench.models.fast.backprop import Chain, layers
from bench.models.networks import Network

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingSchedule:
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
    network: Network, x: NDArray[np.float32], y: NDArray[np.float32], recipe: TrainingSchedule, seed: int
) -> tuple[Weights, Weights]:
    """Train in place and return the weights after half of the steps and after all.

    ``x``: (n, channels, height, width); ``y``: (n, classes) targets, hard or soft. ``seed`` draws
    the batches. The network is left in evaluation mode.
    """
    where = device()
    inputs, targets = torch.from_numpy(x).to(where), torch.from_numpy(aims(y, recipe)).to(where)
    half = snapshot(network)
    learner = Optimizer(network.to(where).train(), recipe)
    for step, rows in enumerate(batches(len(inputs), recipe.batch_size, recipe.steps, seed), 1):
        chosen = rows.to(where)
        learner.step(inputs[chosen], targets[chosen], rate_at(recipe, step))
        if step == recipe.steps // 2:
            half = snapshot(network)
    network.to("cpu").eval()
    return half, snapshot(network)


class Optimizer:
    """A network that learns in place, a step a call; by hand where it is a chain of known layers."""

    def __init__(self, network: Network, recipe: TrainingSchedule) -> None:
        self._network, self._recipe = network, recipe
        by_hand = layers(network)
        self._chain: Chain | None = None
        if by_hand:
            self._chain = Chain(by_hand, loss=recipe.loss, weight_decay=recipe.weight_decay)
            return
        parameters = list(network.parameters())
        self._optimizer = FlatAdam(parameters, recipe.weight_decay)
        for parameter, slope in zip(parameters, self._optimizer.slopes, strict=True):
            parameter.grad = slope

    def step(self, x: Tensor, y: Tensor, rate: float) -> None:
        """Take one optimiser step at ``rate`` on inputs (n, …) and :func:`aims` (n, classes)."""
        if self._chain:
            self._chain.step(x, y, 1 / x.shape[0], rate)
            return
        self._optimizer.forget()
        outputs = self._network(x)
        if self._recipe.loss == "cross-entropy":
            functional.cross_entropy(outputs, y).backward()
        else:
            row_losses(outputs, y, self._recipe).mean().backward()
        self._optimizer.step(rate)

    def logits(self, x: Tensor) -> Tensor:
        """Return (n, classes) for inputs (n, …), in the mode that the network is in."""
        if self._chain:
            return self._chain.logits(x)
        with torch.inference_mode():
            outputs: Tensor = self._network(x)
            return outputs


def scaled(x: NDArray[np.float32], mean: float, std: float) -> NDArray[np.float32]:
    """Return pixels less ``mean``, over ``std``; untouched where these are 0 and 1."""
    if (mean, std) == (0.0, 1.0):
        return x
    result: NDArray[np.float32] = (x - np.float32(mean)) / np.float32(std)
    return result


def aims(y: NDArray[np.float32], recipe: TrainingSchedule) -> NDArray[np.float32]:
    """Return what the loss compares a network's output with: ``y`` (n, classes), or its log."""
    if recipe.loss == "cross-entropy":
        return y
    logs: NDArray[np.float32] = np.log(y.astype(np.float64) + recipe.constant).astype(np.float32)
    return logs


def row_losses(outputs: Tensor, targets: Tensor, recipe: TrainingSchedule) -> Tensor:
    """Return the loss of each row (…, n) for logits and :func:`aims` (…, n, classes)."""
    likely = torch.log_softmax(outputs, dim=-1)
    if recipe.loss == "cross-entropy":
        return -(likely * targets).sum(dim=-1)
    return (likely - targets).square().mean(dim=-1)


def rate_at(recipe: TrainingSchedule, step: int) -> float:
    """Return the learning rate of a step, which counts from 1."""
    if not recipe.decay:
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / recipe.steps))


def snapshot(network: Network) -> Weights:
    """Return a copy of the weights and buffers, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()
    }


@flushed()
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
