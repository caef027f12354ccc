"""The inverse of the defense ``output_noise``."""

from __future__ import annotations

from attacks.base import Array
from attacks.inverse.base import Estimator, Parameters
from attacks.inverse.gaussian_noise import GaussianNoiseInverse
from attacks.inverse.numerics import normal_noise


class OutputNoiseInverse(GaussianNoiseInverse):
    """Estimates each row by its posterior mean, given whether labels were kept."""

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the most likely standard deviation of the noise, and whether labels were kept."""
        scale = super().fit(answers, estimator)["scale"]
        return {"scale": scale, "keep_label": normal_noise.keeps_label(answers, scale, estimator())}
