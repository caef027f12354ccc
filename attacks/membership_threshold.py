"""Membership inference from one statistic of the answer."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacks.base import Api, Array, Records
from attacks.common.thresholding import Thresholding

FLOOR = 1e-300
"""Probabilities and entropies are raised to this before a log."""
FLOAT = 2.0**-53
"""What 1 is lowered by before the log of its complement."""


class MembershipThreshold(Thresholding):
    """Compares one statistic of the answer with a threshold learned on the known records.

    ``score``: "confidence" (the largest entry), "entropy" of the answer, "loss" (cross-entropy of the
    true label, Yeom et al. 2018, arXiv 1709.01604, section 3.2; Song and Mittal's "confidence" ranks
    the same) or "modified_entropy" (Song and Mittal, equation 8: entropy that takes the true label into
    account). Members are expected to have higher confidence and lower values of the others. Song and
    Mittal learn a threshold for each class; here all classes share one.
    """

    name = "membership_threshold"
    paper = "Song & Mittal 2021, arXiv 2003.10595, section 4"

    def __init__(
        self,
        *,
        members: Annotated[int, Field(ge=20)] = 10_000,
        target: Literal["victim", "surrogate"] = "victim",
        score: Literal["confidence", "entropy", "modified_entropy", "loss"] = "modified_entropy",
    ) -> None:
        super().__init__(members=members, target=target)
        self.score = score

    def statistic(self, api: Api, records: Records) -> Array:
        """Return (n,) log-odds of the confidence, or minus the log of the entropy."""
        answers = np.clip(api.predict(records.x), 0.0, 1.0)
        if self.score == "entropy":
            return -_log(_entropy(answers))
        entry = answers.argmax(axis=1) if self.score == "confidence" else records.y
        right, others = _split(answers, entry)
        if self.score == "modified_entropy":
            return -_log(_modified_entropy(right, others))
        return _log(right) - _log(others.sum(axis=1))


def _log(values: Array) -> Array:
    return np.log(np.maximum(values, FLOOR))


def _split(answers: Array, entry: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the entries (n,) of one class each, and the answers with these set to 0; rejected rows stay NaN.

    One minus the entry is computed from the others: near 1 it would be lost to rounding.
    """
    rows = np.arange(len(answers))
    others = answers.copy()
    others[rows, entry] = 0.0
    return answers[rows, entry], others


def _entropy(answers: Array) -> Array:
    nats: Array = -(answers * _log(answers)).sum(axis=1)
    return nats


def _modified_entropy(right: Array, others: Array) -> Array:
    """Return -(1 - p_y) log p_y - sum over the others of p_i log(1 - p_i), in nats."""
    missing = np.minimum(others.sum(axis=1), 1.0)
    # log p_y, from the smaller of p_y and 1 - p_y: precise at both ends.
    log_right = np.where(missing < 0.5, np.log1p(-np.minimum(missing, 0.5)), _log(right))
    nats: Array = -missing * log_right - (others * np.log1p(-np.minimum(others, 1 - FLOAT))).sum(axis=1)
    return nats
