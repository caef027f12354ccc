"""Noise on the victim's parameters, drawn once: the simplest form of output perturbation.

Proposed in the study fashion-noise. Adding noise to trained parameters is the output perturbation of
Chaudhuri, Monteleoni, Sarwate 2011, "Differentially Private Empirical Risk Minimization" (arXiv
0912.0071), who derive its scale from a bound on how far one training record moves the parameters.
No such bound holds for these victims, so no privacy budget (ε) is claimed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from sklearn.exceptions import NotFittedError

from bench.errors import NotApplicable
from defenses.base import Answers, Array, Batch, Calibration, Claims, Defense, Images, StrengthRange


class ParameterNoise(Defense):
    """Answers with a perturbed victim, which has normal noise on every parameter.

    ``scale``: standard deviation of the noise in units of the standard deviation of the weight tensor
    that it is added to. The noise is drawn once, at fit, from the victim's own seed: one model is
    deployed, the same for every client and repeat, and larger scales multiply the same draw.

    The perturbed victim ignores the answers of the defenses before this one in a stack, so it should be
    the first.
    """

    name = "parameter_noise"
    paper = "study fashion-noise; Chaudhuri et al. 2011, arXiv 0912.0071 (output perturbation, without its ε)"
    known_by = ("auto",)
    strength = StrengthRange("scale", 1e-4, 10.0)

    def __init__(self, *, scale: Annotated[float, Field(gt=0, le=10)] = 0.05) -> None:
        self.scale = scale

    @property
    def claims(self) -> Claims:
        """The perturbed victim has other labels; where noise is large, two of its classes may saturate."""
        return Claims(keeps_label=False, ties=True, normalises=True)

    def fit(self, calibration: Calibration) -> None:
        """Perturb the victim; raises NotApplicable where its parameters are not accessible."""
        if calibration.perturb is None:
            raise NotApplicable(
                "parameter_noise needs a victim with parameters to perturb: a built-in network or logistic; "
                "a tree has none, and a victim of your own offers them through Victim(perturb=…)"
            )
        self._perturbed: Callable[[Images], Array] = calibration.perturb(self.scale, calibration.seed)

    def answer(self, batch: Batch) -> Answers:
        """Return the perturbed victim's probabilities; raises NotFittedError before ``fit``."""
        if not hasattr(self, "_perturbed"):
            raise NotFittedError("call fit with a calibration split before parameter_noise answers a query")
        return Answers.of(self._perturbed(batch.inputs))
