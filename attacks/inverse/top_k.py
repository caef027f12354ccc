"""The inverse of the defense ``top_k``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, IntervalInverse, Parameters
from attacks.inverse.numerics import intervals


class TopKInverse(IntervalInverse):
    """Finds the most likely values of the entries that were replaced by zero."""

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the largest number of non-zero entries in an answer."""
        return {"k": intervals.k_of(answers)}

    def forward(self, rows: Array) -> Array:
        """Return rows (n, classes) with all but their k largest entries set to zero."""
        kept, order = rows.copy(), np.argsort(-rows, axis=1, kind="stable")
        np.put_along_axis(kept, order[:, int(self.parameters["k"]) :], 0, axis=1)
        return kept

    def bounds(self, answers: Array) -> tuple[Array, Array]:
        """Return the entries that are shown; for the others zero and the smallest entry that is shown."""
        return intervals.top_k_bounds(answers, int(self.parameters["k"]))
