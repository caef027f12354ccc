"""Metrics of membership inference. Functions of arrays alone.

``member`` is always (n,) bool, the truth; ``score`` (n,) in [0, 1], where a value above .5 means "member".
Both kinds of records must be present. A threshold t classifies the records with a score of at least t as
members. Records with equal scores are classified alike: there is no operating point between them, and
none is interpolated. Shares are in [0, 1].

Sources: Carlini et al. 2022 (arXiv 2112.03570, section II.C: true positives at few false ones, log
axes); DeLong et al. 1988 (standard error of the area under the curve).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.metrics.utility import Array, Mask

TARGETS = {"1": 0.01, "0.1": 0.001}
"""False-positive rates at which true positives are counted, by the name in percent."""
ENOUGH = {"1": 1, "0.1": 1_000}
"""Smallest number of judged non-members at which that rate is reported."""
GRID = np.geomspace(1e-4, 1, 41)
"""False-positive rates at which the curve is stored, ten per decade."""


@dataclass(frozen=True)
class RocCurve:
    """Every operating point of a ranking, from no record to all: counts of false and true positives."""

    false: NDArray[np.int64]
    true: NDArray[np.int64]
    non_members: int
    members: int

    @classmethod
    def of(cls, member: Mask, score: Array) -> RocCurve:
        """Return the curve of ``score``, from the highest score down."""
        order = np.argsort(-score, kind="stable")
        ranked = member[order]
        ends = np.flatnonzero(np.append(score[order][1:] != score[order][:-1], True))
        true, false = np.cumsum(ranked)[ends], np.cumsum(~ranked)[ends]
        return cls(np.r_[0, false], np.r_[0, true], int((~member).sum()), int(member.sum()))

    def at(self, target: float) -> tuple[float, float]:
        """Return the point with the largest false-positive rate that is not above ``target``: (fpr, tpr)."""
        # With a margin for rounding, so that a rate such as 3 / 300 is not above .01.
        allowed = np.flatnonzero(self.false <= target * self.non_members * (1 + 1e-12))
        best = allowed[-1]
        return float(self.false[best] / self.non_members), float(self.true[best] / self.members)


def membership(member: Mask, score: Array) -> dict[str, float | None]:
    """Return the metrics of a membership attack, by name.

    ``tpr_at_1``: true-positive rate where the false-positive rate is at most 1 %; ``fpr_at_1``: the actual
    false-positive rate there. The same at .1 %; None with fewer than 1,000 non-members.
    """
    curve, guess = RocCurve.of(member, score), score > 0.5
    found: dict[str, float | None] = {
        "membership.accuracy": float((guess == member).mean()),
        "membership.balanced_accuracy": float((guess[member].mean() + 1 - guess[~member].mean()) / 2),
        "membership.auc": auc(member, score),
    }
    for name, target in TARGETS.items():
        fpr, tpr = curve.at(target) if curve.non_members >= ENOUGH[name] else (None, None)
        found |= {f"membership.tpr_at_{name}": tpr, f"membership.fpr_at_{name}": fpr}
    return found


def roc(member: Mask, score: Array) -> list[list[float]]:
    """Return [[fpr, tpr], …] on :data:`GRID`: true-positive rates at no more than these rates."""
    curve = RocCurve.of(member, score)
    return [[float(target), curve.at(target)[1]] for target in GRID]


def auc(member: Mask, score: Array) -> float:
    """Return the share of pairs in which the member outranks the non-member; ties count half."""
    return float(_placements(member, score)[0].mean())


def standard_errors(member: Mask, score: Array) -> dict[str, float | None]:
    """Return the standard error of each metric over the judged records, by the metric's name.

    Accuracy and true positives are binomial within members and within non-members, whose numbers are
    fixed. At a false-positive rate the threshold is itself estimated: half of the change of the true
    positives between the target minus and plus one standard error of that rate is added in squares. So
    that no error is 0 where all or none are right, one of each kind is added to counts, and one in the
    middle to DeLong's placements.
    """
    guess, curve = score > 0.5, RocCurve.of(member, score)
    right, wrong = binomial_error(guess[member]), binomial_error(guess[~member])
    share = curve.members / len(member)
    found: dict[str, float | None] = {
        "membership.accuracy": float(np.hypot(share * right, (1 - share) * wrong)),
        "membership.balanced_accuracy": float(np.hypot(right, wrong) / 2),
        "membership.auc": auc_error(member, score),
    }
    for name, target in TARGETS.items():
        enough = curve.non_members >= ENOUGH[name]
        found[f"membership.tpr_at_{name}"] = _error_at(curve, target) if enough else None
    return found


def auc_error(member: Mask, score: Array) -> float:
    """Return DeLong's standard error of the area under the curve."""
    parts = [np.r_[placed, 0.5] for placed in _placements(member, score)]
    return float(np.sqrt(sum(placed.var(ddof=1) / (len(placed) - 1) for placed in parts)))


def auc_difference(member: Mask, first: Array, second: Array) -> tuple[float, float]:
    """Return the area under the curve of ``first`` minus that of ``second``, and DeLong's standard error.

    Both score the same records, (n,), so that the covariance of the two areas counts. So that no error is 0
    where the two rank all records alike, a record whose placements differ by a half is added to each kind.
    """
    before, after = _placements(member, first), _placements(member, second)
    parts = [one - other for one, other in zip(before, after, strict=True)]
    added = [np.r_[part, 0.5] for part in parts]
    error = np.sqrt(sum(part.var(ddof=1) / (len(part) - 1) for part in added))
    return float(parts[0].mean()), float(error)


def binomial_error(hits: Mask) -> float:
    """Return the standard error of a share of ``hits`` (n,), counted with one more of each kind."""
    likely = (hits.sum() + 1) / (len(hits) + 2)
    return float(np.sqrt(likely * (1 - likely) / len(hits)))


def _error_at(curve: RocCurve, target: float) -> float:
    fpr, tpr = curve.at(target)
    likely = (fpr * curve.non_members + 1) / (curve.non_members + 2)
    slack = float(np.sqrt(likely * (1 - likely) / curve.non_members))
    low, high = curve.at(max(target - slack, 0.0))[1], curve.at(min(target + slack, 1.0))[1]
    likely = (tpr * curve.members + 1) / (curve.members + 2)
    return float(np.hypot(np.sqrt(likely * (1 - likely) / curve.members), (high - low) / 2))


def _placements(member: Mask, score: Array) -> tuple[Array, Array]:
    """Return the share of non-members that each member outranks, and of members above each non-member.

    Ties count half.
    """
    members, others = score[member], score[~member]
    everyone = stats.rankdata(np.r_[members, others])
    above = (everyone[: len(members)] - stats.rankdata(members)) / len(others)
    below = 1 - (everyone[len(members) :] - stats.rankdata(others)) / len(members)
    return above, below
