"""Signs that a cell's number should not be trusted as it stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOVING = 0.005
"""Fidelity may move by this much (half a point) from half of the steps to all of them."""
ABOVE_CHANCE = 0.10
"""An undefended copy less than this above chance has learnt next to nothing."""

MEANING = {
    "still_moving": "fidelity moved by more than half a point between half of the steps and all of them",
    "near_chance": "even without a defense the copy is hardly better than answering the commonest class",
    "overlap": "the thief's inputs overlap the victim's training data or the test inputs, as published",
    "nothing_learnt": "every query was refused, so the copy is an untrained network",
}
"""What each flag says, for the report."""


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
