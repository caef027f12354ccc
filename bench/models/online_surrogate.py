"""Surrogates that learn while an attack buys, a step a call."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.models.determinism import flushed
from bench.models.networks import Network
from bench.models.training import Optimizer, TrainingSchedule, scaled

MODAL = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # noqa: SLF001  # torch has no other name
"""Modules that do something else in training."""


class OnlineSurrogate:
    """A surrogate that takes one plain Adam step a call, for attacks that train while they buy."""

    def __init__(
        self, network: Network, learning_rate: float, *, mean: float = 0.0, std: float = 1.0
    ) -> None:
        self._network = network.train()
        # Changing the mode walks all modules, which takes longer than asking a small network.
        self._modal = any(isinstance(module, MODAL) for module in network.modules())
        self._mean, self._std = mean, std
        self._rate, self._learner = learning_rate, Optimizer(network, TrainingSchedule(1))

    @flushed()
    def step(self, x: NDArray[np.float32], y: NDArray[np.float64]) -> None:
        """Take one optimiser step of cross-entropy on inputs (n, …) and targets (n, classes)."""
        self._mode(training=True)
        self._learner.step(self._scaled(x), torch.from_numpy(np.asarray(y, dtype=np.float32)), self._rate)

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, classes) logits."""
        self._mode(training=False)
        result: NDArray[np.float32] = self._learner.logits(self._scaled(x)).numpy()
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
