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
    known_by = ("recover", "restore", "labels", "auto")
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
        """The bound, the lead, and a cost that a simpler answer does not beat."""
        return (predicates.within_l1(self.eps), _lead(), _no_dearer(self.eps))

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


def _no_dearer(eps: float) -> Predicate:
    """Return the predicate that an answer costs no more than one that is found without a solver.

    It takes eps/2 from the top-1 and fills the least likely classes up to the cap. On a confident victim
    it is the best; where the top-1 cannot pay as much alone, the answer before takes its place.
    """

    def violation(before: Array, given: Answers) -> Array:
        number, top = np.arange(len(before)), np.nan_to_num(before).argmax(axis=1)
        costs = np.log(np.clip(before, 0, None) + FLOOR)
        level = before[number, top] - eps / 2
        others = before.copy()
        others[number, top] = np.inf
        order = np.argsort(others, axis=1, kind="stable")[:, :-1]
        clean, prices = (np.take_along_axis(each, order, axis=1) for each in (before, costs))
        room = np.clip(level[:, None] - MARGIN - clean, 0, None)
        filled = np.minimum(np.cumsum(room, axis=1), eps / 2)
        received = np.diff(filled, axis=1, prepend=0)
        gain = (prices * received).sum(axis=1) - costs[number, top] * eps / 2
        alone = (clean.max(axis=1) <= level - MARGIN) & (room.sum(axis=1) >= eps / 2)
        lead = np.sort(before, axis=1)
        # A lead that had to be bought may cost something.
        bought = lead[:, -1] - lead[:, -2] < MARGIN
        cost = (costs * (given.probabilities - before)).sum(axis=1)
        excess = np.maximum(cost - np.where(alone, np.minimum(gain, 0), 0), 0)
        return np.where(bought & ~np.isnan(excess), 0, excess)

    name = "no higher expected log-probability than if the top-1 pays {half} to the least likely classes"
    return Predicate(name, violation, 1e-9, {"half": f"{eps / 2:g}"})
