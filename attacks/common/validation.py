"""How an attack compares interpretations of its answers: by labels that a surrogate has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from attacks.base import Array

FLOOR = 1e-12

Indices = NDArray[np.int64]


def negative_log_likelihood(predicted: Array, labels: Indices) -> Array:
    """Return (n,) negative log-likelihoods of ``labels`` (n,) under ``predicted`` (n, classes), in nats.

    At the best temperature: all log-probabilities are multiplied by the same factor (Guo et al. 2017,
    arXiv 1706.04599).
    """
    logs = np.log(np.maximum(predicted, FLOOR))

    def at(sharpness: float) -> Array:
        scaled = logs * np.exp(sharpness)
        scaled -= scaled.max(axis=1, keepdims=True)
        losses: Array = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]
        return losses

    best = minimize_scalar(lambda sharpness: float(at(sharpness).mean()), bounds=(-4, 4), method="bounded")
    return at(float(best.x))


def most_complex(scores: Sequence[Array]) -> int:
    """Return the index of the first scores (n,) within one standard error of the best; lower is better.

    The rule of Breiman et al. 1984, section 3.4.3, for scores that are listed from the most complex on.
    """
    best = min(scores, key=lambda score: float(score.mean()))
    excess = [score - best for score in scores]
    near = [more.mean() <= more.std() / np.sqrt(len(more)) for more in excess]
    return near.index(True)
