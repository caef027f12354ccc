"""Reverse sigmoid perturbation of the answers.

Lee, Edwards, Molloy, Su 2018, "Defending Against Machine Learning Model Stealing Attacks Using
Deceptive Perturbations" (arXiv 1806.00054), the perturbation it names so. The arithmetic is ART's.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from art.defences.postprocessor import ReverseSigmoid as ArtReverseSigmoid
from pydantic import Field
from scipy.special import expit, logit

from defenses import predicates
from defenses.base import Array, Claims, OutputDefense, Predicate, StrengthRange


class ReverseSigmoid(OutputDefense, ArtReverseSigmoid):  # type: ignore[misc]  # ART is untyped
    """Subtracts ``beta (sigmoid(gamma logit(p)) - 1/2)`` from every probability, clips, normalises.

    ``beta``: magnitude. ``gamma``: how fast the perturbation grows with the logit; above 10 it is a
    step function, and ART's ``exp`` nears its overflow.
    """

    name = "reverse_sigmoid"
    paper = "Lee et al. 2018, arXiv 1806.00054 (reverse sigmoid)"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("beta", 1e-5, 10.0)

    def __init__(
        self,
        *,
        beta: Annotated[float, Field(gt=0, le=10)] = 1.0,
        gamma: Annotated[float, Field(gt=0, le=10)] = 0.1,
    ) -> None:
        ArtReverseSigmoid.__init__(self, beta=beta, gamma=gamma)

    @property
    def claims(self) -> Claims:
        """Strong settings lower the top-1 below others, or clip several classes to the same value."""
        return Claims(keeps_label=False, ties=True)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The formula of the paper, in code of its own."""
        beta, gamma = self.beta, self.gamma

        def expected(before: Array) -> Array:
            inside = np.clip(before, 1e-9, 1 - 1e-9)  # as ART does
            moved = np.clip(before - beta * (expit(gamma * logit(inside)) - 0.5), 0, 1)
            sums = moved.sum(axis=1, keepdims=True)
            rows: Array = moved / np.where(sums > 0, sums, 1)
            return rows

        name = "the formula with beta={beta}, gamma={gamma}"
        return (predicates.formula(name, expected, 1e-9, beta=f"{beta:g}", gamma=f"{gamma:g}"),)

    def __call__(self, preds: Any) -> Any:
        """Return float64 rows (n, classes) that sum to 1.

        In float32 ART's upper clip, 1 - 1e-9, rounds to 1 and the logit divides by zero: hence float64.
        """
        return ArtReverseSigmoid.__call__(self, np.asarray(preds, dtype=np.float64))
