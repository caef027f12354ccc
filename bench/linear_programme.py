"""The cheapest answer within an L1 distance of the clean one, for a linear cost; the top-1 class may be kept.

One linear programme a row. ModelGuard-W (Tang et al. 2024, USENIX Security) and GRAD² (Mazeika, Li, Forsyth
2022, ICML) differ in the costs alone. Attackers who know such a defense simulate it, hence in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_Cost = Callable[[Array], Array]

MARGIN = 1e-4
"""Least lead of the top-1 class over every other one, where it is kept."""
SLACK = 1e-13
"""How far from its limits the solver stays, so that both constraints hold after rounding, too."""
STEPS = 52
"""Steps of golden section search; they shorten the interval by a factor of 1e-11."""
GOLDEN = (5**0.5 - 1) / 2
BLOCK = 1024
"""Rows solved at once: with more, the arrays do not fit into a processor's cache, which doubles the time."""


def cheapest(rows: Array, costs: Array, eps: float, *, keep_label: bool, margin: float = MARGIN) -> Array:
    """Return (n, classes), the rows ``r`` of least ``costs · r`` that are within ``eps`` of ``rows`` in L1.

    ``rows``: (n, classes) float64, non-negative; ``costs``: (n, classes), of any unit and sign. Mass moves
    between the classes of a row: no entry falls below 0 or rises above 1, and the sum stays. ``keep_label``:
    the first maximum leads every other class by ``margin``, so that ties of the clean row are resolved for
    it, too. Where ``eps`` cannot buy that lead (below twice the margin, and the clean lead is smaller than
    it), the row is returned unchanged.

    Of classes with equal costs the one of lowest index receives first and pays last; nothing moves between
    them, and nothing moves where it gains less than 1e-12. Rows with entries that are not finite are returned
    unchanged. A negative or too large entry, from noise, is never made more so. A row's result does not
    depend on the other rows.
    """
    clean = np.asarray(rows, dtype=np.float64)
    answers = clean.copy()
    budget = eps / 2 - SLACK
    usable = np.flatnonzero(np.isfinite(clean).all(axis=1) & np.isfinite(costs).all(axis=1))
    if budget <= 0 or clean.shape[1] < 2 or not len(usable):
        return answers
    for start in range(0, len(usable), BLOCK):
        block = usable[start : start + BLOCK]
        given, price = clean[block], np.asarray(costs[block], dtype=np.float64)
        if keep_label:
            answers[block] = _with_label(given, price, budget, margin + SLACK)
        else:
            answers[block] = _without_label(given, price, budget)
    return answers


def _without_label(rows: Array, costs: Array, budget: float) -> Array:
    """Return the cheapest rows (n, classes): mass of the dearest classes moves to the cheapest one."""
    order = np.argsort(costs, axis=1, kind="stable")
    moves = _Moves.of(rows, costs, order)
    cap, nothing = np.maximum(moves.clean, 1), np.zeros(len(rows))
    answers = np.empty_like(rows)
    best = moves.best(cap, nothing, np.full(len(rows), budget), ties=True)
    np.put_along_axis(answers, order, best.T, axis=1)
    return answers


def _with_label(rows: Array, costs: Array, budget: float, margin: float) -> Array:
    """Return the cheapest rows (n, classes) whose first maximum is that of ``rows``.

    Given the level of the top class, the others are capped by it and the rest is greedy (:class:`_Moves`).
    The cost is convex in the level, as the optimum of a linear programme is in a bound of it.
    """
    number = np.arange(len(rows))
    top = rows.argmax(axis=1)
    sortable = costs.copy()
    sortable[number, top] = np.inf
    order = np.argsort(sortable, axis=1, kind="stable")[:, :-1]
    moves, at, price = _Moves.of(rows, costs, order), rows[number, top], costs[number, top]
    low, high = _levels(rows, top, budget, margin)
    feasible = low <= high
    low = np.where(feasible, low, at)
    high = np.where(feasible, high, at)

    def cost(level: Array) -> Array:
        best = moves.best(level - margin, level - at, budget - np.maximum(level - at, 0))
        total: Array = price * level + _sum(moves.costs * best)
        return total

    level = _minimum(cost, low, high, np.clip(at, low, high))
    others = moves.best(level - margin, level - at, budget - np.maximum(level - at, 0), ties=True)
    answers = np.empty_like(rows)
    answers[number, top] = level
    np.put_along_axis(answers, order, others.T, axis=1)
    return np.where(feasible[:, None], answers, rows)


