"""The partial Bayes attack: the mean of simulated clean answers whose defended ones are near the answer.

Tang et al. 2024, "ModelGuard" (USENIX Security): it approximates the Bayes estimator by a table of pairs.
"""

from __future__ import annotations

import numpy as np

from attacks.base import Array

NEAREST = 5
"""Clean answers that are averaged."""
TOLERANCE = 0.01
"""L1 distance up to which all of them are."""


def restored(answers: Array, simulated: Array, clean: Array, estimates: Array) -> Array:
    """Return restored answers (n, classes): means over each row's own table.

    ``answers``: (n, classes). ``simulated``, ``clean``: (draws, n, classes), the tables; NaN rows of
    ``simulated`` were rejected. Where all were, the row's estimate (n, classes) is returned.
    """
    distances = np.abs(simulated - answers).sum(axis=2)
    usable = np.isfinite(distances)
    distances[~usable] = np.inf
    place = min(NEAREST, len(distances)) - 1
    limits = np.maximum(np.partition(distances, place, axis=0)[place], TOLERANCE)
    near = usable & (distances <= limits)
    count = near.sum(axis=0)
    total = np.where(near[..., None], clean, 0).sum(axis=0)
    means: Array = total / np.maximum(count, 1)[:, None]
    return np.where(count[:, None] > 0, means, estimates)
