"""The inverse of the defense ``modelguard_w``."""

from __future__ import annotations

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import moved_mass


class ModelguardWInverse(Inverse):
    """Gives the mass of the runners-up back to the label: they were the least likely classes.

    Of a confident answer, mass was taken from the top-1 alone, eps/2 of it. Of one that was less so, other
    likely classes gave some as well; that part goes to the label, too.
    """

    exact, has_forward = False, False

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return eps: the largest entry of all answers is about 1 - eps/2, of an answer that was about 1."""
        return {"eps": 2 * (1 - float(min(answers.max(initial=0), 1)))}

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes) with the mass given back."""
        return moved_mass.given_back(answers, self.parameters.get("eps", 1) / 2), answers.max(axis=1) > 0
