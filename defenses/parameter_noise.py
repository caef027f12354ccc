"""Noise on the victim's parameters, drawn once: differential privacy's idea in its simplest form.

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
    """Answer with a copy of the victim whose every parameter carries normal noise.

    ``scale``: standard deviation of the noise in units of the standard deviation of the weight tensor
    that it is added to. The noise is drawn once, at fit, from the victim's own stream: one model is
    deployed, the same for every client and repeat, and larger scales stretch the same draw.

    The copy answers afresh, whatever stood before it in a stack, so it belongs first.
    """

    name = "parameter_noise"
    paper = "study fashion-noise; Chaudhuri et al. 2011, arXiv 0912.0071 (output perturbation, without its ε)"
    known_by = ("auto",)
    strength = StrengthRange("scale", 1e-4, 10.0)

    def __init__(self, *, scale: Annotated[float, Field(gt=0, le=10)] = 0.05) -> None:
        self.scale = scale

    @property
    def claims(self) -> Claims:
        """The copy is a model of its own; where noise is large, two of its classes may saturate alike."""
        return Claims(keeps_label=False, ties=True, normalises=True)

    def fit(self, calibration: Calibration) -> None:
        """Make the noisy copy; raises NotApplicable where the victim offers none."""
        if calibration.perturb is None:
            raise NotApplicable(
                "parameter_noise needs a victim with parameters to perturb: a network of ours, or logistic; "
                "a tree has none, and a victim of your own offers them through Victim(perturb=…)"
            )
        self._copy: Callable[[Images], Array] = calibration.perturb(self.scale, calibration.seed)

    def answer(self, batch: Batch) -> Answers:
        """Return the copy's probabilities; raises NotFittedError before ``fit``."""
        if not hasattr(self, "_copy"):
            raise NotFittedError("call fit with a calibration split before parameter_noise answers a query")
        return Answers.of(self._copy(batch.inputs))
