"""Metrics of answers of two classes, where one is rare or users decide by a score. Functions of arrays alone.

scikit-learn and scipy compute them; both are imported where they are used, since they take a second.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.utility import FLOOR, Array, Labels, Mask


def log_odds(answers: Array) -> Array:
    """Return (n,) log-odds in nats of the second class of answers (n, 2), at most 27.6 either way."""
    floored = np.maximum(answers, FLOOR)
    return np.asarray(np.log(floored[:, 1]) - np.log(floored[:, 0]))


def area_under_roc(label: Labels, score: Array) -> float | None:
    """Return the area under the ROC curve of ``score`` (n,) for the labels 0 and 1 (n,), ties counted half.

    None where one label alone occurs.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score)) if 0 < label.sum() < len(label) else None


def average_precision(label: Labels | Mask, score: Array) -> float | None:
    """Return the average precision of ``score`` (n,) for the label 1, the area under precision by recall.

    The sum of precisions weighted by the steps of recall, not interpolated. None where one label alone
    occurs.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(label, score)) if 0 < label.sum() < len(label) else None


def rank_correlation(one: Array, other: Array) -> float | None:
    """Return Spearman's rank correlation of two scores (n,), in [-1, 1]; None where one does not vary."""
    from scipy.stats import spearmanr

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def likeness(surrogate: Array, victim: Array) -> dict[str, float | None]:
    """Return how much a surrogate's scores are like the victim's, by name; nothing but for two classes.

    ``surrogate``, ``victim``: (n, classes) probabilities. ``auc``: of the surrogate's score for the victim's
    label. ``spearman``: of the log-odds of both. They depend on no threshold, and not on how rare a class
    is.
    """
    if victim.shape[1] != 2:
        return {}
    score = log_odds(surrogate)
    return {
        "extraction.auc": area_under_roc(victim.argmax(axis=1), score),
        "extraction.spearman": rank_correlation(score, log_odds(victim)),
    }
