"""The inverse of the defense ``rounded``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, IntervalInverse, Parameters
from attacks.inverse.numerics import intervals


class RoundedInverse(IntervalInverse):
    """Finds the most likely rows that round to the answers."""

    @property
    def resolution(self) -> float | None:
        """The value of the last decimal; None where it is too small to be recognised in a sum."""
        decimals = int(self.parameters["decimals"])
        return 10.0**-decimals if decimals <= intervals.COARSE else None

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the number of decimals of the answers."""
        return {"decimals": intervals.decimals_of(answers)}

    def forward(self, rows: Array) -> Array:
        """Return rounded rows (n, classes)."""
        return np.asarray(np.round(rows, self.parameters["decimals"]))

    def bounds(self, answers: Array) -> tuple[Array, Array]:
        """Return half a unit of the last decimal to either side of each answer."""
        return intervals.rounding_bounds(answers, self.parameters["decimals"])
