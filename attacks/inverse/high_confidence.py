"""The inverse of the defense ``high_confidence``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, IntervalInverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import intervals


class HighConfidenceInverse(IntervalInverse):
    """Finds the most likely values of the entries below the cut-off; all-zero answers need an estimate."""

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the smallest non-zero entry."""
        return {"cutoff": intervals.cutoff_of(answers)}

    def forward(self, rows: Array) -> Array:
        """Return rows (n, classes) with entries below the cut-off set to zero."""
        return np.where(rows < self.parameters["cutoff"], 0, rows)

    def bounds(self, answers: Array) -> tuple[Array, Array]:
        """Return the entries that are shown; for the others zero and the cut-off."""
        return intervals.cutoff_bounds(answers, self.parameters["cutoff"])

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the most likely rows; NaN for all-zero answers where there is no estimate."""
        rows, explained = super().invert(answers, estimate, position)
        if estimate is None:
            rows[~answers.any(axis=1)] = np.nan
        return rows, explained
