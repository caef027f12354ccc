"""Tests whether noise is drawn anew: permutation tests that need no model of the noise. Functions of arrays.

Noise that is clipped or normalised moves the mean of an answer, so that residuals to the answer without
noise agree without any fault. Here answers are compared with others that have the same distribution if noise
is drawn anew: to the same answer without noise, with another input, client and number. Under that hypothesis
the two can be exchanged, which gives tests that are exact for any distribution of noise, also where it
differs between inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXCHANGES = 9_999
"""Random exchanges, or permutations, of a test: its p-values are multiples of 1/10,000."""
GROUPS = 8
"""Largest number of groups that the draws of an input are averaged in; answers are exchanged by group."""
DIMENSIONS = 12
"""Largest number of principal components of residuals in the test of streams."""
ENOUGH, STEP = 100, 100
"""Permutations with a statistic at least as large after which no more are drawn; permutations at a time."""
_CHUNK = 1 << 22


def agreement_of_draws(differences: Array, seed: int) -> tuple[float, float]:
    """Return the correlation of the noise in two draws for the same input, and its one-sided p-value.

    ``differences``: (draws, inputs, classes), at least 2 draws; each draw minus one that has the same
    distribution and is independent of all others, if noise is drawn anew. NaN where an answer was rejected.

    The statistic is the sum, over inputs and pairs of draws, of the product of two differences. Exchanging a
    draw with its counterpart changes the sign of a difference: the p-value is the share of random exchanges,
    by input and group of draws, that give a sum at least as large.
    """
    known = np.nan_to_num(differences, nan=0.0)
    draws, inputs, _ = known.shape
    if draws < 2 or inputs == 0:
        return 0.0, 1.0
    pairs = (np.square(known.sum(axis=0)).sum() - np.square(known).sum()) / (draws * (draws - 1))
    power = np.square(known).sum() / draws
    if power == 0:
        return 0.0, 1.0
    groups = min(GROUPS, draws)
    means = np.stack([part.mean(axis=0) for part in np.array_split(known, groups)], axis=1)
    products = np.einsum("iak,ibk->iab", means, means)
    products[:, range(groups), range(groups)] = 0
    # A row for each way to exchange the groups of an input, up to all of them.
    signs = 1.0 - 2.0 * ((np.arange(2 ** (groups - 1))[:, None] >> np.arange(groups)) & 1)
    sums = np.einsum("sa,iab,sb->is", signs, products, signs, optimize=True) / 2
    observed = sums[:, 0].sum()
    # Inputs without noise add nothing to any sum.
    sums = sums[np.abs(sums).max(axis=1) > 0]
    rng, above, rows = np.random.default_rng(seed), 0, np.arange(len(sums))
    slack = 1e-9 * np.abs(sums).max(axis=1, initial=0).sum()
    step = max(1, _CHUNK // max(len(sums), 1))
    for start in range(0, EXCHANGES, step):
        size = min(step, EXCHANGES - start)
        chosen = rng.integers(0, len(signs), (size, len(sums)), dtype=np.uint8)
        above += int((sums[rows, chosen].sum(axis=1) >= observed - slack).sum())
    return float(2 * pairs / power), (1 + above) / (1 + EXCHANGES)


def agreement_in_streams(answers: Array, seed: int) -> tuple[float, float]:
    """Return the most significant correlation of noise within streams, and its one-sided p-value.

    ``answers``: (streams, queries, classes), all to the same answer without noise; NaN where rejected.
    They are independent and have one distribution if noise is drawn anew. Within streams, residuals are
    compared at each lag, and all pairs together; each sum of products in units of its standard deviation. The
    p-value of the largest is its place among those of random permutations of all answers, over streams and
    queries, of which no more are drawn once enough are as large (Besag, Clifford 1991, "Sequential Monte
    Carlo p-values", Biometrika 78).
    """
    streams, queries, classes = answers.shape
    rows = answers.reshape(-1, classes)
    live = np.isfinite(rows.sum(axis=1))
    if live.sum() < 4 or queries < 2:
        return 0.0, 1.0
    rows = np.where(live[:, None], rows - rows[live].mean(axis=0), 0.0)
    if classes > DIMENSIONS:
        rows = rows @ np.linalg.svd(rows, full_matrices=False)[2][:DIMENSIONS].T
    power = float(np.square(rows).sum() / live.sum())
    if power <= 1e-24:
        return 0.0, 1.0
    lags, length = np.arange(1, queries), 1 << (2 * queries - 1).bit_length()
    numbers = np.append(streams * (queries - lags), streams * queries * (queries - 1) // 2)
    deviation = np.sqrt(numbers * np.square(rows.T @ rows / live.sum()).sum())
    mean = -numbers * power / (len(rows) - 1)
    # Lags with few pairs are far from normal, and would decide the maximum.
    used = np.append(streams * (queries - lags) >= min(50, streams * (queries - 1)), True)

    def sums(ordered: Array) -> Array:
        """Return (m, lags + 1) sums of products for (m, streams * queries, dimensions) residuals."""
        parts = ordered.reshape(len(ordered), streams, queries, -1)
        spectrum = np.fft.rfft(parts, length, axis=2)
        at_lag = np.fft.irfft(np.square(np.abs(spectrum)).sum(axis=(1, 3)), length, axis=1)
        found = at_lag[:, 1:queries]
        return np.concatenate([found, found.sum(axis=1, keepdims=True)], axis=1)

    observed = sums(rows[None])[0]
    scores = np.where(used, (observed - mean) / deviation, -np.inf)
    best = int(scores.argmax())
    agreement, rng, above = float(observed[best] / (numbers[best] * power)), np.random.default_rng(seed), 0
    for start in range(0, EXCHANGES, STEP):
        order = rng.permuted(np.tile(np.arange(len(rows)), (min(STEP, EXCHANGES - start), 1)), axis=1)
        found = np.where(used, (sums(rows[order]) - mean) / deviation, -np.inf)
        exceeds = np.flatnonzero(found.max(axis=1) >= scores[best] - 1e-9)
        if above + len(exceeds) >= ENOUGH:
            return agreement, ENOUGH / (start + 1 + int(exceeds[ENOUGH - above - 1]))
        above += len(exceeds)
    return agreement, (1 + above) / (1 + EXCHANGES)


def repeated(answers: Array) -> int:
    """Return how many rows (n, classes) are equal to the bit to another one and hold more than a label.

    Rows whose entries other than 0 are all the same, as where noise is clipped, do not count, nor do NaN.
    """
    low = np.where(answers > 0, answers, np.inf).min(axis=1)
    telling = answers[low < answers.max(axis=1)]
    if not len(telling):
        return 0
    _, counts = np.unique(telling, axis=0, return_counts=True)
    return int(counts[counts > 1].sum())
