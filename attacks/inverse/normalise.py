"""The inverse of the defense ``normalise``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition
from attacks.inverse.numerics import intervals


class NormaliseInverse(Inverse):
    """Finds the sum that each row was divided by, where rows need not have summed to 1 before.

    For rounded rows it is the sum nearest to 1 that makes all entries round again; else the estimate's.
    """

    uses_estimate = True

    def forward(self, rows: Array) -> Array:
        """Return rows (n, classes) divided by their sums."""
        return intervals.normalised(np.clip(rows, 0, None))

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes), multiplied by the sum where that need not be 1."""
        rows = answers
        if estimate is not None and not position.sums_to_one:
            rows = answers * estimate.sum(axis=1, keepdims=True)
        if position.resolution is not None and position.exact:
            rows = intervals.rescaled_to_multiples(answers, position.resolution, rows)
        return rows, np.ones(len(answers), dtype=bool)
