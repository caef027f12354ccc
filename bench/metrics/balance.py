"""Balanced fidelity: agreement weighted so that each label of the victim counts the same.

Functions of arrays alone. A victim whose answers are nearly always one label is matched by a constant answer;
balanced fidelity, the mean over labels of the agreement on the inputs of a label, is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.intervals import Floats
from bench.metrics.utility import balanced_weights

FEWEST = 50
"""Test inputs from which agreement on a label says something."""
MOST = 0.75
"""Above this share of the commonest label, balanced fidelity is the headline for every number of classes."""


def labels_left_out(labels: NDArray[Any]) -> NDArray[Any]:
    """Return which of more than two labels (n,) are too rare to count in balanced fidelity.

    Agreement on them is luck: they have fewer than :data:`FEWEST` inputs, and less than half of what each
    would have if all were equally common, since a small test split has few of any label. None are where that
    would leave fewer than two.
    """
    names, counts = np.unique(labels, return_counts=True)
    rare = counts < min(FEWEST, len(labels) / max(1, 2 * len(names)))
    return names[rare] if len(names) > 2 and (~rare).sum() >= 2 else names[:0]


def fidelity_weights(labels: NDArray[np.int64]) -> Floats:
    """Return (n,) weights of mean 1 with which mean agreement on inputs of ``labels`` is balanced fidelity.

    Those of :func:`labels_left_out` weigh 0.
    """
    kept = ~np.isin(labels, labels_left_out(labels))
    weights: Floats = np.zeros(len(labels))
    weights[kept] = balanced_weights(labels[kept])
    return weights if kept.all() else weights * (len(labels) / kept.sum())


def balanced_agreement(agreement: NDArray[Any], weights: Floats) -> Floats:
    """Return ``agreement`` (repeats, inputs) as a table whose mean is balanced fidelity.

    ``weights``: of the inputs, as :func:`fidelity_weights` gives them. Entry i of a row
    is w_i (a_i - m_i) + M, where m_i is the mean agreement on the inputs that weigh as much and M the
    balanced fidelity of all repeats. The mean of each row is its own balanced fidelity, as that of w_i a_i.
    The variance over inputs is that within labels alone, since how many inputs have each label is given.
    """
    agreement = np.asarray(agreement, dtype=np.float64)
    _, which, counts = np.unique(weights, return_inverse=True, return_counts=True)
    hits = np.bincount(which, weights=agreement.sum(axis=0), minlength=len(counts))
    means = hits / (counts * len(agreement))
    table: Floats = weights * (agreement - means[which]) + float((agreement * weights).mean())
    return table


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
    """Return whether a balanced fidelity is less than a share ``above`` of the way from chance to 1.

    ``classes``: over how many labels it is averaged; a constant answer has the share of one of them.
    """
    return balanced_fidelity < 1 / classes + above * (1 - 1 / classes)
