"""MAD, maximizing angular deviation: answers that turn the gradient of an attacker's training step away.

Orekondy, Schiele, Fritz 2020, "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks"
(ICLR; arXiv 1906.10908), section 4. The gradients are those of the last layer, as in the authors' code, for
which there is a closed form: see :mod:`defenses.gradient_angle.angle`.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from defenses.base import Answers, Array, Claims, Predicate, StrengthRange
from defenses.gradient_angle.angle import best_vertex
from defenses.gradient_angle.defense import GradientAngleDefense, Proxy
from defenses.predicates import ROUNDING


class Mad(GradientAngleDefense):
    """Mixes each answer with the one-hot answer that turns the gradient most, up to ``eps`` in L1.

    ``proxy``: the network that stands for the attacker's. "scratch": at its random initial weights, which are
    the defender's secret; "trained": on the calibration split and the victim's answers to it; "identity":
    none, the control of the paper in which the angle is that between the answers themselves (G = I).

    Labels change where the other class gets more than the victim's own has left, which is usual from eps = 1.
    """

    name = "mad"
    paper = "Orekondy et al. 2020, arXiv 1906.10908"
    known_by = ("recover",)
    strength = StrengthRange("eps", 0.0, 2.0)

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0, proxy: Proxy = "scratch") -> None:
        self.eps, self.proxy = eps, proxy

    @property
    def claims(self) -> Claims:
        """The mixture may have another label, or two classes with the same probability."""
        return Claims(keeps_label=False, ties=True)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """Answers are within ``eps``, and mixtures of the answer before with one class."""

        def violation(before: Array, given: Answers) -> Array:
            found = np.full(len(before), np.inf)
            for label in range(before.shape[1]):
                whole = np.abs(before).sum(axis=1) - np.abs(before[:, label]) + np.abs(1 - before[:, label])
                share = np.where(whole > self.eps, self.eps / np.where(whole > 0, whole, 1), 1)
                expected = before * (1 - share)[:, None]
                expected[:, label] += share
                found = np.minimum(found, np.abs(given.probabilities - expected).max(axis=1))
            return np.where(np.isnan(given.probabilities).any(axis=1), np.nan, found)

        return (*super().predicates, Predicate("a mixture with one class", violation, ROUNDING))

    def targets(self, clean: Array, proxy: Array) -> Array:
        """Return one-hot answers (n, classes)."""
        return np.asarray(np.eye(clean.shape[1])[best_vertex(clean, proxy)])
