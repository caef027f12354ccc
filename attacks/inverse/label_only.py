"""The inverse of the defense ``label_only``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition
from attacks.inverse.numerics.intervals import one_hot


class LabelOnlyInverse(Inverse):
    """Takes the top-1 of each answer, which holds nothing else."""

    exact = False

    def forward(self, rows: Array) -> Array:
        """Return the top-1 of each row (n, classes), one-hot."""
        return one_hot(rows)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the top-1 of each answer (n, classes), one-hot."""
        return one_hot(answers), np.ones(len(answers), dtype=bool)
