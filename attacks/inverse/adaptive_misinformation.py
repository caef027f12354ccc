"""The inverse of the defense ``adaptive_misinformation``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition

TAU, NU = 0.7, 1000.0
"""Threshold and slope that are assumed where they are not known."""
RATE = 0.25
"""Share of wrong answers that is assumed: it depends on the queries, and cannot be read from the answers."""
STEEP = 10.0
"""An answer this many 1 / nu above the threshold is the victim's own, to 5e-5."""
BAND = 0.05
"""Most that this may be: with a small nu every answer is a blend, and most have the label of the victim.

Nor is it more than half of what is left to 1: a victim's own answers must be able to lie above it."""


class AdaptiveMisinformationInverse(Inverse):
    """Drops the answers that the victim did not give.

    Its own have a largest entry above the threshold, so one below is none; with a threshold of 1, none is.
    One above may be the second network's, which is as sure. That network's label is wrong, so it contradicts
    what surrogates predict that were not trained on it: by Bayes' rule, with one answer in four wrong and
    each class as likely, an answer is dropped if it is more likely to be wrong than truthful.

    What the dropped answers say of the truth is not used. The least likely class is not the truth: the second
    network is trained to give the true class little, which leaves several classes with less.
    """

    uses_estimate, exact = True, False

    @property
    def tau(self) -> float:
        """The threshold of the defense."""
        return float(self.parameters.get("tau", TAU))

    @property
    def nu(self) -> float:
        """The slope of the defense."""
        return float(self.parameters.get("nu", NU))

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the default threshold: both networks' answers may be on either side of it."""
        return {"tau": TAU, "nu": NU}

    def forward(self, rows: Array) -> Array:
        """Return the mean answer to rows (n, classes), if a wrong answer has each wrong class as often."""
        classes, single = rows.shape[1], np.arange(len(rows))
        wrong = np.full_like(rows, 1 / (classes - 1))
        wrong[single, rows.argmax(axis=1)] = 0
        slope = np.clip(self.nu * (rows.max(axis=1, keepdims=True) - self.tau), -500, 500)
        share = 1 / (1 + np.exp(slope))
        return np.asarray((1 - share) * rows + share * wrong)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes), NaN where the victim gave another one."""
        least = self.tau + min(STEEP / self.nu, BAND, (1 - self.tau) / 2)
        wrong = (answers.max(axis=1) < least) | (self.tau >= 1)
        if estimate is not None:
            likely = estimate[np.arange(len(answers)), answers.argmax(axis=1)]
            wrong |= RATE * (1 - likely) / (answers.shape[1] - 1) > (1 - RATE) * likely
        return np.where(wrong[:, None], np.nan, answers), ~wrong
