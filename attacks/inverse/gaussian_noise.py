"""The inverse of the defense ``gaussian_noise``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import normal_noise
from attacks.inverse.numerics.intervals import normalised


class GaussianNoiseInverse(Inverse):
    """Estimates each row by its posterior mean."""

    uses_estimate, exact = True, False

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the most likely standard deviation of the noise."""
        return {"scale": normal_noise.most_likely_scale(normalised(np.clip(answers, 0, None)))}

    def forward(self, rows: Array) -> Array:
        """Return the mean answers to rows (n, classes) if labels need not be kept."""
        return normal_noise.mean_answer(rows, self.parameters["scale"])

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the posterior means of the rows (n, classes).

        Answers are divided by their sums first: ``gaussian_noise`` does not do so after ``rounded``.
        """
        label_kept = bool(self.parameters.get("keep_label", False))
        shown = normalised(np.clip(answers, 0, None))
        rows = normal_noise.denoise(shown, self.parameters["scale"], estimate, label_kept=label_kept)
        return rows, np.ones(len(answers), dtype=bool)
