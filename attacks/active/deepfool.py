"""DeepFool (Moosavi-Dezfooli, Fawzi, Frossard 2016, arXiv 1511.04599): the distance to another class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array, DifferentiablePredictor, Images

CANDIDATES = 10
"""Classes that an input may be moved to: the likeliest at the start, its own among them."""
OVERSHOOT = 0.02
STEPS = 50
BLOCK = 256
"""Rows whose gradients are in memory at once."""


def distances(surrogate: DifferentiablePredictor, x: Images) -> Array:
    """Return (n,) Euclidean distances of inputs (n, …) to where DeepFool changes the surrogate's label.

    In the units of the network (:meth:`attacks.base.DifferentiablePredictor.encoded`). From an input of class
    c, each step goes to the class k whose border is nearest in a linear approximation, |f_k - f_c| / ||w_k||
    with w_k the gradient of f_k - f_c, by (|f_k - f_c| / ||w_k||²) w_k; f are logits (algorithm 2). The sum
    of steps is extended by the overshoot, and the search ends when another class has a logit as high.
    Infinite where :data:`STEPS` steps do not change the label, or no logit has a gradient.
    """
    start = surrogate.encoded(x)
    found = np.full(len(x), np.inf)
    none = np.zeros((len(x), 0), np.intp)
    ranked = np.argsort(-surrogate.linearised(start, none)[0], axis=1, kind="stable")[:, :CANDIDATES]
    moved = np.zeros((len(x), start[:1].size), np.float32)
    rows = np.arange(len(x))
    for _ in range(STEPS + 1):
        if not len(rows):
            break
        going = np.zeros(len(rows), bool)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            at = start[block] + np.float32(1 + OVERSHOOT) * moved[block].reshape(-1, *start.shape[1:])
            logits, gradients = surrogate.linearised(at, ranked[block])
            left = _has_left(logits, ranked[block, 0])
            found[block[left]] = (1 + OVERSHOOT) * np.sqrt(
                np.square(moved[block[left]].astype(np.float64)).sum(axis=1)
            )
            step, possible = _step(logits, gradients, ranked[block])
            possible &= ~left
            moved[block[possible]] += step[possible].astype(np.float32)
            going[first : first + BLOCK] = possible
        rows = rows[going]
    return found


def _has_left(logits: Array, own: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which rows of logits (n, classes) are as high for another class as for their ``own`` (n,)."""
    others = logits.copy()
    row = np.arange(len(own))
    others[row, own] = -np.inf
    return np.asarray(others.max(axis=1) >= logits[row, own])


def _step(logits: Array, gradients: Images, classes: NDArray[np.intp]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the steps (n, inputs) to the nearest linear borders, and where there is one, (n,).

    ``gradients``: (n, k, …) of the logits of ``classes`` (n, k), of which the first is each row's own.
    """
    slopes = gradients.reshape(*classes.shape, -1).astype(np.float64)
    slopes = slopes[:, 1:] - slopes[:, :1]
    heights = np.take_along_axis(logits, classes, axis=1)
    heights = np.abs(heights[:, 1:] - heights[:, :1])
    norms = np.sqrt(np.square(slopes).sum(axis=2))
    apart = np.divide(heights, norms, out=np.full(norms.shape, np.inf), where=norms > 0)
    row, nearest = np.arange(len(apart)), apart.argmin(axis=1)
    possible = np.isfinite(apart[row, nearest])
    scale = np.where(possible, apart[row, nearest] / np.where(possible, norms[row, nearest], 1), 0)
    return scale[:, None] * slopes[row, nearest], possible
