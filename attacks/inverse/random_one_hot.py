"""The inverse of the defense ``random_one_hot``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import moved_mass


class RandomOneHotInverse(Inverse):
    """Finds the class that was drawn and takes its mass away; what is left is the victim's row."""

    uses_estimate, exact = True, False

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return eps, from the two largest entries of each answer, one of which is of the class drawn.

        The drawn class has eps/2 and little more in most answers, so many entries lie just above that value.
        """
        return {"eps": 2 * moved_mass.lower_edge(np.sort(answers, axis=1)[:, -2:].ravel())}

    def forward(self, rows: Array) -> Array:
        """Return the mean answers (n, classes): each class other than the top-1 is as likely to be drawn."""
        share = self.parameters.get("eps", 1) / 2
        others = 1 - np.eye(rows.shape[1])[rows.argmax(axis=1)]
        mean: Array = (1 - share) * rows + share * others / (rows.shape[1] - 1)
        return mean

    def relabelled(self, labels: Array) -> Array | None:
        """Return the other label where there are two and the drawn one has at least half of the mass."""
        return moved_mass.swapped(labels, self.parameters.get("eps", 1))

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the rows (n, classes) without the drawn class' mass; NaN where nothing else is left.

        Of two classes, it is the other one then.
        """
        share = self.parameters.get("eps", 1) / 2
        if share >= 1 and answers.shape[1] == 2:
            return 1 - answers, np.ones(len(answers), dtype=bool)
        if share >= 1:
            return np.full_like(answers, np.nan), np.zeros(len(answers), dtype=bool)
        return moved_mass.without_drawn(answers, share, estimate)
