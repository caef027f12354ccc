"""Whether users can tell inputs out of distribution by the confidence of answers. Functions of arrays alone.

Confidence is the largest entry of an answer, as served: the baseline detector of Hendrycks and Gimpel 2017
(arXiv 1610.02136), which needs nothing but answers.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.intervals import Interval
from bench.metrics.membership import auc, auc_difference, auc_error
from bench.metrics.utility import Array, Mask

Z = 1.96
"""Standard errors on each side of an area."""


def served_confidence(answers: Array) -> Array:
    """Return (n,) confidences of answers (n, classes): the largest entry, minus infinity for rows with NaN.

    A rejected query has no answer to be sure of, so that it ranks below all that are answered.
    """
    rejected: Mask = np.asarray(np.isnan(answers).any(axis=1))
    return np.where(rejected, -np.inf, np.where(rejected[:, None], 0.0, answers).max(axis=1))


def ood_auroc(usual: Array, foreign: Array) -> Interval:
    """Return the AUROC of confidences (n,) in distribution and (m,) out of it, with DeLong's interval.

    The share of pairs in which the input of the distribution has the higher confidence; ties count half, so
    that answers without confidences have .5. NaN without inputs of both kinds.
    """
    if not len(usual) or not len(foreign):
        return Interval(float("nan"), float("nan"), float("nan"))
    score, inside = _joined(usual, foreign)
    area, half = auc(inside, score), Z * auc_error(inside, score)
    return Interval(area, max(area - half, 0.0), min(area + half, 1.0))


def ood_auroc_lost(before: tuple[Array, Array], after: tuple[Array, Array]) -> Interval:
    """Return the AUROC of ``before`` minus that of ``after``, with DeLong's interval for paired areas.

    Each holds the confidences of the same inputs in distribution (n,) and out of it (m,).
    NaN without inputs of both kinds.
    """
    if not all(map(len, before)):
        return Interval(float("nan"), float("nan"), float("nan"))
    (first, inside), (second, _) = _joined(*before), _joined(*after)
    lost, error = auc_difference(inside, first, second)
    return Interval(lost, max(lost - Z * error, -1.0), min(lost + Z * error, 1.0))


def _joined(usual: Array, foreign: Array) -> tuple[Array, Mask]:
    return np.concatenate([usual, foreign]), np.repeat([True, False], [len(usual), len(foreign)])
