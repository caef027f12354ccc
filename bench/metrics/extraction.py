"""What is measured: how close the copy is, and what honest users pay. Plain functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
FLOOR = 1e-12
"""Probabilities are raised to this before a log; a label-only answer that is wrong costs 27.6 nats."""


def extraction(copy: Array, victim: Array, truth: Labels, deployed: Array) -> dict[str, float | None]:
    """Return the metrics of the extraction family, by name.

    ``copy``, ``victim``: (n, classes) probabilities on the test split, the victim's undefended.
    ``deployed``: (n, classes) what the defended API answers there, NaN where it refuses.
    Shares are in [0, 1], L1 in [0, 2], KL and the loss against the truth in nats; None where nothing can
    be measured.
    """
    guess, label = copy.argmax(axis=1), victim.argmax(axis=1)
    agrees = guess == label
    answered = np.asarray(np.isfinite(deployed).all(axis=1))
    shown = np.nan_to_num(deployed).argmax(axis=1)
    precision, recall, f1 = macro(confusion(truth, guess, copy.shape[1]))
    return {
        "extraction.fidelity": float(agrees.mean()),
        "extraction.agreement_deployed": share(guess == shown, answered),
        "extraction.fidelity_where_victim_errs": share(agrees, label != truth),
        "extraction.fidelity_low_margin": share(agrees, low_margin(victim)),
        "extraction.accuracy": float((guess == truth).mean()),
        "extraction.loss": float(negative_log_likelihood(copy, truth).mean()),
        "extraction.precision": precision,
        "extraction.recall": recall,
        "extraction.f1": f1,
        "extraction.l1": float(l1(copy, victim).mean()),
        "extraction.kl": float(kl(victim, copy).mean()),
    }


def confusion(truth: Labels, guess: Labels, classes: int) -> list[list[int]]:
    """Return (classes, classes) counts: rows are the truth, columns what the copy said."""
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    table: list[list[int]] = counts.reshape(classes, classes).tolist()
    return table


def macro(table: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of a confusion table, each averaged over classes; 0 where undefined.

    As scikit-learn has them; its checks of what it is given take longer than all else that is measured.
    """
    counts = np.asarray(table, dtype=np.float64)
    right, said, true = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    precision, recall, f1 = (
        np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        for part, whole in ((right, said), (right, true), (2 * right, said + true))
    )
    return float(precision.mean()), float(recall.mean()), float(f1.mean())


def share(hits: Mask, among: Mask) -> float | None:
    """Return the share of ``hits`` among the rows of ``among``; None where there are none."""
    return float(hits[among].mean()) if among.any() else None


def low_margin(victim: Array) -> Mask:
    """Return (n,) True for the tenth of the inputs with the smallest gap between top-1 and top-2."""
    top = np.sort(victim, axis=1)[:, -2:]
    order = np.argsort(top[:, 1] - top[:, 0], kind="stable")
    chosen = np.zeros(len(victim), dtype=bool)
    chosen[order[: max(1, len(victim) // 10)]] = True
    return chosen


def l1(a: Array, b: Array) -> Array:
    """Return (n,) sums of absolute differences between rows, in [0, 2] for distributions."""
    distance: Array = np.abs(a - b).sum(axis=1)
    return distance


def kl(p: Array, q: Array) -> Array:
    """Return (n,) Kullback-Leibler divergences of rows q from p, in nats."""
    divergence: Array = (p * (np.log(np.maximum(p, FLOOR)) - np.log(np.maximum(q, FLOOR)))).sum(axis=1)
    return divergence


def normalised(answers: Array) -> Array:
    """Return answers as distributions: negative entries cut off, rows divided by their sum.

    A row of zeros becomes uniform: it says nothing.
    """
    positive = np.maximum(answers, 0.0)
    sums = positive.sum(axis=1, keepdims=True)
    return np.where(sums > 0, positive / np.where(sums > 0, sums, 1.0), 1.0 / answers.shape[1])


def negative_log_likelihood(answers: Array, truth: Labels) -> Array:
    """Return (n,) nats by which each normalised answer missed the truth."""
    loss: Array = -np.log(np.maximum(answers[np.arange(len(truth)), truth], FLOOR))
    return loss


def expected_calibration_error(confidence: Array, correct: Mask, bins: int = 15) -> float:
    """Return the expected calibration error with equal-width bins (Guo et al. 2017), in [0, 1]."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    weight = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, confidence, bins) - np.bincount(place, correct.astype(float), bins))
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
