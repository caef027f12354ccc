"""Gaussian noise on the probabilities.

Chandrasekaran et al. 2018, "Exploring Connections Between Active Learning and Model Extraction"
(arXiv 1811.02054), data-independent randomization.

The arithmetic is ART's; ART draws from NumPy's global generator and divides by the sum of what is
left after clipping, which may be nothing.
"""

from typing import Annotated, Any

import numpy as np
from art.defences.postprocessor import GaussianNoise as ArtGaussianNoise
from pydantic import Field

from bench.seeds import legacy_numpy
from defenses.base import Answers, Batch, Claims, OutputDefense, StrengthRange


class GaussianNoise(OutputDefense, ArtGaussianNoise):  # type: ignore[misc]  # ART is untyped
    """Adds normal noise of standard deviation ``scale`` to the probabilities, clips at zero, normalises.

    A row whose every entry is clipped away is answered with the uniform distribution.
    """

    name = "gaussian_noise"
    paper = "Chandrasekaran et al. 2018, arXiv 1811.02054 (data-independent randomization)"
    known_by = ("average", "recover", "auto")
    strength = StrengthRange("scale", 1e-5, 10.0)

    def __init__(self, *, scale: Annotated[float, Field(gt=0, le=10)] = 0.2) -> None:
        ArtGaussianNoise.__init__(self, scale=scale)

    @property
    def claims(self) -> Claims:
        """Noise may change labels; rows clipped to zero tie; repeated queries average it out."""
        return Claims(keeps_label=False, ties=True, stochastic=True, continuous=True)

    def __call__(self, preds: Any) -> Any:
        """Return noisy rows (n, classes), drawn from NumPy's global generator as in ART.

        Rows that are not distributions (after rounding, for example) get noise without clipping, as in ART.
        """
        with np.errstate(invalid="ignore"):  # 0 / 0 in rows clipped away
            noisy = ArtGaussianNoise.__call__(self, preds)
        emptied = np.isnan(noisy).all(axis=1) & ~np.isnan(preds).any(axis=1)
        noisy[emptied] = 1 / preds.shape[1]
        return noisy

    def answer(self, batch: Batch) -> Answers:
        """Return answers with noise from a seed for each row; the global generator is left unchanged."""
        # ART does not accept a row in which a rounding error has lifted an entry above 1.
        rows = np.clip(batch.probabilities, None, 1)
        noise = np.empty_like(rows)
        with legacy_numpy(0):
            for row in range(len(rows)):
                np.random.seed(batch.row_seed(row) % 2**32)
                noise[row] = np.random.normal(0.0, self.scale, rows.shape[1])
        # ART's arithmetic on all rows at once, with the same bits in a tenth of the time.
        sums = rows.sum(axis=1)
        whole = np.abs(sums - 1) <= 1e-3 * np.maximum(np.abs(sums), 1)
        whole &= (rows.max(axis=1) <= 1) & (rows.min(axis=1) >= 0)
        noisy = rows + noise
        clipped = np.where(noisy < 0, 0.0, noisy)
        totals = clipped.sum(axis=1, keepdims=True)
        uniform = np.full_like(rows, 1 / rows.shape[1])
        divided = np.divide(clipped, totals, out=uniform, where=totals != 0)
        return Answers.of(np.where(whole[:, None], divided, noisy))
