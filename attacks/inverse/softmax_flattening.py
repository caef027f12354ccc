"""The inverse of the defense ``softmax_flattening``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Parameters
from attacks.inverse.label_only import LabelOnlyInverse
from attacks.inverse.numerics import intervals


class SoftmaxFlatteningInverse(LabelOnlyInverse):
    """Takes the top-1 of each answer: the other entries are drawn and say nothing about the victim."""

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the range of the draws in units of its upper end, since rows are divided by their sums."""
        order = np.sort(answers, axis=1)
        unit = np.clip(order[:, -2], intervals.LEAST, None)
        lift = float(np.median(order[:, -1] / unit)) - 1
        return {"low": float((order[:, 0] / unit).min()), "high": 1.0, "bias": lift}

    def forward(self, rows: Array) -> Array:
        """Return the mean of the drawn entries, and on the label that of the largest one plus ``bias``."""
        low, high, classes = self.parameters["low"], self.parameters["high"], rows.shape[1]
        entry, top = (low + high) / 2, low + (high - low) * classes / (classes + 1) + self.parameters["bias"]
        return intervals.normalised(entry + (top - entry) * intervals.one_hot(rows))
