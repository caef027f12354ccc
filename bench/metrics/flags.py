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


@dataclass(frozen=True)
class ReliabilityWarning:
    """A reliability warning.

    ``number``: in METHOD.md; numbers of retired warnings are not used again. ``name``: in stores.
    ``meaning``: a clause. ``do``: what a reader has to do, a sentence. ``invalidates``: the numbers cannot
    be used; other warnings are notes.
    """

    number: int
    name: str
    meaning: str
    do: str
    invalidates: bool = False


FLAGS = {
    each.name: each
    for each in (
        ReliabilityWarning(
            5,
            "near_chance",
            "even without a defense the surrogate is hardly better than the most common class",
            "Use a larger budget, a pool nearer to the victim's data, or another surrogate.",
            invalidates=True,
        ),
        ReliabilityWarning(
            6,
            "still_moving",
            "not converged: fidelity still changes by more than half a percentage point",
            "Train longer (`training`), or treat differences of a percentage point as none.",
        ),
        ReliabilityWarning(
            8,
            "detector_fit",
            "a detector is evaluated on inputs that it was fitted on",
            "Read its false positives on the test split alone, and no detection rate of these pools.",
        ),
        ReliabilityWarning(
            9,
            "weak_victim",
            "the victim is less accurate than expected",
            "Remove the cached victim, and read the messages of its training.",
            invalidates=True,
        ),
        ReliabilityWarning(
            11,
            "overlap",
            "the attacker's inputs overlap the victim's training data or the test inputs, as published",
            "Quote the results on disjoint splits.",
            invalidates=True,
        ),
        ReliabilityWarning(
            12,
            "nothing_learnt",
            "every query was rejected, so the surrogate is an untrained network",
            "Run an attack that evades the detector; nothing was extracted this way.",
            invalidates=True,
        ),
        ReliabilityWarning(
            13,
            "small_budget",
            "the best attack reports that the budget is too small for it",
            "Read the result at a larger budget.",
        ),
        ReliabilityWarning(
            14,
            "single_repeat",
            "a single repeat: intervals do not cover what varies between attackers",
            "Run five repeats or more.",
        ),
    )
}
"""Every flag by name, in the order of numbers. A new flag gets the next number: numbers are quoted."""
MEANING = {name: flag.meaning for name, flag in FLAGS.items()}
"""The meaning of each flag."""


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
