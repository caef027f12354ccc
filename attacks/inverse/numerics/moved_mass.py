"""Answers in which a known amount of mass was moved from one class to others, to mislead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array

Mask = NDArray[np.bool_]

WIDTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Widths of the intervals above an edge."""
ROUNDING = 1e-9
"""How far the mass of a class may fall short of what moved, by rounding."""


def given_back(answers: Array, moved: float) -> Array:
    """Return rows (n, classes): up to ``moved`` goes from an answer's largest other classes to its label.

    The classes that received were the least likely ones. So each gives back all but the least entry of the
    answer; where ``moved`` is more than all others hold, it gives back everything.
    """
    number, top = np.arange(len(answers)), answers.argmax(axis=1)
    others = answers.copy()
    others[number, top] = -np.inf
    order = np.argsort(-others, axis=1, kind="stable")[:, :-1]
    held = np.maximum(np.take_along_axis(answers, order, axis=1), 0)
    larger = np.cumsum(held, axis=1) - held
    every = (larger < moved - ROUNDING).all(axis=1, keepdims=True)
    free = held - np.where(every, 0, held[:, -1:])
    given = np.clip(moved - (np.cumsum(free, axis=1) - free), 0, free)
    rows = answers.copy()
    np.put_along_axis(rows, order, np.take_along_axis(answers, order, axis=1) - given, axis=1)
    rows[number, top] += given.sum(axis=1)
    return rows


class Readings:
    """The best of the rows that may be behind each answer, which are offered one after another.

    Where several are as good, it is their mean: to take the first of them would teach that their classes go
    by number. A mean with each class alike says nothing.
    """

    def __init__(self, answers: Array) -> None:
        """``answers``: (n, classes), the rows where nothing is possible."""
        self._rows, self._ties = answers.copy(), np.zeros(len(answers), dtype=np.int64)
        self._cost = np.full(len(answers), np.inf)

    @property
    def possible(self) -> Mask:
        """Return (n,) where any row was."""
        return np.asarray(self._ties > 0)

    def offer(self, rows: Array, cost: NDArray[np.float64], possible: Mask) -> Mask:
        """Keep ``rows`` (n, classes) that are ``possible`` (n,) and cost less (n,); return (n,) which."""
        better, tied = possible & (cost < self._cost), possible & (cost == self._cost)
        self._rows[better], self._cost[better], self._ties[better] = rows[better], cost[better], 1
        self._rows[tied] += rows[tied]
        self._ties += tied
        return np.asarray(better)

    def best(self) -> tuple[Array, Mask]:
        """Return rows (n, classes), and (n,) which are possible; NaN, and not, where they say nothing."""
        rows = self._rows / np.maximum(self._ties, 1)[:, None]
        nothing = (self._ties > 1) & (np.ptp(rows, axis=1) <= ROUNDING)
        rows[nothing] = np.nan
        return rows, self.possible & ~nothing


def without_drawn(answers: Array, share: float, estimate: Array | None) -> tuple[Array, Mask]:
    """Return rows y (n, classes) with ``answers = (1 - share) y + share e_k``, k not the top-1 of y.

    Also (n,), True where there is such a row, elsewhere the row is the answer. Of several, the nearest to
    ``estimate`` (n, classes) in L1 is returned, or else the one with the largest entry (:class:`Readings`).
    ``share``: in [0, 1).
    """
    classes, readings = answers.shape[1], Readings(answers)
    for drawn in range(classes):
        clean = (answers - share * np.eye(classes)[drawn]) / (1 - share)
        possible = (clean[:, drawn] >= -ROUNDING / (1 - share)) & (clean.argmax(axis=1) != drawn)
        clean = np.maximum(clean, 0)
        readings.offer(clean, _cost(clean, estimate), possible)
    return readings.best()


def _cost(rows: Array, estimate: Array | None) -> NDArray[np.float64]:
    return np.asarray(-rows.max(axis=1) if estimate is None else np.abs(rows - estimate).sum(axis=1))


def swapped(labels: Array, eps: float) -> Array | None:
    """Return the other label of two, (n, 2) one-hot rows, if the wrong one got at least half of the mass.

    ``eps``: bound in L1. With exactly half, an answer of which the victim is certain becomes a tie, and shows
    the first class. None where labels are not swapped.
    """
    return 1 - labels if labels.shape[1] == 2 and eps >= 1 else None


def lower_edge(values: Array) -> float:
    """Return the value, of ``values`` (n,), above which most of the others lie closely; 0 if there is none.

    Closely: within each of :data:`WIDTHS`, all of which count the same.
    """
    ordered = np.sort(values)
    if not len(ordered):
        return 0.0
    counts = sum(np.searchsorted(ordered, ordered + width, side="right") for width in WIDTHS)
    inside = counts - len(WIDTHS) * np.arange(len(ordered))
    return float(np.clip(ordered[inside.argmax()], 0, 1))


def without_receiver(answers: Array, moved: float, estimate: Array | None) -> tuple[Array, Mask]:
    """Return rows (n, classes) from which ``moved`` went to one class, mostly from the largest of the others.

    Every class that holds as much may have received. Of these readings, the one nearest to ``estimate`` in L1
    is returned, or else the one with the largest entry (:class:`Readings`). Where one class holds everything,
    it received what the others had, however little; the answer is returned. Also (n,), True where there is a
    reading; elsewhere the row is the answer.
    """
    classes, number = answers.shape[1], np.arange(len(answers))
    full = answers.max(axis=1) >= answers.sum(axis=1) - ROUNDING
    readings = Readings(answers)
    readings.offer(answers, np.zeros(len(answers)), full)
    for receiver in range(classes):
        others = answers.copy()
        others[:, receiver] = -np.inf
        clean = answers.copy()
        clean[:, receiver] -= moved
        clean[number, others.argmax(axis=1)] += moved
        possible = (answers[:, receiver] >= moved - ROUNDING) & ~full
        clean = np.maximum(clean, 0)
        readings.offer(clean, _cost(clean, estimate), possible)
    return readings.best()
