"""The inverse of the defense ``mad_argmax``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import intervals

EPS = 1.0
"""The bound that is assumed where it is not known."""
LEAD = 1e-5
"""What the label gets more than the others of its set, before the target is divided by its sum."""
SLACK = 1e-9
"""How far below zero a recovered entry may be."""
COARSE = 0.01
"""The same where the bound was fitted, or a defense behind this one has rounded or drawn answers."""
CONFIDENT = 5.0
"""Percentile of rows that are taken for those of which the victim is sure."""


class MadArgmaxInverse(Inverse):
    """Takes the smoothing off: finds the set of classes that got mass, and how much each of them got.

    For a set S the answer determines the row: y = (y' - a u) / (1 - a), with u uniform over S and
    a = ε / (ε + ||y' - u||). The set is unknown, since the defender's network is, but its classes have the
    largest entries if the victim is confident. Of the sets that consist of the largest entries, and leave no
    entry below zero, the largest is taken. Where an answer is its target there is nothing but the label left.
    """

    exact = False

    @property
    def eps(self) -> float:
        """The bound of the defense, in L1."""
        return float(self.parameters.get("eps", EPS))

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the bound: twice what the most confident answers lack of 1."""
        if not len(answers):
            return {"eps": EPS}
        return {"eps": float(np.clip(np.percentile(2 * (1 - answers.max(axis=1)), CONFIDENT), 0, 2))}

    def forward(self, rows: Array) -> Array:
        """Return the rows (n, classes) with the smoothing over all classes, as a random network has it."""
        even = np.full_like(rows, 1 / rows.shape[1])
        share = np.minimum(1, self.eps / np.maximum(np.abs(rows - even).sum(axis=1, keepdims=True), SLACK))
        return np.asarray((1 - share) * rows + share * even)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the rows of the largest sets that are possible; the label where nothing else is left."""
        single, least = np.arange(len(answers)), -SLACK if position.exact and not self.fitted else -COARSE
        order = np.argsort(-answers, axis=1, kind="stable")
        rows, explained = intervals.one_hot(answers), np.zeros(len(answers), dtype=bool)
        inside, reached = np.zeros_like(answers), np.zeros(len(answers), dtype=bool)
        for size in range(1, answers.shape[1] + 1):
            inside[single, order[:, size - 1]] = 1
            target = inside / size
            target[single, order[:, 0]] += LEAD
            target /= 1 + LEAD
            distance = np.abs(answers - target).sum(axis=1, keepdims=True)
            share = self.eps / np.maximum(self.eps + distance, SLACK)
            found = (answers - share * target) / np.maximum(1 - share, SLACK)
            good = found.min(axis=1) >= least
            rows[good], explained[good] = intervals.normalised(found[good].clip(0)), True
            reached |= distance[:, 0] <= SLACK
        rows[reached], explained[reached] = intervals.one_hot(answers)[reached], False
        return rows, explained
