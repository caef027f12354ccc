"""Metrics of answers for benign users: distance, likelihood, calibration and ranking. Functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
FLOOR = 1e-12
"""Probabilities are raised to this before a logarithm; a wrong label-only answer has a loss of 27.6 nats."""


def l1(a: Array, b: Array) -> Array:
    """Return (n,) sums of absolute differences between rows, in [0, 2] for distributions."""
    distance: Array = np.abs(a - b).sum(axis=1)
    return distance


def normalised(answers: Array) -> Array:
    """Return ``answers`` (n, classes) as distributions: negative entries set to 0, rows divided by their sum.

    A row of zeros becomes uniform.
    """
    positive = np.maximum(answers, 0.0)
    sums = positive.sum(axis=1, keepdims=True)
    return np.where(sums > 0, positive / np.where(sums > 0, sums, 1.0), 1.0 / answers.shape[1])


def negative_log_likelihood(answers: Array, truth: Labels) -> Array:
    """Return (n,) negative log-likelihoods in nats of the classes ``truth`` under normalised ``answers``."""
    loss: Array = -np.log(np.maximum(answers[np.arange(len(truth)), truth], FLOOR))
    return loss


def expected_calibration_error(confidence: Array, correct: Mask, bins: int = 15) -> float:
    """Return the expected calibration error with equal-width bins (Guo et al. 2017), in [0, 1]."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    weight = np.bincount(bin_of, minlength=bins)
    gap = np.abs(np.bincount(bin_of, confidence, bins) - np.bincount(bin_of, correct.astype(float), bins))
    return float(gap.sum() / max(weight.sum(), 1))


def area_under_risk_coverage(confidence: Array, correct: Mask) -> float:
    """Return the area under the risk-coverage curve (Geifman & El-Yaniv 2017), in [0, 1]; small is good.

    Risk at coverage k/n is the error among the k most confident answers, averaged over k. Among
    answers of equal confidence the order is random: their expected risk is used, so that an API
    without confidences (label only) gets its plain error rate.
    """
    n = len(confidence)
    if n == 0:
        return float("nan")
    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = confidence[order], (~correct[order]).astype(float)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, n])
    expected = np.repeat(np.add.reduceat(wrong, starts) / sizes, sizes)
    return float((np.cumsum(expected) / np.arange(1, n + 1)).mean())
