"""The inverse of the defense ``mahalanobis``."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, polygamma

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition
from attacks.inverse.numerics import intervals


class MahalanobisInverse(Inverse):
    """Drops the answers that look like draws from a flat Dirichlet distribution (``action=noise``).

    The mean logarithm of a victim's row is far below that of such a draw, where there are enough
    classes. With the other actions flagged queries get labels or are rejected.
    """

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes), NaN where they look random."""
        classes = answers.shape[1]
        if self.parameters.get("action") != "noise" or classes < 4:
            return super().invert(answers, estimate, position)
        middle = digamma(1) - digamma(classes)
        width = np.sqrt((polygamma(1, 1) - classes * polygamma(1, classes)) / classes)
        random = np.log(np.clip(answers, intervals.LEAST, None)).mean(axis=1) > middle - 2 * width
        return np.where(random[:, None], np.nan, answers), ~random
