"""The cheapest answer within an L1 distance of the clean one, for a linear cost; the top-1 class may be kept.

One linear programme a row. ModelGuard-W (Tang et al. 2024, USENIX Security) and GRAD² (Mazeika, Li, Forsyth
2022, ICML) differ in the costs alone. Attackers who know such a defense simulate it, hence in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MARGIN = 1e-4
"""Least lead of the top-1 class over every other one, where it is kept."""
SLACK = 1e-13
"""How far from its limits the solver stays, so that both constraints hold after rounding, too."""
LEAST_GAIN = 1e-12
"""What a change of the label's level has to gain, in units of the largest difference of a row's costs."""
EXACT = 1e-12
"""Rounding error of a cost, in the same units."""
APART = 0.01
"""How far from the inner points two lines have to meet, in units of their distance, to be known there."""
STEPS = 26
"""Most pairs of steps of golden section search; they shorten the interval by a factor of 1e-11."""
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
    them. Rows with entries that are not finite are returned unchanged. A negative or too large entry, from
    noise, is never made more so. A row's result does not depend on the other rows.
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
    at = rows[number, top]
    # The sum is fixed, so that differences of costs count alone; their unit must not decide what is exact.
    prices = costs - costs[number, top][:, None]
    unit = np.abs(prices).max(axis=1, keepdims=True)
    levels = _Levels(_Moves.of(rows, prices / np.where(unit > 0, unit, 1), order), at, budget, margin)
    low, high = _ends(rows, top, budget, margin)
    feasible = low <= high
    low = np.where(feasible, low, at)
    high = np.where(feasible, high, at)

    level = _minimum(levels, low, high)
    # Where nothing is gained, the row stays as it is.
    start = np.clip(at, low, high)
    level = np.where(levels.cost(start) - levels.cost(level) < LEAST_GAIN, start, level)
    others = levels.others(level, ties=True)
    answers = np.empty_like(rows)
    answers[number, top] = level
    np.put_along_axis(answers, order, others.T, axis=1)
    return np.where(feasible[:, None], answers, rows)


def _ends(rows: Array, top: NDArray[np.intp], budget: float, margin: float) -> tuple[Array, Array]:
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


def _minimum(levels: _Levels, low: Array, high: Array) -> Array:
    """Return the levels (n,) between ``low`` and ``high`` of least cost.

    The cost is convex and consists of straight lines. Golden section search shortens the interval until what
    is left is two lines: the cost at their intersection is then what the lines say there, and the minimum is
    at it or at an end.
    """
    found = low.copy()
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    points = np.array([low, left, right, high])
    values = np.array([levels.cost(point) for point in points])
    active = np.arange(len(low))
    for _ in range(STEPS):
        found[active], certain = _of_two_lines(levels, points, values)
        unsure = np.flatnonzero(~certain)
        if not len(unsure):
            break
        if len(unsure) < len(active):
            active, levels = active[unsure], levels.part(unsure)
            points, values = points[:, unsure], values[:, unsure]
        for _ in range(2):
            points, values = _shortened(levels, points, values)
    return found


def _of_two_lines(levels: _Levels, points: Array, values: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the minimum (n,) if the cost is two lines, and whether it is (n,), between ``points`` (4, n).

    One line is through the first two points, the other through the last two. A convex function of which three
    points are on a line is that line between them, and so are both where they meet.
    """
    first, second = (
        (values[end] - values[end - 1])
        / np.where(points[end] > points[end - 1], points[end] - points[end - 1], 1)
        for end in (1, 3)
    )
    inner = points[2] - points[1]
    bend, ahead = second - first, values[1] - values[2] + second * inner
    meet = points[1] + np.clip(np.where(bend > 0, ahead, 0) / np.where(bend > 0, bend, 1), 0, inner)
    value = levels.cost(meet)
    line = values[1] + first * (meet - points[1])
    apart = np.minimum(meet - points[1], points[2] - meet) > APART * inner
    straight = (np.abs(values[1] + first * (points[2:] - points[1]) - values[2:]) <= EXACT).all(axis=0)
    found = np.where(first >= 0, points[0], np.where(second <= 0, points[3], meet))
    return found, straight | (apart & (value <= line + EXACT))


def _shortened(levels: _Levels, points: Array, values: Array) -> tuple[Array, Array]:
    """Return the four points (4, n) of golden section search, and their costs, one step on."""
    down = values[1] <= values[2]
    low, high = np.where(down, points[0], points[1]), np.where(down, points[2], points[3])
    step = GOLDEN * (high - low)
    point = np.where(down, high - step, low + step)
    value = levels.cost(point)
    kept = np.where(down, points[1], points[2]), np.where(down, values[1], values[2])
    ends = np.where(down, values[0], values[1]), np.where(down, values[2], values[3])
    return (
        np.array([low, np.where(down, point, kept[0]), np.where(down, kept[0], point), high]),
        np.array([ends[0], np.where(down, value, kept[1]), np.where(down, kept[1], value), ends[1]]),
    )


@dataclass(frozen=True)
class _Levels:
    """What levels of the top class cost in n rows, if its own mass costs nothing. ``at`` (n,): clean ones."""

    moves: _Moves
    at: Array
    budget: float
    margin: float

    def others(self, level: Array, *, ties: bool = False) -> Array:
        """Return the other classes (classes - 1, n) of the cheapest rows with the top class at ``level``."""
        rise = level - self.at
        return self.moves.best(level - self.margin, rise, self.budget - np.maximum(rise, 0), ties=ties)

    def cost(self, level: Array) -> Array:
        """Return the cost (n,) of that row."""
        return _sum(self.moves.costs * self.others(level))

    def part(self, rows: NDArray[np.intp]) -> _Levels:
        """Return the same for some of the rows."""
        moves = _Moves(self.moves.clean[:, rows], self.moves.costs[:, rows])
        return _Levels(moves, self.at[rows], self.budget, self.margin)


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
