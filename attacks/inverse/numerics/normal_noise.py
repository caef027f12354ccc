"""The posterior mean of a row of probabilities, given an answer with normal noise on every entry.

The noise of gaussian_noise and output_noise is added, clipped at zero and divided by the row's sum,
which is not shown: the likelihood is integrated over it. output_noise may then swap two entries to keep
the label; the likelihood sums over the pairs.

The prior is a mixture with equal weights: rows that are confident of one class, and rows whose log-odds
are normal around those of an estimate. The integral over the second part is a sum over draws, the same
ones for all rows.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr

from attacks.base import Array

DRAWS, SPREAD = 128, 3.0
"""Rows drawn around an estimate, and the standard deviation of their log-odds."""
SURE, DOUBT = 0.97, 0.1
"""Top-1 of a confident row, whose other entries are equal; probability that the estimate is uninformative."""
LEAST = 1e-6
"""Smallest probability of an estimate; surrogates trained on few answers are overconfident."""
SUMS = 16
"""Number of row sums before the division that are integrated over."""
SCALES = np.geomspace(0.005, 10, 60)
"""Standard deviations that are compared."""
CHUNK = 128
"""Rows that are processed at once, to limit memory."""


def log_likelihoods(answers: Array, rows: Array, scale: float, *, label_kept: bool = False) -> Array:
    """Return (n, m) log-densities of ``answers`` (n, classes) given each of m rows (n, m, classes).

    Up to a constant of the answer that depends on neither row nor ``scale``.
    """
    number, classes = answers.shape
    # Five standard deviations above the mean sum of a noisy row.
    largest = 1 + scale * (5 * np.sqrt(classes) + 0.4 * classes)
    sums = np.linspace(largest / SUMS, largest, SUMS)
    shown = answers > 0
    squares = (
        np.multiply.outer((answers**2).sum(axis=1), sums**2)[:, None]
        - 2 * np.multiply.outer(np.einsum("nc,nmc->nm", answers, rows), sums)
        + np.einsum("nc,nmc->nm", shown.astype(np.float64), rows**2)[:, :, None]
    )
    clipped = np.einsum("nc,nmc->nm", (~shown).astype(np.float64), log_ndtr(-rows / scale))
    count = shown.sum(axis=1)
    logs = -squares / (2 * scale**2) + clipped[:, :, None]
    logs += ((count - 1)[:, None] * np.log(sums) - (count * np.log(scale * np.sqrt(2 * np.pi)))[:, None])[
        :, None
    ]
    logs += np.log(largest)
    if label_kept:
        here, label = np.arange(number), answers.argmax(axis=1)
        higher = answers[here, label][:, None] - answers
        likelier = rows[here, :, label][:, :, None] - rows
        # The label's entry may have been swapped with any other; with itself means no swap.
        swaps = -np.einsum("s,nc,nmc->nmsc", sums, higher, likelier) / scale**2
        logs += logsumexp(swaps, axis=3)
        logs[rows.argmax(axis=2) != label[:, None]] = -np.inf
    return np.asarray(logsumexp(logs, axis=2))


def confident_rows(classes: int) -> Array:
    """Return (classes, classes), for each class a row that is confident of it."""
    rest = (1 - SURE) / (classes - 1)
    return np.asarray(rest + (SURE - rest) * np.eye(classes))


def denoise(
    answers: Array, scale: float, estimate: Array | None = None, *, label_kept: bool = False
) -> Array:
    """Return the posterior means (n, classes) of the victim's rows.

    Without an ``estimate`` (n, classes) the prior holds confident rows alone.
    """
    rows = np.empty_like(answers)
    draws = np.random.default_rng(0).normal(0, SPREAD, (DRAWS, answers.shape[1]))
    for start in range(0, len(answers), CHUNK):
        part = slice(start, start + CHUNK)
        prior, weight = _prior(len(answers[part]), draws, None if estimate is None else estimate[part])
        weight = weight + log_likelihoods(answers[part], prior, scale, label_kept=label_kept)
        weight = np.exp(weight - logsumexp(weight, axis=1, keepdims=True))
        rows[part] = np.einsum("nm,nmc->nc", weight, prior)
    return rows


def _prior(number: int, draws: Array, estimate: Array | None) -> tuple[Array, Array]:
    """Return the rows (n, m, classes) of the prior, and their log-weights (n, m)."""
    classes = draws.shape[1]
    rows = np.broadcast_to(confident_rows(classes), (number, classes, classes))
    if estimate is None:
        return rows, np.zeros((number, classes))
    near = np.clip(estimate, LEAST, 1)
    odds = np.log(near)[:, None] + draws
    drawn = np.exp(odds - logsumexp(odds, axis=2, keepdims=True))
    believed = (1 - DOUBT) * near / near.sum(axis=1, keepdims=True) + DOUBT / classes
    weight = np.concatenate([np.full((number, len(draws)), -np.log(len(draws))), np.log(believed)], axis=1)
    return np.concatenate([drawn, rows], axis=1), weight


def most_likely_scale(answers: Array) -> float:
    """Return the standard deviation under which the answers (n, classes) are most likely."""
    rows = np.broadcast_to(confident_rows(answers.shape[1]), (len(answers), *[answers.shape[1]] * 2))
    fits = [float(logsumexp(log_likelihoods(answers, rows, float(scale)), axis=1).sum()) for scale in SCALES]
    return float(SCALES[int(np.argmax(fits))])


def keeps_label(answers: Array, scale: float, estimate: Array) -> bool:
    """Return whether the noise of ``answers`` (n, classes) keeps labels, judged by an ``estimate``.

    The two hypotheses differ in the victim's class only: the largest entry's if labels are kept, else
    any, by its likelihood. The one under which the estimate (n, classes) is more likely is returned.
    """
    rows = np.broadcast_to(confident_rows(answers.shape[1]), (len(answers), *[answers.shape[1]] * 2))
    likely = log_likelihoods(answers, rows, scale)
    free = np.exp(likely - logsumexp(likely, axis=1, keepdims=True))
    believed = (1 - DOUBT) * estimate + DOUBT / answers.shape[1]
    kept = believed[np.arange(len(answers)), answers.argmax(axis=1)]
    return bool(np.log(kept).sum() > np.log((free * believed).sum(axis=1)).sum())


def mean_answer(rows: Array, scale: float) -> Array:
    """Return the mean of noisy rows (n, classes) before the division by their sums, then divided."""
    ratio = rows / scale
    lifted = rows * ndtr(ratio) + scale * np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi)
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True))
