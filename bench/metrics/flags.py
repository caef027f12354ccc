"""Reliability warnings, or flags: numbered signs that a number should not be taken at face value.

The idea is AutoAttack's (Croce, Hein 2020, arXiv 2003.01690; the page "flags_doc.md" of its repository):
an evaluation that looks unreliable reports that itself, and METHOD.md has a paragraph for each. Here are the
list and the warnings of single cells, raised while they run; `bench.analysis.row_flags` has those of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOVING = 0.005
"""Fidelity may differ by this much (0.5 pp) between half of the training steps and all of them."""
ABOVE_CHANCE = 0.10
"""A surrogate without defense that is less than this above chance has learnt next to nothing."""

MEANING = {
    "randomised": "answers are randomized: another draw gives another number",
    "averaging_helps": "an attack that repeats queries and averages reaches more than any that does not",
    "labels_flip": "benign users get labels that are not the victim's",
    "aware_attacker_wins": "an adaptive attack reaches more than any non-adaptive one",
    "near_chance": "even without a defense the surrogate is hardly better than the most common class",
    "still_moving": "not converged: fidelity still changes by more than half a percentage point",
    "wide_interval": "the interval of the reduction is wider than two percentage points either way",
    "detector_fit": "a detector is evaluated on inputs that it was fitted on",
    "weak_victim": "the victim is less accurate than expected",
    "no_declared_attacker": "no attack that is declared to know the defense was run against it",
    "overlap": "the attacker's inputs overlap the victim's training data or the test inputs, as published",
    "nothing_learnt": "every query was rejected, so the surrogate is an untrained network",
    "small_budget": "the best attack reports that the budget is too small for it",
}
"""The meaning of each flag, in the order of their numbers. A new flag goes last: numbers are quoted."""


@dataclass(frozen=True)
class ReliabilityWarning:
    """A reliability warning: its number in METHOD.md, its name in stores, its meaning in a clause."""

    number: int
    name: str
    meaning: str


FLAGS = {
    name: ReliabilityWarning(number, name, text)
    for number, (name, text) in enumerate(MEANING.items(), start=1)
}
"""Every flag by name."""


def label(name: str) -> str:
    """Return a flag's short form, ``F3``; the name itself if this version knows no such flag."""
    return f"F{FLAGS[name].number}" if name in FLAGS else name


def cell_flags(
    fidelity: float, fidelity_half: float | None, victim: NDArray[np.float64], *, defended: bool, learnt: int
) -> list[str]:
    """Return the flags of one cell.

    ``fidelity_half``: None for a surrogate that is not trained step by step. ``victim``:
    (n, classes) undefended answers on the test split; the share of their commonest label is chance.
    ``learnt``: size of the transfer set.
    """
    labels = victim.argmax(axis=1)
    chance = np.bincount(labels).max() / len(labels)
    found = []
    if learnt == 0:
        found.append("nothing_learnt")
    elif fidelity_half is not None and abs(fidelity - fidelity_half) > MOVING:
        found.append("still_moving")
    if not defended and fidelity < chance + ABOVE_CHANCE:
        found.append("near_chance")
    return found
