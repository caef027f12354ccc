"""Surrogates that an attack trains while it still queries: one step a call, or on whole data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attacks.base import NetworkPredictor, Predictor, TransferSet
from bench.encoding import Encoding
from bench.errors import NotApplicable
from bench.inputs import InputSpace
from bench.models import surrogates
from bench.models.determinism import flush_denormals
from bench.models.networks import Network, Shape, has_modes, require_layout
from bench.models.sklearn_surrogates import ESTIMATORS
from bench.models.training import Optimizer, TrainingSchedule, scaled
from bench.models.training_config import parse_training
from bench.seeds import derive

Images = NDArray[np.float32]
Array = NDArray[np.float64]


class OnlineSurrogate:
    """A surrogate that takes one Adam step a call, at a constant learning rate.

    ``encoding``: of its inputs; ``mean`` and ``std`` then standardise what is encoded.
    """

    def __init__(
        self, network: Network, learning_rate: float, encoding: Encoding, *, mean: float, std: float
    ) -> None:
        self._network = network.train()
        # Changing the mode walks all modules, which takes longer than evaluating a small network.
        self._modal = has_modes(network)
        self._encoding, self._mean, self._std = encoding, mean, std
        self._rate, self._optimizer = learning_rate, Optimizer(network, TrainingSchedule(1))

    @flush_denormals()
    def step(self, x: Images, y: Array) -> None:
        """Take one optimizer step of cross-entropy on inputs (n, …) and targets (n, classes)."""
        self._mode(training=True)
        self._optimizer.step(self._scaled(x), torch.from_numpy(np.asarray(y, dtype=np.float32)), self._rate)

    def logits(self, x: Images) -> Images:
        """Return (n, classes) logits."""
        self._mode(training=False)
        result: Images = self._optimizer.logits(self._scaled(x)).numpy()
        return result

    def gradient(self, x: Images, y: Array) -> Images:
        """Return (n, …), the gradient of each row's cross-entropy with ``y`` (n, classes) by its input.

        Raises NotApplicable for tables.
        """
        space = self._encoding.space
        if space.layout == "table":
            raise NotApplicable("a category has no gradient, so there is none by the rows of a table")
        self._mode(training=False)
        inputs = torch.from_numpy(np.array(self._encoding(x), dtype=np.float32)).requires_grad_()
        scaled_inputs = (inputs - self._mean) / self._std
        targets = torch.from_numpy(np.asarray(y, dtype=np.float32))
        loss = functional.cross_entropy(self._network(scaled_inputs), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        result: Images = gradient.numpy()
        if space.unit:
            return result
        low, high = space.limits
        by_input: Images = (result / np.where(high > low, high - low, 1)).astype(np.float32)
        return by_input

    def _mode(self, *, training: bool) -> None:
        if self._modal:
            self._network.train(training)

    def _scaled(self, x: Images) -> Tensor:
        return torch.from_numpy(scaled(self._encoding(x), self._mean, self._std))


@dataclass(frozen=True)
class InterimSurrogates:
    """Makes surrogates of a cell's architecture and training configuration while its attack runs.

    ``seed``: the cell's training seed, so that an untrained surrogate starts with the weights of the final
    surrogate. ``training``: the cell's training configuration as text. ``training_cache``: folder of
    trainings that cells share. ``inputs``: what inputs may be; None for images in [0, 1]. ``own``: inputs
    (n, …) that the attacker has, by which a surrogate encodes that is trained step by step.
    """

    architecture: str
    shape: Shape
    classes: int
    seed: int
    training: str = "rule"
    training_cache: Path | None = None
    inputs: InputSpace | None = None
    own: Images | None = None

    def __call__(self) -> OnlineSurrogate:
        """Return an untrained surrogate; raises NotApplicable for a model that cannot be trained here."""
        inputs = self.inputs or InputSpace(self.shape)
        require_layout(self.architecture, inputs)
        if self.architecture in ESTIMATORS:
            raise NotApplicable(
                f"{self.architecture} is no network: it cannot learn step by step and has no gradients, and "
                "this attack needs one of these"
            )
        config = parse_training(self.training)
        rate = config.schedule(self.architecture, self.shape, 1).learning_rate
        own = np.zeros((0, *self.shape), np.float32) if self.own is None else self.own
        encoding = Encoding.fit(inputs, own)
        network = surrogates.initial_network(self.architecture, encoding.shape, self.classes, self.seed)
        return OnlineSurrogate(network, rate, encoding, mean=config.mean, std=config.std)

    def fit(self, sets: Sequence[tuple[Images, Array]], effort: float = 1.0) -> list[Predictor]:
        """Train a surrogate on each set of inputs (n, …) and targets (n, classes); see SurrogateFactory.

        The sets of one call are trained as batched networks where the architecture allows it. Unqueried
        inputs, which a training configuration may use for the final surrogate, are not used here.
        """
        if not sets:
            return []
        if not 0 < effort <= 1:
            raise ValueError(f"effort={effort} is not in (0, 1]")
        transfer_sets = [
            TransferSet(np.ascontiguousarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32))
            for x, y in sets
        ]
        seeds = [derive(self.seed, "apprentice", index) for index in range(len(transfer_sets))]
        trained = surrogates.fit(
            transfer_sets,
            self.architecture,
            self.classes,
            seeds,
            self.training_cache,
            parse_training(self.training).supervised(),
            inputs=self.inputs,
            step_fraction=effort,
        )
        return [
            surrogate if isinstance(surrogate, NetworkPredictor) else surrogate.probabilities
            for surrogate in trained
        ]
