"""ModelGuard-S: answers quantised to a codebook, within an L1 distance and with the top-1 class kept.

Tang et al. 2024, "ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks" (USENIX
Security), the variant that limits what any attacker can learn from an answer. The authors build the codebook
while they answer, from all clients' queries; here it is built on the calibration split and then fixed, so
that an answer does not depend on other clients' queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError

from defenses import predicates
from defenses.base import Answers, Array, Batch, Calibration, Claims, Defense, Predicate, StrengthRange

CHUNK = 64
"""Rows whose distances to all centroids are held at once."""


class ModelguardS(Defense):
    """Answers the first centroid of the answer's top-1 class that is within ``eps`` in L1, in [0, 2].

    The codebook: the victim's answers to the calibration split pass in an order drawn from the seed; each of
    which no earlier centroid of its class is within ``eps`` becomes a centroid. Answers with several maxima
    become none. A class without a centroid has its one-hot vector as the only one.

    An answer that no centroid covers moves by ``eps`` towards the nearest one of its class. (The authors'
    method would answer it as it is, and add it to the codebook.)

    Fitted: ``centroids_``, one array (m, classes) a class, in order. ``uncovered_``: of the answers in the
    second half of the pass, the share that became centroids, an estimate of the share of new answers that
    none covers.
    """

    name = "modelguard_s"
    paper = "Tang et al. 2024 (USENIX Security), ModelGuard-S"
    known_by = ("recover", "restore", "labels", "auto")
    strength = StrengthRange("eps", 0.0, 2.0)
    remembers = True
    """Its entries are answers of the calibration split, which it does not change."""

    centroids_: list[Array]
    uncovered_: float

    def __init__(self, *, eps: Annotated[float, Field(ge=0, le=2)] = 1.0) -> None:
        self.eps = eps

    @property
    def claims(self) -> Claims:
        """Centroids of a class have its label, and so has every answer between an answer and one of them."""
        return Claims()

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The bound; an answer is a centroid, or as far from the one before as the bound allows."""
        if not hasattr(self, "centroids_"):
            return ()
        centroids = {row.tobytes() for rows in self.centroids_ for row in rows}

        def violation(before: Array, given: Answers) -> Array:
            short = np.abs(np.abs(given.probabilities - before).sum(axis=1) - self.eps)
            known = [row.tobytes() in centroids for row in np.ascontiguousarray(given.probabilities)]
            return np.where(known, 0, short)

        name = "an entry of the codebook, or an L1 change of {eps}"
        moved = Predicate(name, violation, predicates.ROUNDING, {"eps": f"{self.eps:g}"})
        return (predicates.within_l1(self.eps), moved)

    def fit(self, calibration: Calibration) -> None:
        """Build the codebook."""
        rows = calibration.probabilities.astype(np.float64)
        order = np.random.default_rng(calibration.seed).permutation(len(rows))
        rows = rows[order]
        alone = np.count_nonzero(rows == rows.max(axis=1, keepdims=True), axis=1) == 1
        labels, opened = rows.argmax(axis=1), np.zeros(len(rows), dtype=bool)
        self.centroids_ = []
        for label in range(rows.shape[1]):
            members = np.flatnonzero((labels == label) & alone)
            first = members[_first_uncovered(rows[members], self.eps)]
            opened[first] = True
            self.centroids_.append(rows[first] if len(first) else np.eye(rows.shape[1])[[label]])
        self.uncovered_ = float(opened[len(rows) // 2 :].mean()) if len(rows) else 1.0

    def answer(self, batch: Batch) -> Answers:
        """Return the quantised answers; raises NotFittedError before ``fit``."""
        if not hasattr(self, "centroids_"):
            raise NotFittedError("call fit with a calibration split before modelguard_s answers a query")
        rows = batch.probabilities.copy()
        finite = np.asarray(np.isfinite(rows).all(axis=1))
        labels = np.nan_to_num(rows).argmax(axis=1)
        for label, centroids in enumerate(self.centroids_):
            members = np.flatnonzero(finite & (labels == label))
            for start in range(0, len(members), CHUNK):
                some = members[start : start + CHUNK]
                rows[some] = _quantised(rows[some], centroids, self.eps, label)
        return Answers.of(rows)


def _first_uncovered(rows: Array, eps: float) -> NDArray[np.intp]:
    """Return which rows (n, classes), in order, are further than ``eps`` from all that were chosen before."""
    chosen: list[int] = []
    left = np.arange(len(rows))
    while len(left):
        chosen.append(int(left[0]))
        left = left[_distances(rows[left], rows[left[:1]])[:, 0] > eps]
    return np.array(chosen, dtype=np.intp)


def _quantised(rows: Array, centroids: Array, eps: float, label: int) -> Array:
    distances = _distances(rows, centroids)
    nearest = distances.argmin(axis=1)
    covered = distances <= eps
    answers: Array = centroids[np.where(covered.any(axis=1), covered.argmax(axis=1), nearest)]
    outside = np.flatnonzero(~covered.any(axis=1))
    if len(outside):
        share = eps / distances[outside, nearest[outside]]
        clean = rows[outside]
        moved = clean + share[:, None] * (centroids[nearest[outside]] - clean)
        # Rounding can make the next entry as large as the label's.
        others = np.delete(moved, label, axis=1).max(axis=1, initial=-np.inf)
        short = (moved[:, label] <= others) & (eps > 0)
        moved[short, label] = np.nextafter(others[short], 2)
        answers[outside] = moved
    return answers


def _distances(rows: Array, others: Array) -> Array:
    """Return the L1 distances (n, m) of rows (n, classes) from others (m, classes)."""
    distances: Array = np.abs(rows[:, None, :] - others[None, :, :]).sum(axis=2)
    return distances
