"""The inverse of the defense ``reverse_sigmoid``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import intervals, sigmoid
from attacks.inverse.numerics.sigmoid_fit import fit_parameters

EXPLAINED = 0.9
"""Share of rows that fitted parameters explain if they are accurate to many digits."""


class ReverseSigmoidInverse(Inverse):
    """Solves for the rows of which the perturbation makes the answers."""

    uses_estimate = True

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return beta and gamma, from rows with several entries next to zero, or else from an estimate."""
        beta, gamma = fit_parameters(answers, estimator)
        return {"beta": beta, "gamma": gamma}

    def forward(self, rows: Array) -> Array:
        """Return perturbed rows (n, classes)."""
        return sigmoid.perturbed_rows(rows, self.parameters["beta"], self.parameters["gamma"])

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the mean, weighted by plausibility, of the rows that explain each answer; NaN for zeros."""
        nonzero = answers.max(axis=1, initial=0) > intervals.LEAST
        if not nonzero.all():  # the map has no zero: a defense behind this one made the row
            rows, explained = np.full_like(answers, np.nan), nonzero.copy()
            if nonzero.any():
                near = None if estimate is None else estimate[nonzero]
                rows[nonzero], explained[nonzero] = self.invert(answers[nonzero], near, position)
            return rows, explained
        curve = sigmoid.SigmoidMap.of(self.parameters["beta"], self.parameters["gamma"])
        if not position.exact:
            return sigmoid.invert(answers, curve, estimate, sigmoid.LOOSE)
        rows, explained = sigmoid.invert(answers, curve, estimate)
        if self.fitted and explained.mean() < EXPLAINED:
            return sigmoid.invert(answers, curve, estimate, sigmoid.NEARLY)
        return rows, explained
