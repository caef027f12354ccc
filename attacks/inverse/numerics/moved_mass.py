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


def without_drawn(answers: Array, share: float, estimate: Array | None) -> tuple[Array, Mask]:
    """Return rows y (n, classes) with ``answers = (1 - share) y + share e_k``, k not the top-1 of y.

    Also (n,), True where there is such a row, elsewhere the row is the answer. Of several, the nearest to
    ``estimate`` (n, classes) in L1 is returned, or else the one with the largest entry. ``share``: in [0, 1).
    """
    classes = answers.shape[1]
    rows, best = answers.copy(), np.full(len(answers), np.inf)
    for drawn in range(classes):
        clean = (answers - share * np.eye(classes)[drawn]) / (1 - share)
        possible = (clean[:, drawn] >= -ROUNDING / (1 - share)) & (clean.argmax(axis=1) != drawn)
        clean = np.maximum(clean, 0)
        cost = -clean.max(axis=1) if estimate is None else np.abs(clean - estimate).sum(axis=1)
        better = possible & (cost < best)
        rows[better], best[better] = clean[better], cost[better]
    return rows, best < np.inf


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
    is returned, or else the one with the largest entry. Where one class holds everything, it received what
    the others had, however little; the answer is returned. Also (n,), True where there is a reading;
    elsewhere the row is the answer.
    """
    classes, number = answers.shape[1], np.arange(len(answers))
    full = answers.max(axis=1) >= answers.sum(axis=1) - ROUNDING
    rows, best = answers.copy(), np.where(full, -np.inf, np.inf)
    for receiver in range(classes):
        others = answers.copy()
        others[:, receiver] = -np.inf
        clean = answers.copy()
        clean[:, receiver] -= moved
        clean[number, others.argmax(axis=1)] += moved
        possible = answers[:, receiver] >= moved - ROUNDING
        clean = np.maximum(clean, 0)
        cost = -clean.max(axis=1) if estimate is None else np.abs(clean - estimate).sum(axis=1)
        better = possible & (cost < best)
        rows[better], best[better] = clean[better], cost[better]
    return rows, best < np.inf
