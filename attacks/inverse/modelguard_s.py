"""The inverse of the defense ``modelguard_s``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition


class ModelguardSInverse(Inverse):
    """Changes nothing: an answer is an entry of a secret codebook, a typical row of those that it stands for.

    Over all codebooks, the mean answer to a row is about the row. (Rows nearer to an estimate, within the
    bound of the answer, were learnt worse than the answers.)
    """

    exact = False

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes)."""
        return answers, np.ones(len(answers), dtype=bool)
