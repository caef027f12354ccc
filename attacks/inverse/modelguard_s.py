"""The inverse of the defense ``modelguard_s``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics.intervals import one_hot

DEFAULT = 1.0
"""The published bound, where answers do not tell it."""


class ModelguardSInverse(Inverse):
    """Takes the nearest row to an estimate that is within eps of the answer and has its label.

    The codebook is secret, and an answer is one of its few rows: what is left is the label and the bound.
    Over all codebooks, the mean answer to a row is about the row.
    """

    uses_estimate, exact = True, False

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return eps: centroids of a class, the answers that occur twice, are further apart than that."""
        rows, counts = np.unique(answers, axis=0, return_counts=True)
        rows = rows[counts > 1]
        labels, least = rows.argmax(axis=1), np.inf
        for label in np.unique(labels):
            own = rows[labels == label]
            for place in range(1, len(own)):
                least = min(least, float(np.abs(own[:place] - own[place]).sum(axis=1).min()))
        return {"eps": DEFAULT if np.isinf(least) else min(least, 2.0)}

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return rows (n, classes) as near to the estimate as the bound allows, with the answer's label."""
        near = answers if estimate is None else estimate
        distance = np.abs(near - answers).sum(axis=1, keepdims=True)
        eps = self.parameters.get("eps", DEFAULT)
        rows = answers + np.minimum(1, eps / np.maximum(distance, 1e-300)) * (near - answers)
        labels = one_hot(answers)
        # Where the estimate has another label, the answer's is what is sure.
        other = rows.argmax(axis=1) != answers.argmax(axis=1)
        return np.where(other[:, None], labels, rows), np.ones(len(answers), dtype=bool)
