"""What `mad` and `mad_argmax` have in common: the proxy, and a step of limited length towards a target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from sklearn.exceptions import NotFittedError

from bench.seeds import derive
from defenses import predicates
from defenses.base import Answers, Array, Batch, Calibration, Defense, Images, Predicate
from defenses.gradient_angle.angle import towards
from defenses.networks import SmallNetwork, initial, space_of, steps_for, train

Proxy = Literal["scratch", "trained", "identity"]


class GradientAngleDefense(Defense):
    """A defense that moves each answer towards the one that turns an attacker's gradient most.

    ``proxy_``: the defender's own network, whose softmax stands for the attacker's; None for "identity".
    """

    eps: float
    proxy: Proxy
    proxy_: SmallNetwork | None

    def fit(self, calibration: Calibration) -> None:
        """Make the proxy from the seed of the defense; "trained" learns the calibration split's answers."""
        if self.proxy == "identity":
            self.proxy_ = None
            return
        classes = calibration.probabilities.shape[1]
        seed = derive("proxy", calibration.seed)
        network = initial(space_of(calibration), classes, seed, calibration.train_inputs)
        if self.proxy == "trained":
            targets = torch.from_numpy(calibration.probabilities.astype(np.float32))

            def loss(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.cross_entropy(logits, targets[rows])

            train(network, calibration.inputs, loss, steps=steps_for(len(calibration.inputs)), seed=seed)
        self.proxy_ = network

    def at(self, value: float, calibration: Calibration) -> Self:
        """Return this defense at another ``eps``, with the same proxy."""
        other = type(self)(eps=value, proxy=self.proxy)  # type: ignore[call-arg]  # the subclasses take both
        other.proxy_ = self.proxy_
        return other

    def proxy_rows(self, inputs: Images, classes: int) -> Array:
        """Return the proxy's softmax (n, classes) for inputs (n, …): zeros for "identity"."""
        if not hasattr(self, "proxy_"):
            raise NotFittedError(f"call fit with a calibration split before {self.name} answers a query")
        return np.zeros((len(inputs), classes)) if self.proxy_ is None else self.proxy_.probabilities(inputs)

    @abstractmethod
    def targets(self, clean: Array, proxy: Array) -> Array:
        """Return the answers (n, classes) that turn the gradient most, whatever they cost."""

    @property
    def predicates(self) -> Sequence[Predicate]:
        """No answer is further from the one before than ``eps`` in L1."""
        return (predicates.within_l1(self.eps),)

    def answer(self, batch: Batch) -> Answers:
        """Return answers up to ``eps`` from those before; raises NotFittedError before ``fit``."""
        clean = batch.probabilities
        proxy = self.proxy_rows(batch.inputs, clean.shape[1])
        if not len(batch) or self.eps == 0:
            return Answers.of(clean.copy())
        return Answers.of(towards(clean, self.targets(clean, proxy), self.eps))
