"""A small network for any kind of input; evaluated so that a row has the same bits alone and in a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.encoding import Encoding
from bench.inputs import InputSpace
from bench.numerics import flush_denormals, in_chunks, torch_seed
from defenses.base import Array, Calibration, Images

LENET_SIDE = 20
"""Images whose sides have at least this many pixels get a LeNet."""


@dataclass(frozen=True)
class SmallNetwork:
    """A network and how its inputs are encoded.

    ``module``: from encoded inputs (n, …) float32 to logits (n, classes); its parameters are float32, and it
    is in evaluation mode except while it is trained.
    """

    encoding: Encoding
    module: nn.Module
    classes: int

    def encoded(self, x: Images) -> NDArray[np.float32]:
        """Return inputs (n, …) of the victim's space as the module takes them, (n, …) float32."""
        return np.ascontiguousarray(self.encoding(x), dtype=np.float32)

    @flush_denormals()
    def logits(self, x: Images) -> Array:
        """Return logits (n, classes) float64 of inputs (n, …).

        They are computed in single precision, in chunks of 256 of which the last is padded, so that a row has
        the same bits alone and in a batch.
        """

        def evaluate(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
            return (self.module(torch.from_numpy(rows)).numpy(),)

        if not len(x):
            return np.zeros((0, self.classes))
        with torch.inference_mode():
            return in_chunks(evaluate, self.encoded(x))[0].astype(np.float64)

    def probabilities(self, x: Images) -> Array:
        """Return the softmax (n, classes) float64 of the logits of inputs (n, …)."""
        return softmax(self.logits(x))


def softmax(logits: Array) -> Array:
    """Return distributions (n, classes) float64 for logits (n, classes)."""
    wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    result: Array = wide / wide.sum(axis=1, keepdims=True)
    return result


def space_of(calibration: Calibration) -> InputSpace:
    """Return what inputs may be: the victim's space, or images in [0, 1] where none is named."""
    return calibration.space or InputSpace(calibration.train_inputs.shape[1:])


def initial(space: InputSpace, classes: int, seed: int, x: Images | None = None) -> SmallNetwork:
    """Return an untrained network, initialised as PyTorch does from ``seed``.

    Images of 20×20 or more get LeNet-5 (LeCun et al. 1998, with ReLU and max-pooling), all other inputs a
    perceptron with hidden layers of 128 and 64. ``x`` (n, …): inputs by whose mean and deviation the columns
    of a table are standardised; None: by the middle and the width of their ranges. torch's global generator
    is left unchanged.
    """
    known = np.zeros((0, *space.shape), np.float32) if x is None else x
    encoding = Encoding.fit(space, known)
    with torch_seed(seed % 2**63):
        if space.layout == "images" and min(space.shape[1:]) >= LENET_SIDE:
            module = _lenet(space.shape, classes)
        else:
            module = _perceptron(math.prod(encoding.shape), classes)
    return SmallNetwork(encoding, module.to(torch.float32).eval(), classes)


def _perceptron(size: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(size, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def _lenet(shape: tuple[int, ...], classes: int) -> nn.Module:
    channels, height, width = shape
    rows, columns = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
    # Pooling before the (monotone) ReLU is the same function with a quarter of the comparisons.
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
