"""The inverse of the defense ``grad_redirection``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import moved_mass
from bench.linear_programme import MARGIN


class GradRedirectionInverse(Inverse):
    """Gives eps/2 back from the class that received it; which classes paid is the defender's secret.

    The largest of the other classes gets all of it: of a confident answer, it paid nearly all.
    """

    uses_estimate, exact = True, False

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return eps, and whether labels were kept.

        They were if the lead of an answer is that of the defense; the median top-1 of a confident victim then
        is 1 - eps/2. If not, the class that received has eps/2 and little more in most answers, so many
        entries lie just above that value.
        """
        if not len(answers):
            return {"eps": 0.0, "keep_label": False}
        ordered = np.sort(answers, axis=1)
        if (np.abs(ordered[:, -1] - ordered[:, -2] - MARGIN) < MARGIN / 1000).any():
            return {"eps": 2 * (1 - float(np.clip(np.median(ordered[:, -1]), 0, 1))), "keep_label": True}
        return {"eps": 2 * moved_mass.lower_edge(ordered[:, -2:].ravel()), "keep_label": False}

    def forward(self, rows: Array) -> Array:
        """Return about the mean answer to rows (n, classes), if each class receives as often."""
        share = self.parameters.get("eps", 1) / 2
        return np.asarray((1 - share) * rows + share / rows.shape[1])

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes) with the mass given back."""
        moved = self.parameters.get("eps", 1) / 2
        if self.parameters.get("keep_label", False):
            return moved_mass.given_back(answers, moved), answers.max(axis=1) > 0
        return moved_mass.without_receiver(answers, moved, estimate)