def _levels(rows: Array, top: NDArray[np.intp], budget: float, margin: float) -> tuple[Array, Array]:
    """Return the least and the largest level (n,) that the top class can have; the first is larger if none.

    At a level, whatever is above it, or above it minus the margin, has to move: no more than ``budget``.
    """
    number, classes = np.arange(len(rows)), rows.shape[1]
    at = rows[number, top]
    needs = rows + margin
    needs[number, top] = at
    sums = np.add.accumulate(-np.sort(-needs, axis=1), axis=1)
    affordable = ((sums - budget) / np.arange(1, classes + 1)).max(axis=1)
    # Under their caps the others must have room for what the top class leaves them.
    total = np.add.accumulate(rows, axis=1)[:, -1]
    room = (total + (classes - 1) * margin) / classes
    others = np.maximum(rows, 0)
    others[number, top] = 0
    payable = np.add.accumulate(others, axis=1)[:, -1]
    high = np.minimum(at + np.minimum(budget, payable), np.maximum(at, 1))
    return np.maximum(np.maximum(affordable, room), margin), high


def _minimum(cost: _Cost, low: Array, high: Array, start: Array) -> Array:
    """Return the arguments (n,) within the bounds that minimise convex functions; ``start`` where all are."""
    ends = low, high
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(STEPS):
        down = at_left <= at_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        step = GOLDEN * (high - low)
        point = np.where(down, high - step, low + step)
        value = cost(point)
        left, right = np.where(down, point, right), np.where(down, left, point)
        at_left, at_right = np.where(down, value, at_right), np.where(down, at_left, value)
    best, least = start, cost(start) - 1e-12
    for point in (*ends, np.clip((low + high) / 2, *ends)):
        value = cost(point)
        best, least = np.where(value < least, point, best), np.minimum(value, least)
    return best


@dataclass(frozen=True)
class _Moves:
    """Classes in ascending order of their costs, one a row of these arrays (classes, n).

    With one class a row, sums over classes are sums of long rows, which NumPy does much faster. They are made
    by ``accumulate``, whose order of summation does not depend on the number of columns.
    """

    clean: Array
    costs: Array

    @classmethod
    def of(cls, rows: Array, costs: Array, order: NDArray[np.intp]) -> _Moves:
        """Return the classes ``order`` (n, m) of each row."""
        clean, sorted_costs = (np.take_along_axis(values, order, axis=1).T for values in (rows, costs))
        return cls(np.ascontiguousarray(clean), np.ascontiguousarray(sorted_costs))

    def best(self, cap: Array, outflow: Array, budget: Array, *, ties: bool = False) -> Array:
        """Return the cheapest values (classes, n) of at most ``cap`` whose sum is less by ``outflow`` (n,).

        Entries rise by no more than ``budget`` (n,) together. What exceeds the cap has to fall; what remains
        moves from the dearest to the cheapest class with room, while that is a gain. ``ties``: moves between
        classes of equal costs are no gain; without it they may be made, at no cost.
        """
        kept = np.minimum(self.clean, cap)
        room, payable = cap - kept, np.maximum(kept, 0)
        excess = _sum(self.clean - kept)
        filled = np.add.accumulate(room, axis=0)
        drained = np.add.accumulate(payable[::-1], axis=0)[::-1]
        before, after = filled - room, drained - payable  # what cheaper classes take; what dearer ones give
        short = excess - outflow  # what has to rise at least
        if ties:
            first, last = self._equal()
            crossing = np.maximum(
                np.take_along_axis(before, first, axis=0), np.take_along_axis(after, last, axis=0) + short
            )
        else:
            crossing = np.maximum(before, after + short)
        risen = np.maximum(crossing.min(axis=0), np.maximum(short, 0))
        risen = np.minimum(risen, np.minimum(budget, np.minimum(filled[-1], drained[0] + short)))
        received = np.minimum(np.maximum(risen - before, 0), room)
        paid = np.minimum(np.maximum(risen - short - after, 0), payable)
        best: Array = kept + received - paid
        return best

    def _equal(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the first and the last class (classes, n) of the same cost as each."""
        number = np.broadcast_to(np.arange(len(self.costs))[:, None], self.costs.shape)
        new = np.ones(self.costs.shape, dtype=bool)
        new[1:] = self.costs[1:] != self.costs[:-1]
        end = np.ones(self.costs.shape, dtype=bool)
        end[:-1] = new[1:]
        first = np.maximum.accumulate(np.where(new, number, 0), axis=0)
        last = np.minimum.accumulate(np.where(end, number, len(number))[::-1], axis=0)[::-1]
        return first, last


def _sum(values: Array) -> Array:
    total: Array = np.add.accumulate(values, axis=0)[-1]
    return total
