"""Rows of probabilities that are known by an interval for each entry.

Rounding, truncation and a cut-off leave such intervals. Within them the most likely row, given an
estimate of it, is the I-projection of the estimate (Csiszár 1975, "I-Divergence Geometry of Probability
Distributions and Minimization Problems").
"""

from __future__ import annotations

import numpy as np

from attacks.base import Array

LEAST = 1e-12
"""Smallest probability of an estimate: every value within an interval must be possible."""
HALVINGS = 80
"""Steps of a bisection, enough for double precision."""
WHOLE = 1e-6
"""Distance from an integer within which a number counts as one."""
COARSE = 3
"""Decimals up to which the sum of a rounded row can be found from its divided entries."""
DECIMALS = 15
"""Largest number of decimals that is considered; double precision has no more."""


def project(estimate: Array, low: Array, high: Array) -> Array:
    """Return the rows p nearest to ``estimate`` in KL(p, estimate) with low <= p <= high that sum to 1.

    All are (n, classes). The solution is p = clip(s × estimate, low, high), the factor s of each row such
    that the sum is 1. Where no row within the bounds sums to 1, their nearest corner is divided by its sum.
    """
    prior = np.clip(estimate, LEAST, None)
    positive = np.finfo(np.float64).tiny
    bottom = np.log(np.clip(low, positive, None) / prior).min(axis=1, initial=0)
    top = np.log(np.clip(high, positive, None) / prior).max(axis=1, initial=0)
    for _ in range(HALVINGS):
        middle = (bottom + top) / 2
        much = np.clip(prior * np.exp(middle)[:, None], low, high).sum(axis=1) > 1
        bottom, top = np.where(much, bottom, middle), np.where(much, middle, top)
    return normalised(np.clip(prior * np.exp((bottom + top) / 2)[:, None], low, high))


def normalised(rows: Array) -> Array:
    """Return non-negative rows (n, classes) divided by their sums; rows that are all zero become uniform."""
    total = rows.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, rows, 1) / np.where(total > 0, total, rows.shape[1]))


def one_hot(rows: Array) -> Array:
    """Return the top-1 of each row (n, classes) and nothing else; the lowest index wins a tie."""
    return np.asarray(np.eye(rows.shape[1])[rows.argmax(axis=1)])


def rounding_bounds(answers: Array, decimals: int) -> tuple[Array, Array]:
    """Return the bounds (n, classes) of rows that round to ``answers``."""
    half = 0.5 * 10.0**-decimals
    return np.clip(answers - half, 0, 1), np.clip(answers + half, 0, 1)


def rescaled_to_multiples(answers: Array, resolution: float, otherwise: Array) -> Array:
    """Return ``answers`` (n, classes) times the factors that make their entries multiples of ``resolution``.

    Of several factors, all multiples of ``resolution`` themselves, the one nearest to 1 is taken: a
    rounded row still sums to about 1. A row without such a factor is taken from ``otherwise``.
    """
    half = answers.shape[1] / 2
    rows, lost = otherwise.copy(), np.ones(len(answers), dtype=bool)
    steps = np.arange(1, np.ceil(1 / resolution + half) + 1)
    near = steps[np.abs(steps * resolution - 1) <= (half + 0.5) * resolution]
    for step in near[np.argsort(np.abs(near * resolution - 1), kind="stable")]:
        parts = answers * step
        fits = lost & (np.abs(parts - np.round(parts)).max(axis=1) < WHOLE)
        rows[fits] = np.round(parts[fits]) * resolution
        lost &= ~fits
    return rows


def top_k_bounds(answers: Array, k: int) -> tuple[Array, Array]:
    """Return the bounds of rows whose k largest entries are shown: the others are no larger than these."""
    order = np.argsort(-answers, axis=1, kind="stable")
    low, high = answers.copy(), answers.copy()
    if k < answers.shape[1]:
        least = np.take_along_axis(answers, order[:, k - 1 : k], axis=1)
        np.put_along_axis(low, order[:, k:], 0, axis=1)
        np.put_along_axis(high, order[:, k:], least, axis=1)
    return low, high


def cutoff_bounds(answers: Array, cutoff: float) -> tuple[Array, Array]:
    """Return the bounds of rows whose entries below ``cutoff`` were replaced by zero."""
    return answers, np.where(answers > 0, answers, cutoff)


def decimals_of(answers: Array) -> int:
    """Return the smallest number of decimals that all answers need, at most DECIMALS."""
    for decimals in range(1, DECIMALS):
        scaled = answers * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max(initial=0) < 1e-6 * min(1, 10.0 ** (decimals - 9)):
            return decimals
    return DECIMALS


def k_of(answers: Array) -> int:
    """Return the largest number of non-zero entries in a row, at least 1."""
    return max(1, int(np.count_nonzero(answers, axis=1).max(initial=1)))


def cutoff_of(answers: Array) -> float:
    """Return the smallest non-zero entry, 1 where there is none."""
    return float(answers[answers > 0].min(initial=1))
