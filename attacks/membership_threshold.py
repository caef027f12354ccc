"""Membership inference from one number of the answer."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacks.base import Api, Array, Records
from attacks.common.thresholding import Thresholding

Labels = NDArray[np.int64]
FLOOR = 1e-300
"""Probabilities and entropies are raised to this before a log."""
FLOAT = 2.0**-53
"""What 1 is lowered by before the log of its complement."""


class MembershipThreshold(Thresholding):
    """Compares one number of the answer with a threshold learnt on the known records.

    ``score``: "confidence" (the largest entry), "entropy" of the answer, "loss" (cross-entropy of the
    true label, Yeom et al. 2018, arXiv 1709.01604, section 3.2; Song and Mittal's "confidence" ranks
    the same) or "modified_entropy" (Song and Mittal, equation 8: entropy that knows the true label).
    Members are expected to have more confidence and less of the others. Song and Mittal learn a
    threshold per class; here one serves all.
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

    def evidence(self, api: Api, records: Records) -> Array:
        """Ask once about each record; return log-odds of the confidence, or minus the log of the entropy."""
        answers = np.clip(api.predict(records.x), 0.0, 1.0)
        if self.score == "entropy":
            return -_log(_entropy(answers))
        named = answers.argmax(axis=1) if self.score == "confidence" else records.y
        right, others = _split(answers, named)
        if self.score == "modified_entropy":
            return -_log(_modified_entropy(right, others))
        return _log(right) - _log(others.sum(axis=1))


def _log(values: Array) -> Array:
    return np.log(np.maximum(values, FLOOR))


def _split(answers: Array, named: Labels) -> tuple[Array, Array]:
    """Return the named entries (n,), and the answers with those entries set to 0; refused rows stay NaN.

    What the named entry lacks to 1 is taken from the others: near 1 it would be lost to rounding.
    """
    rows = np.arange(len(answers))
    others = answers.copy()
    others[rows, named] = 0.0
    return answers[rows, named], others


def _entropy(answers: Array) -> Array:
    nats: Array = -(answers * _log(answers)).sum(axis=1)
    return nats


def _modified_entropy(right: Array, others: Array) -> Array:
    """Return -(1 - p_y) log p_y - sum over the others of p_i log(1 - p_i), in nats."""
    missing = np.minimum(others.sum(axis=1), 1.0)
    # log p_y, from the smaller of p_y and what it lacks: precise at both ends.
    log_right = np.where(missing < 0.5, np.log1p(-np.minimum(missing, 0.5)), _log(right))
    nats: Array = -missing * log_right - (others * np.log1p(-np.minimum(others, 1 - FLOAT))).sum(axis=1)
    return nats
