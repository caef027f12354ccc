"""The inverse of the defense ``dawn``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition

RATE = 0.01
"""The share of wrong answers that is assumed where it is not known."""


class DawnInverse(Inverse):
    """Drops the answers whose class contradicts what surrogates predict that were not trained on them.

    By Bayes' rule: a wrong answer has each class but the victim's with the same probability, a truthful one
    has the victim's. An answer is dropped if it is more likely to be wrong than truthful.
    """

    uses_estimate, exact = True, False

    @property
    def rate(self) -> float:
        """The share of wrong answers."""
        return float(self.parameters.get("rate", RATE))

    def forward(self, rows: Array) -> Array:
        """Return the mean answer to rows (n, classes), over all keys."""
        classes, single = rows.shape[1], np.arange(len(rows))
        top = rows.argmax(axis=1)
        largest, total = rows[single, top], rows.sum(axis=1)
        rest = (total - largest) / (classes - 1)  # mean of the other entries
        # The largest entry is on each other class with the same probability; its own class gets another one.
        wrong = np.repeat(((largest + (classes - 2) * rest) / (classes - 1))[:, None], classes, axis=1)
        wrong[single, top] = rest
        return np.asarray((1 - self.rate) * rows + self.rate * wrong)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes), NaN where they are more likely wrong; all of them at first."""
        if estimate is None:
            return super().invert(answers, estimate, position)
        likely = estimate[np.arange(len(answers)), answers.argmax(axis=1)]
        wrong = self.rate * (1 - likely) / (answers.shape[1] - 1) > (1 - self.rate) * likely
        return np.where(wrong[:, None], np.nan, answers), ~wrong
