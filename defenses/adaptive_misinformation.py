"""Adaptive misinformation: wrong answers where the victim is unsure, and its own where it is confident.

Kariyappa, Qureshi 2020, "Defending Against Model Stealing Attacks with Adaptive Misinformation" (CVPR). An
attacker's queries are mostly from another distribution, where the victim is less confident; there a second
network answers, which was trained to be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from torch import Tensor

from bench.seeds import derive
from defenses.base import Answers, Batch, Calibration, Claims, Defense, StrengthRange
from defenses.networks import SmallNetwork, initial, space_of, steps_for, train_together

UNSEEN = 1e-16
"""A share of the second network below this changes no entry that matters; it is not evaluated for it."""


class AdaptiveMisinformation(Defense):
    """Answers ``(1 - a) y + a f(x)``: y is the victim's answer, f a network that was trained to be wrong.

    ``a = 1 / (1 + exp(nu (max_k y_k - tau)))`` is 1 where the victim's largest probability is below ``tau``
    and 0 where it is above; ``nu`` is how abruptly. f is trained on the victim's training split with the loss
    ``-log(1 - f_y(x))``, y the label, and on the auxiliary data in the same way, y the victim's top-1 there.

    ``auxiliary``: the name of these data; "none" leaves them out. The paper also trains the victim itself to
    be unsure on such data (outlier exposure), which this defense does not: it judges by the victim as it is.

    There is no bound on the L1 distance: an unsure answer changes by up to 2.

    Fitted: ``network_``, f.
    """

    name = "adaptive_misinformation"
    paper = "Kariyappa, Qureshi 2020 (CVPR), adaptive misinformation"
    known_by = ("recover",)
    strength = StrengthRange("tau", 0.0, 1.0)

    network_: SmallNetwork

    def __init__(
        self,
        *,
        tau: Annotated[float, Field(ge=0, le=1)] = 0.7,
        nu: Annotated[float, Field(gt=0, le=1e6)] = 1000.0,
        auxiliary: str = "default",
    ) -> None:
        self.tau, self.nu, self.auxiliary = tau, nu, auxiliary

    @property
    def claims(self) -> Claims:
        """Where the second network answers, labels are others on purpose."""
        return Claims(keeps_label=False, ties=True)

    @property
    def auxiliary_data(self) -> str:
        """The data of another distribution that the second network is trained on, besides the victim's."""
        return "" if self.auxiliary == "none" else self.auxiliary

    def fit(self, calibration: Calibration) -> None:
        """Train the second network; without auxiliary data, on the victim's training split alone."""
        classes = calibration.probabilities.shape[1]
        seed = derive("misinformation", calibration.seed)
        network = initial(space_of(calibration), classes, seed, calibration.train_inputs)
        sets, labels = [calibration.train_inputs], [torch.from_numpy(calibration.train_labels)]
        if calibration.auxiliary is not None:
            sets.append(calibration.auxiliary.inputs)
            labels.append(torch.from_numpy(calibration.auxiliary.probabilities.argmax(axis=1)))

        def loss(outputs: Sequence[Sequence[Tensor]], rows: Sequence[Tensor]) -> Tensor:
            parts = zip(outputs[0], labels, rows, strict=True)
            return torch.stack([reverse_cross_entropy(each, y[batch]) for each, y, batch in parts]).sum()

        train_together([network], sets, loss, steps=steps_for(len(calibration.train_inputs)), seed=seed)
        self.network_ = network

    def at(self, value: float, calibration: Calibration) -> Self:
        """Return this defense at another ``tau``, with the same network."""
        other = type(self)(tau=value, nu=self.nu, auxiliary=self.auxiliary)
        other.network_ = self.network_
        return other

    def answer(self, batch: Batch) -> Answers:
        """Return the blended answers; raises NotFittedError before ``fit``."""
        if not hasattr(self, "network_"):
            raise NotFittedError(f"call fit with a calibration split before {self.name} answers a query")
        answers = batch.probabilities.copy()
        # The victim's own confidence, whatever defenses before this one made of it.
        share = expit(-self.nu * (batch.raw.max(axis=1, initial=0) - self.tau))
        rows = np.flatnonzero(share >= UNSEEN)
        if len(rows):
            weight = share[rows, None]
            wrong = self.network_.probabilities(batch.inputs[rows])
            answers[rows] = (1 - weight) * answers[rows] + weight * wrong
        return Answers.of(answers)


def reverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of ``-log(1 - p_y)`` for the softmax p of ``logits`` (n, classes) and labels (n,).

    As a difference of two log-sum-exps, so that it is finite where p_y is 1 in single precision.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return (logits.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()
