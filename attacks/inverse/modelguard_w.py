"""The inverse of the defense ``modelguard_w``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import moved_mass
from bench.linear_programme import cheapest

EPS = 1.0
"""The published bound, where it is not known."""
FLOOR = 1e-6
"""Added to probabilities before the logarithm, as in the authors' code."""
SURE = 0.9
"""Quantile of the answers' largest entries that belongs to an answer that was sure."""


class ModelguardWInverse(Inverse):
    """Gives the mass of the runners-up back to the label: they were the least likely classes.

    Of a confident answer, mass was taken from the top-1 alone, eps/2 of it. Of one that was less so, other
    likely classes gave some as well; that part goes to the label, too.
    """

    exact = False

    @property
    def eps(self) -> float:
        """The bound of the defense, in L1."""
        return float(self.parameters.get("eps", EPS))

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return eps: the top-1 of a sure answer has about 1 - eps/2, and a tenth are taken to be sure."""
        if not len(answers):
            return {"eps": 0.0}
        return {"eps": 2 * (1 - float(np.clip(np.quantile(answers.max(axis=1), SURE), 0, 1)))}

    def forward(self, rows: Array) -> Array:
        """Return the defense's answers to rows (n, classes)."""
        return cheapest(rows, np.log(np.maximum(rows, 0) + FLOOR), self.eps, keep_label=True)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes) with the mass given back."""
        return moved_mass.given_back(answers, self.eps / 2), answers.max(axis=1) > 0
