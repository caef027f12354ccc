"""Balanced fidelity: agreement weighted so that each label of the victim counts the same.

Functions of arrays alone. A victim whose answers are nearly always one label is matched by a constant answer;
balanced fidelity, the mean over labels of the agreement on the inputs of a label, is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.intervals import Floats

MOST = 0.75
"""Above this share of the commonest label, balanced fidelity is the headline for every number of classes."""


def label_weights(labels: NDArray[Any]) -> Floats:
    """Return (n,) weights of mean 1 that give each label the same weight in sum; ``labels`` (n,) integers.

    The mean of agreement times weights is balanced fidelity. Labels that never occur do not count.
    """
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Floats = len(labels) / (len(counts) * counts[which].astype(np.float64))
    return weights


def commonest_share(labels: NDArray[Any]) -> float:
    """Return the share of the commonest of ``labels`` (n,), in [0, 1]; this is what a constant answer has."""
    counts = np.unique(labels, return_counts=True)[1]
    return float(counts.max() / len(labels)) if len(labels) else 0.0


def is_imbalanced(commonest: float, classes: int) -> bool:
    """Return whether balanced fidelity is the headline for a victim, by the share of its commonest label.

    The limit is twice the share that it has if all are equal, at least one half, at most :data:`MOST`:
    without the last, no victim of two classes could exceed it.
    """
    return commonest > min(max(0.5, 2 / classes), MOST)


def near_chance(balanced_fidelity: float, classes: int, above: float = 0.10) -> bool:
    """Return whether a balanced fidelity is less than a share ``above`` of the way from chance to 1."""
    return balanced_fidelity < 1 / classes + above * (1 - 1 / classes)
