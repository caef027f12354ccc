"""The training loop of victims and surrogates: Adam, a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.models import fast
from bench.models.determinism import device, flush_denormals, in_chunks
from bench.models.fast.adam import FlatAdam
from bench.models.fast.backprop import LayerSequence, layers_of
from bench.models.networks import Network

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingSchedule:
    """The hyperparameters of one training.

    ``decay``: the learning rate falls to zero along a half cosine; else it is constant. ``loss``:
    "cross-entropy", or "mse-log-softmax": the mean squared error between the network's log-softmax and the
    log of the target plus ``constant``.
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


def epochs(n: int, batch_size: int, count: int) -> int:
    """Return the number of steps in ``count`` passes over ``n`` rows."""
    return count * math.ceil(n / batch_size)


def batches(n: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield ``steps`` batches of row numbers: a new permutation each epoch; its last batch may be short."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for rows in torch.randperm(n, generator=generator).split(batch_size):
            if done == steps:
                return
            yield rows
            done += 1


@flush_denormals()
def train(
    network: Network, x: NDArray[np.float32], y: NDArray[np.float32], schedule: TrainingSchedule, seed: int
) -> tuple[Weights, Weights]:
    """Train in place and return the weights after half of the steps and after all.

    ``x``: (n, channels, height, width); ``y``: (n, classes) targets, hard or soft. ``seed`` draws
    the batches. The network is left in evaluation mode.
    """
    where = device()
    inputs, targets = torch.from_numpy(x).to(where), torch.from_numpy(loss_targets(y, schedule)).to(where)
    half = snapshot(network)
    optimizer = Optimizer(network.to(where).train(), schedule)
    for step, rows in enumerate(batches(len(inputs), schedule.batch_size, schedule.steps, seed), 1):
        batch = rows.to(where)
        optimizer.step(inputs[batch], targets[batch], learning_rate_at(schedule, step))
        if step == schedule.steps // 2:
            half = snapshot(network)
    network.to("cpu").eval()
    return half, snapshot(network)


class Optimizer:
    """Adam steps on a network, in place: by the fast path where that is on, else by PyTorch's own.

    The fast path (:mod:`bench.models.fast`) gives the same weights to the last bit.
    """

    def __init__(self, network: Network, schedule: TrainingSchedule) -> None:
        self._network, self._schedule = network, schedule
        self._sequence: LayerSequence | None = None
        self._flat: FlatAdam | None = None
        parameters = list(network.parameters())
        if not fast.enabled():
            self._plain = plain_adam(parameters, schedule.weight_decay)
        elif layers := layers_of(network):
            self._sequence = LayerSequence(layers, loss=schedule.loss, weight_decay=schedule.weight_decay)
        else:
            self._flat = FlatAdam(parameters, schedule.weight_decay)
            for parameter, gradient in zip(parameters, self._flat.gradients, strict=True):
                parameter.grad = gradient

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> None:
        """Take one optimizer step on inputs (n, …) and :func:`loss_targets` (n, classes)."""
        if self._sequence:
            self._sequence.step(x, y, 1 / x.shape[0], learning_rate)
        elif self._flat:
            self._flat.zero_gradients()
            self._backward(x, y)
            self._flat.step(learning_rate)
        else:
            self._plain.zero_grad()
            self._backward(x, y)
            plain_step(self._plain, learning_rate)

    def step_by(self, x: Tensor, gradient: Callable[[Tensor], Tensor], learning_rate: float) -> None:
        """Take one optimizer step on inputs (n, …) by any loss.

        ``gradient``: from logits (n, outputs) to the gradient of the loss by them.
        """
        if self._sequence:
            self._sequence.step_by(x, gradient, learning_rate)
            return
        if self._flat:
            self._flat.zero_gradients()
        else:
            self._plain.zero_grad()
        outputs = self._network(x)
        outputs.backward(gradient(outputs.detach()))
        if self._flat:
            self._flat.step(learning_rate)
        else:
            plain_step(self._plain, learning_rate)

    def _backward(self, x: Tensor, y: Tensor) -> None:
        outputs = self._network(x)
        if self._schedule.loss == "cross-entropy":
            functional.cross_entropy(outputs, y).backward()
        else:
            row_losses(outputs, y, self._schedule).mean().backward()

    def logits(self, x: Tensor) -> Tensor:
        """Return (n, classes) for inputs (n, …), in the mode that the network is in."""
        if self._sequence:
            return self._sequence.logits(x)
        with torch.inference_mode():
            outputs: Tensor = self._network(x)
            return outputs


def plain_adam(parameters: Sequence[Tensor], weight_decay: float) -> torch.optim.Adam:
    """Return PyTorch's Adam, of which the fast path gives the same bits; :func:`plain_step` sets its rate."""
    return torch.optim.Adam(parameters, weight_decay=weight_decay, fused=True)


def plain_step(optimizer: torch.optim.Adam, learning_rate: float) -> None:
    """Take one step of PyTorch's Adam at ``learning_rate``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def scaled(x: NDArray[np.float32], mean: float, std: float) -> NDArray[np.float32]:
    """Return ``(x - mean) / std`` in single precision; ``x`` itself where these are 0 and 1."""
    if (mean, std) == (0.0, 1.0):
        return x
    result: NDArray[np.float32] = (x - np.float32(mean)) / np.float32(std)
    return result


def loss_targets(y: NDArray[np.float32], schedule: TrainingSchedule) -> NDArray[np.float32]:
    """Return the targets of the loss for answers ``y`` (n, classes): these, or the log of them."""
    if schedule.loss == "cross-entropy":
        return y
    logs: NDArray[np.float32] = np.log(y.astype(np.float64) + schedule.constant).astype(np.float32)
    return logs


def row_losses(outputs: Tensor, targets: Tensor, schedule: TrainingSchedule) -> Tensor:
    """Return the loss of each row, (…, n), for logits and :func:`loss_targets` (…, n, classes)."""
    likely = torch.log_softmax(outputs, dim=-1)
    if schedule.loss == "cross-entropy":
        return -(likely * targets).sum(dim=-1)
    return (likely - targets).square().mean(dim=-1)


def learning_rate_at(schedule: TrainingSchedule, step: int) -> float:
    """Return the learning rate of ``step``, which counts from 1."""
    if not schedule.decay:
        return schedule.learning_rate
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / schedule.steps))


def snapshot(network: Network) -> Weights:
    """Return a copy of the weights and buffers, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()
    }


@flush_denormals()
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

    Single precision would round a confident top entry to exactly 1, which would change the answers of
    defenses that take its log-odds (ReverseSigmoid).
    """
    wide = values.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = wide / wide.sum(axis=1, keepdims=True)
    return result
