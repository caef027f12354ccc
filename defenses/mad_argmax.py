"""MAD-argmax: answers that turn the gradient of an attacker's training step away and keep the label.

Orekondy, Schiele, Fritz 2020, "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks"
(ICLR; arXiv 1906.10908), section 4, the variant with the constraint on the top-1 class.
"""

from typing import Annotated

from pydantic import Field

from defenses.base import Answers, Array, Batch, Claims, StrengthRange
from defenses.gradient_angle.angle import best_set, set_targets, with_sole_maximum
from defenses.gradient_angle.defense import GradientAngleDefense, Proxy


class MadArgmax(GradientAngleDefense):
    """Mixes each answer with the uniform one over a set of classes that has the label, up to ``eps`` in L1.

    The set is the one whose answer turns the gradient most. In it, the label gets 1e-5 more than the others,
    so that it stays the sole maximum. Of 10 classes or fewer all sets are tried; of more, a greedy search
    adds the classes one by one. ``proxy``: as for ``mad``.

    With a random proxy and a confident victim the set has nearly all classes: the defense is label smoothing.
    """

    name = "mad_argmax"
    paper = "Orekondy et al. 2020, arXiv 1906.10908"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("eps", 0.0, 2.0)

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0, proxy: Proxy = "scratch") -> None:
        self.eps, self.proxy = eps, proxy

    @property
    def claims(self) -> Claims:
        """The label stays, and is the sole maximum where it was."""
        return Claims()

    def targets(self, clean: Array, proxy: Array) -> Array:
        """Return uniform answers (n, classes) over sets of classes."""
        return set_targets(best_set(clean, proxy), clean.argmax(axis=1))

    def answer(self, batch: Batch) -> Answers:
        """Return answers up to ``eps`` from those before; raises NotFittedError before ``fit``."""
        answers = super().answer(batch)
        if not len(batch) or self.eps == 0:
            return answers
        return Answers.of(with_sole_maximum(answers.probabilities, batch.probabilities.argmax(axis=1)))
