"""What a victim may have said, given what rounding, truncation or a cut-off left of it.

An answer of these defenses says that each probability lies in an interval. Within that cell the
likeliest row is taken, given a guess of it: the I-projection of the guess (Csiszár 1975, "I-Divergence
Geometry of Probability Distributions and Minimization Problems").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST = 1e-12
"""Smallest probability of a guess: whatever a cell allows must be possible."""
HALVINGS = 80
"""Steps of a bisection, enough for double precision."""
WHOLE = 1e-6
"""Distance from a whole number within which a number of units counts as one."""
COARSE = 3
"""Decimals up to which a row's sum is looked for by what makes its entries round."""
DECIMALS = 15
"""Decimals that are looked for, at most; double precision has no more."""


def project(guess: Array, low: Array, high: Array) -> Array:
    """Return the rows p nearest to ``guess`` in KL(p, guess) with low <= p <= high that sum to 1.

    All (n, classes). That is p = clip(s × guess, low, high), the factor s of each row such that the sum
    is 1. Where no row of the cell sums to 1, its nearest corner is divided by its sum.
    """
    prior = np.clip(guess, LEAST, None)
    positive = np.finfo(np.float64).tiny
    bottom = np.log(np.clip(low, positive, None) / prior).min(axis=1, initial=0)
    top = np.log(np.clip(high, positive, None) / prior).max(axis=1, initial=0)
    for _ in range(HALVINGS):
        middle = (bottom + top) / 2
        much = np.clip(prior * np.exp(middle)[:, None], low, high).sum(axis=1) > 1
        bottom, top = np.where(much, bottom, middle), np.where(much, middle, top)
    return divided(np.clip(prior * np.exp((bottom + top) / 2)[:, None], low, high))


def divided(rows: Array) -> Array:
    """Return non-negative rows (n, classes) divided by their sums; rows that are all zero become uniform."""
    total = rows.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, rows, 1) / np.where(total > 0, total, rows.shape[1]))


def one_hot(rows: Array) -> Array:
    """Return the top-1 of each row (n, classes) and nothing else; the lowest index wins a tie."""
    return np.asarray(np.eye(rows.shape[1])[rows.argmax(axis=1)])


def rounded_cell(told: Array, decimals: int) -> tuple[Array, Array]:
    """Return the bounds (n, classes) of what is rounded to ``told``."""
    half = 0.5 * 10.0**-decimals
    return np.clip(told - half, 0, 1), np.clip(told + half, 0, 1)


def multiples(told: Array, unit: float, otherwise: Array) -> Array:
    """Return rows (n, classes) times the factor that makes all their entries multiples of ``unit``.

    Of several factors, all multiples of ``unit`` themselves, the one nearest to 1, since what was
    rounded still sums to about 1; a row that none fits is taken from ``otherwise``.
    """
    half = told.shape[1] / 2
    rows, lost = otherwise.copy(), np.ones(len(told), dtype=bool)
    steps = np.arange(1, np.ceil(1 / unit + half) + 1)
    near = steps[np.abs(steps * unit - 1) <= (half + 0.5) * unit]
    for step in near[np.argsort(np.abs(near * unit - 1), kind="stable")]:
        parts = told * step
        fits = lost & (np.abs(parts - np.round(parts)).max(axis=1) < WHOLE)
        rows[fits] = np.round(parts[fits]) * unit
        lost &= ~fits
    return rows


def top_k_cell(told: Array, k: int) -> tuple[Array, Array]:
    """Return the bounds of what is ``told`` when only the k largest are: the rest is no larger than these."""
    order = np.argsort(-told, axis=1, kind="stable")
    low, high = told.copy(), told.copy()
    if k < told.shape[1]:
        least = np.take_along_axis(told, order[:, k - 1 : k], axis=1)
        np.put_along_axis(low, order[:, k:], 0, axis=1)
        np.put_along_axis(high, order[:, k:], least, axis=1)
    return low, high


def cutoff_cell(told: Array, cutoff: float) -> tuple[Array, Array]:
    """Return the bounds of what is ``told`` when zero is answered for everything below ``cutoff``."""
    return told, np.where(told > 0, told, cutoff)


def decimals_of(told: Array) -> int:
    """Return the smallest number of decimals with which all answers can be written, at most DECIMALS."""
    for decimals in range(1, DECIMALS):
        scaled = told * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max(initial=0) < 1e-6 * min(1, 10.0 ** (decimals - 9)):
            return decimals
    return DECIMALS


def k_of(told: Array) -> int:
    """Return the largest number of non-zero entries in a row, at least 1."""
    return max(1, int(np.count_nonzero(told, axis=1).max(initial=1)))


def cutoff_of(told: Array) -> float:
    """Return the smallest entry that was not cut, 1 where everything was."""
    return float(told[told > 0].min(initial=1))
