"""The restoring network of D-DAE: it learns from simulated pairs which clean answer an answer comes from.

Chen, Guan, Gong, Dong, Xue 2023, "D-DAE: Defense-Penetrating Model Extraction Attacks" (IEEE S&P).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attacks.base import Array
from bench.numerics import flush_denormals, single_thread

HIDDEN = (128, 64)
"""Widths of the hidden layers."""
STEPS = 1_500
BATCH = 256
RATE = 3e-3
"""Learning rate at the start; it falls to zero along a half cosine."""
SLOPE = 0.2
"""Of the leaky rectifiers for negative numbers."""
LARGEST = 3
"""Entries of an answer that are also given as their rank among those of the training answers."""
QUANTILES = 1_001
"""Quantiles of the training answers between which ranks are interpolated."""
LEAST = 1e-6
"""Entries of an answer below this are equal to the network."""


class RestoringNetwork:
    """A perceptron from answers and estimates to clean answers, trained on pairs by cross-entropy.

    The least cross-entropy is that of the mean of the clean answers that an answer may come from. The inputs
    are logarithms of the answer's and of the estimate's entries, standardised. ``seed``: of initial weights
    and batches; the same pairs then give the same bits.

    ``order``: the inputs also hold which two entries of the answer are the largest, and, of its three largest
    entries, the share of training answers in which these are smaller. A defense that moves half of the mass
    leaves two entries nearly equal, or one near a fixed value, and logarithms hardly show the differences
    that then tell the clean label. Where labels are kept, these inputs only let the network rely more on the
    prior.
    """

    def __init__(self, classes: int, seed: int, *, order: bool = False) -> None:
        self._generator = torch.Generator().manual_seed(seed % 2**63)
        self._order, largest = order, min(LARGEST, classes)
        self._quantiles = np.zeros((QUANTILES, largest))
        widths = (2 * classes + (2 * classes + largest) * order, *HIDDEN, classes)
        pairs = list(pairwise(widths))
        self._weights = [
            torch.randn(inputs, outputs, generator=self._generator) * (2 / inputs) ** 0.5
            for inputs, outputs in pairs
        ]
        self._biases = [torch.zeros(outputs) for _, outputs in pairs]
        self._mean, self._scale = torch.zeros(widths[0]), torch.ones(widths[0])

    def fit(self, answers: Array, estimates: Array, clean: Array, effort: float = 1.0) -> None:
        """Train on pairs: answers, estimates and clean answers, (m, classes) each, m > 0.

        ``effort``: share of :data:`STEPS` to take, in (0, 1].
        """
        steps = max(1, round(STEPS * effort))
        self._quantiles = np.quantile(_largest(answers), np.linspace(0, 1, QUANTILES), axis=0)
        inputs, targets = self._inputs(answers, estimates), torch.from_numpy(clean.astype(np.float32))
        parameters = [each.requires_grad_() for each in (*self._weights, *self._biases)]
        with single_thread(), flush_denormals(), torch.enable_grad():
            self._mean = inputs.mean(dim=0)
            self._scale = inputs.std(dim=0, correction=0).clamp(min=1e-3)
            inputs = (inputs - self._mean) / self._scale
            optimizer = torch.optim.Adam(parameters, fused=True)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
                rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=self._generator)
                loss = functional.cross_entropy(self._logits(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def restore(self, answers: Array, estimates: Array) -> Array:
        """Return restored answers (n, classes) float64, distributions."""
        with single_thread(), torch.inference_mode():
            logits = self._logits((self._inputs(answers, estimates) - self._mean) / self._scale)
            restored: Array = torch.softmax(logits.double(), dim=1).numpy()
        return restored

    def _inputs(self, answers: Array, estimates: Array) -> Tensor:
        logs = np.log(np.maximum(np.concatenate([answers, estimates], axis=1), LEAST))
        if not self._order:
            return torch.from_numpy(logs.astype(np.float32))
        columns = zip(_largest(answers).T, self._quantiles.T, strict=True)
        ranks = [np.interp(column, known, np.linspace(0, 1, QUANTILES)) for column, known in columns]
        features = np.concatenate([logs, _place_of_largest(answers), np.stack(ranks, axis=1)], axis=1)
        return torch.from_numpy(features.astype(np.float32))

    def _logits(self, x: Tensor) -> Tensor:
        last = len(self._weights) - 1
        for number, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            x = x @ weight + bias
            if number < last:
                x = functional.leaky_relu(x, SLOPE)
        return x


def _place_of_largest(answers: Array) -> Array:
    """Return which entry of answers (n, classes) is the largest, and which the next: (n, 2 · classes)."""
    order = np.argsort(-answers, axis=1, kind="stable")[:, :2]
    return np.concatenate([np.eye(answers.shape[1])[places] for places in order.T], axis=1)


def _largest(answers: Array) -> Array:
    """Return the three largest entries of answers (n, classes), in order; both where there are two."""
    return np.asarray(-np.sort(-answers, axis=1)[:, :LARGEST])
