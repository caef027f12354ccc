"""ModelGuard-W: the answer within an L1 distance that misleads training on it most, its top-1 class kept.

Tang et al. 2024, "ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks" (USENIX
Security), the variant against attackers who train on the answers as they are.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from bench.linear_programme import MARGIN, cheapest
from defenses import predicates
from defenses.base import Answers, Array, Claims, OutputDefense, Predicate, StrengthRange

FLOOR = 1e-6
"""Added to probabilities before the logarithm, as in the authors' code."""


class ModelguardW(OutputDefense):
    """Answers the distribution y' of least ``sum_k log(y_k + 1e-6) y'_k`` for the victim's answer y.

    Subject to ``||y' - y||_1 <= eps`` and a lead of 1e-4 of the victim's top-1 class over every other one.
    ``eps``: in [0, 2]. Of classes that are equally unlikely the first receives mass first. Behind another
    defense, y is that one's answer, whose sum is kept. Where two classes are so close that ``eps`` cannot buy
    the lead, the answer is unchanged.
    """

    name = "modelguard_w"
    paper = "Tang et al. 2024 (USENIX Security), ModelGuard-W"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("eps", 0.0, 2.0)

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0) -> None:
        super().__init__()
        self.eps = eps

    @property
    def claims(self) -> Claims:
        """The label stays, and leads; it is deterministic."""
        return Claims()

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The bound, the lead, and that the expected log-probability has not risen."""
        return (predicates.within_l1(self.eps), _lead(), _not_raised())

    def __call__(self, preds: Any) -> Any:
        """Return the answers (n, classes) float64 to ``preds`` (n, classes)."""
        rows = np.asarray(preds, dtype=np.float64)
        return cheapest(rows, log_probabilities(rows), self.eps, keep_label=True)


def log_probabilities(rows: Array) -> Array:
    """Return the costs (n, classes) of an answer's mass: ``log(p + 1e-6)``, negative entries counted as 0."""
    return np.log(np.maximum(rows, 0) + FLOOR)


def _lead() -> Predicate:
    def violation(before: Array, given: Answers) -> Array:
        rows = given.probabilities
        ordered = np.sort(rows, axis=1)
        short = MARGIN - (ordered[:, -1] - ordered[:, -2])
        return np.where((rows == before).all(axis=1), 0, np.maximum(short, 0))

    return Predicate(
        "a changed answer's top-1 leads by {margin}", violation, parameters={"margin": f"{MARGIN:g}"}
    )


def _not_raised() -> Predicate:
    def violation(before: Array, given: Answers) -> Array:
        costs = np.log(np.clip(before, 0, None) + FLOOR)
        lead = np.sort(before, axis=1)
        # Where the lead had to be bought, it may cost something.
        bought = lead[:, -1] - lead[:, -2] < MARGIN
        raised = np.maximum((costs * (given.probabilities - before)).sum(axis=1), 0)
        return np.where(bought & ~np.isnan(raised), 0, raised)

    return Predicate("no higher expected log-probability of the victim", violation, predicates.ROUNDING)
