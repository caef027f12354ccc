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


def brier_score(answers: Array, truth: Labels) -> Array:
    """Return (n,) Brier scores of answers (n, classes) to inputs of the classes ``truth``.

    The sum of squared differences to the one-hot label (Brier 1950), in [0, 2] for distributions. Answers
    are taken as served, not normalised, since that is what users read: where an API shows one class alone,
    its entry is judged.
    """
    error = answers.astype(np.float64)
    error[np.arange(len(truth)), truth] -= 1.0
    score: Array = np.square(error).sum(axis=1)
    return score


def temperature(answers: Array, truth: Labels) -> float:
    """Return the temperature in [0.02, 55] at which normalised ``answers`` (n, classes) fit ``truth`` best.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599): the negative log-likelihood of
    :func:`at_temperature` is smallest. Raises ValueError without answers.
    """
    from scipy.optimize import minimize_scalar  # takes .2 s, which a report need not wait for

    if not len(answers):
        raise ValueError("a temperature is fitted to answers; give at least one")
    rows, logs = np.arange(len(truth)), np.log(np.maximum(answers, FLOOR))

    def loss(sharpness: float) -> float:
        scaled = logs * np.exp(sharpness)
        top = scaled.max(axis=1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[rows, truth]).mean())

    return float(np.exp(-minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def at_temperature(answers: Array, temperature: float) -> Array:
    """Return normalised ``answers`` (n, classes) raised to ``1 / temperature`` and normalised again."""
    logs = np.log(np.maximum(answers, FLOOR)) / temperature
    scaled = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def area_under_roc(score: Array, positive: Mask) -> float:
    """Return the area under the ROC curve of ``score`` (n,), ties counted half; NaN with one class alone."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    values, place = np.unique(score, return_inverse=True)
    above = np.bincount(place[positive], minlength=len(values))
    below = np.bincount(place[~positive], minlength=len(values))
    won = np.cumsum(below) - below + below / 2
    return float((above * won).sum() / (positives * negatives))


def balanced_weights(labels: Labels) -> Array:
    """Return (n,) weights of mean 1 with which a mean over inputs is the mean over ``labels``.

    ``labels``: (n,). Each input has n / (K n_label), where K labels occur.
    """
    _, place, number = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(len(labels) / (len(number) * number[place]))


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
