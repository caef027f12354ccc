"""The inverse of the defense ``mad``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array
from attacks.inverse.base import Estimator, Inverse, Mask, Parameters, StackPosition
from attacks.inverse.numerics import intervals
from attacks.inverse.numerics.moved_mass import Readings, swapped
from attacks.labels import has_single_maximum

EPS = 1.0
"""The bound that is assumed where it is not known."""
SLACK = 1e-9
"""How far below zero a recovered entry may be."""
COARSE = 0.01
"""The same where the bound was fitted, or a defense behind this one has rounded or drawn answers."""
NEARLY = 1e-5
"""An entry that is less below zero is so by the rounding of a fitted bound."""
CONFIDENT = 5.0
"""Percentile of rows that are taken for those of which the victim is sure."""
LEAST = 1e-6
"""Smallest probability of an estimate by which rows are compared."""


class MadInverse(Inverse):
    """Takes the mass back from the class that got it.

    If that is class k, the answer determines the row: y = (y' - a e_k) / (1 - a), with
    a = ε / (ε + ||y' - e_k||), where this leaves no entry below zero. Which class it was depends on the
    defender's network, which is unknown, except with ``proxy=identity``: it is the row's smallest entry then.
    Of several that are possible, the row of the highest likelihood under an estimate is taken; without one,
    that whose class has most mass after the largest. Of several that are as good, it is their mean.
    """

    uses_estimate, exact = True, False

    def __init__(self, parameters: Parameters | None = None, *, fitted: bool = False) -> None:
        super().__init__(parameters, fitted=fitted)
        self._moved: Array | None = None  # how often each class got mass, of those inverted last

    @property
    def eps(self) -> float:
        """The bound of the defense, in L1."""
        return float(self.parameters.get("eps", EPS))

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the bound: the class that gets mass gets at least half of it, little more if it had none.

        A random network prefers few classes: it is that of the two largest entries whose class varies less.
        """
        if not len(answers):
            return {"eps": EPS}
        order = np.argsort(-answers, axis=1, kind="stable")[:, :2]
        place = int(_entropy(order[:, 0]) >= _entropy(order[:, 1]))
        moved = np.take_along_axis(answers, order[:, place : place + 1], axis=1)
        return {"eps": float(np.clip(2 * np.percentile(moved, CONFIDENT), 0, 2))}

    def forward(self, rows: Array) -> Array:
        """Return the answers to rows (n, classes) if mass goes to the class that got it most often so far.

        That is among the answers inverted last, and is another than the row's own. Before any were inverted,
        all others get mass equally.
        """
        targets = (1 - intervals.one_hot(rows)) / (rows.shape[1] - 1)
        if self._moved is not None:
            targets = intervals.one_hot(np.where(targets > 0, self._moved, -1))
        distance = np.abs(rows - targets).sum(axis=1, keepdims=True)
        share = np.minimum(1, self.eps / np.maximum(distance, SLACK))
        return np.asarray((1 - share) * rows + share * targets)

    def relabelled(self, labels: Array) -> Array | None:
        """Return the other label where there are two and it got at least half of the mass.

        Of two classes, the gradient turns by 180 degrees if mass goes to the other one, as soon as the victim
        is surer than the defender's network.
        """
        return swapped(labels, self.eps)

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the likeliest of the rows that are possible; the label where there is none."""
        least = -SLACK if position.exact and not self.fitted else -COARSE
        labels, single = intervals.one_hot(answers), has_single_maximum(answers)
        readings, moved = Readings(labels), np.full(len(answers), -1)
        for label in range(answers.shape[1]):
            vertex = np.eye(answers.shape[1])[label]
            distance = np.abs(answers - vertex).sum(axis=1, keepdims=True)
            share = self.eps / np.maximum(self.eps + distance, SLACK)
            found = (answers - share * vertex) / np.maximum(1 - share, SLACK)
            lowest = found.min(axis=1)
            possible = (lowest >= least) & (distance[:, 0] > SLACK)
            if self.parameters.get("proxy") == "identity":
                possible &= found[:, label] <= lowest - least
            found = intervals.normalised(np.where(possible[:, None], found, 1).clip(0))
            if estimate is None:
                largest = single & (answers.argmax(axis=1) == label)
                score = answers[:, label] - 2 * largest + 4 * (lowest >= -NEARLY)
            else:
                score = (found * np.log(np.maximum(estimate, LEAST))).sum(axis=1)
            moved[readings.offer(found, -score, possible)] = label
        if answers.shape[1] == 2 and self.eps >= 1:
            # All mass went to the other class, so that the victim's had at most eps/2.
            whole = ~readings.possible & (answers == labels).all(axis=1)
            sure = (0.5 + self.eps / 2) / 2
            readings.offer(np.where(labels > 0, 1 - sure, sure), np.zeros(len(answers)), whole)
            moved[whole] = labels[whole].argmax(axis=1)
        rows, known = readings.best()
        self._moved = np.bincount(moved[known & (moved >= 0)], minlength=answers.shape[1]).astype(np.float64)
        return rows, known


def _entropy(classes: NDArray[np.int64]) -> float:
    """Return the entropy, in nats, of how often each class occurs."""
    share = np.bincount(classes) / len(classes)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
