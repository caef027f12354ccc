"""Reliability flags: numbered signs that a number should not be read as it stands.

The idea is AutoAttack's (Croce, Hein 2020, arXiv 2003.01690; the page "flags_doc.md" of its repository):
an evaluation that looks unreliable says so itself, and METHOD.md has a paragraph for each flag. Here are
the list and the flags of single cells, raised while they run; `bench.analysis.row_flags` tests rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOVING = 0.005
"""Fidelity may move by this much (half a point) from half of the steps to all of them."""
ABOVE_CHANCE = 0.10
"""An undefended copy less than this above chance has learnt next to nothing."""

MEANING = {
    "randomised": "answers are randomised: another draw would give another number",
    "averaging_helps": "a thief who asks again and averages gets more than any who does not",
    "labels_flip": "honest users get labels that are not the victim's",
    "aware_attacker_wins": "a thief who knows the defense gets more than any who does not",
    "near_chance": "even without a defense the copy is hardly better than answering the commonest class",
    "still_moving": "fidelity moved by more than half a point between half of the steps and all of them",
    "wide_interval": "the gap is known to no better than two points either way: too wide to rank",
    "detector_fit": "a detector is judged on inputs that it was fitted on",
    "weak_victim": "the victim is less accurate than one of its kind should be",
    "no_declared_attacker": "no attacker that is declared to know the defense was run against it",
    "overlap": "the thief's inputs overlap the victim's training data or the test inputs, as published",
    "nothing_learnt": "every query was refused, so the copy is an untrained network",
    "small_budget": "the strongest attack says that the budget is too small for it",
}
"""What each flag says, in the order of their numbers. A new flag goes last: numbers are quoted."""


@dataclass(frozen=True)
class ReliabilityWarning:
    """A flag: its number, as METHOD.md has it, its name in stores and tables, what it says in a clause."""

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

    ``fidelity_half``: None for a copy that is not trained step by step. ``victim``:
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
