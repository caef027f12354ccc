"""Detector scores on a scale that depends on no threshold. Functions of arrays alone."""

from __future__ import annotations

import numpy as np

from bench.metrics.utility import Array


def position(scores: Array, reference: Array) -> Array:
    """Return where each of ``scores`` (n,) lies among the ``reference`` scores (m,), (n,); order is kept.

    From the smallest to the largest reference score: the share of the reference below, equal scores counting
    half, and linear in between. Beyond either end a position moves on by 1 for each standard deviation of the
    reference, so that the order among extreme scores is kept, too. NaN counts as the highest score.
    Reference scores that are not finite are left out; if none are left, the scores are returned.
    """
    scores = np.where(np.isnan(scores), np.inf, scores)
    known = reference[np.isfinite(reference)]
    values, counts = np.unique(known, return_counts=True)
    if not len(values):
        return scores
    shares = (np.cumsum(counts) - counts / 2) / len(known)
    spread = float(known.std())
    unit = spread if 0 < spread < np.inf else 1.0  # a reference that does not vary has no unit of its own
    right = np.searchsorted(values, scores, side="right")
    low, high = np.maximum(right - 1, 0), np.minimum(right, len(values) - 1)
    gap = values[high] - values[low]
    part = np.divide(scores - values[low], gap, out=np.zeros_like(scores), where=gap > 0)
    inside = np.minimum(shares[low] + part * (shares[high] - shares[low]), shares[high])
    above, below = np.maximum(scores - values[-1], 0), np.minimum(scores - values[0], 0)
    return np.asarray(inside + (above + below) / unit)


def highest_position(scores: Array, reference: Array) -> Array:
    """Return the highest position of each row over several tests, (n,).

    ``scores`` (n, tests) and ``reference`` (m, tests): a column's positions are those among the same column
    of the reference, which is what makes scores of different tests comparable.
    """
    columns = zip(scores.T, reference.T, strict=True)
    return np.asarray(np.max([position(column, others) for column, others in columns], axis=0))
