"""Corrections for several tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

ALPHA = 0.05
"""The family-wise error of a correction: the chance of any false rejection."""


def holm(chances: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects at a family-wise error of ``alpha``; NaN is 1.

    ``chances``: the p-values. Source: Holm 1979.
    """
    chances = [1.0 if math.isnan(chance) else chance for chance in chances]
    order = sorted(range(len(chances)), key=lambda position: chances[position])
    rejected = [False] * len(chances)
    for rank, position in enumerate(order):
        if chances[position] > alpha / (len(chances) - rank):
            break
        rejected[position] = True
    return rejected
