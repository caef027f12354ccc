"""The attacker's prior of clean answers: Dirichlet distributions around estimates of their own.

D-DAE+ of Tang et al. 2024, "ModelGuard" (USENIX Security). Its published code centres the prior on the
victim's true answers, which no attacker has. Here it is centred on what surrogates predict that learnt labels
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array

Width = tuple[float, float]
"""Concentration and power of a prior.

The concentration is the sum of a Dirichlet's parameters in units of the number of classes. Estimates are
taken to the power and divided by their sums: victims are more confident than surrogates of few labels.
"""
WIDTHS: tuple[Width, ...] = tuple((times, power) for power in (1.0, 3.0, 10.0) for times in (8.0, 2.0, 0.5))
SHAPES: tuple[Width, ...] = tuple((1.0, power) for power in (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6))
"""Widths of :func:`draw_any_class`: the deviation of noise, in nats, and a power."""
FLOOR = 0.005
"""Added to each parameter: around a confident estimate, most entries would otherwise be below 1e-12."""
LEAST = 1e-9
"""Smallest entry of a clean row, before it is divided by its sum."""
UNKNOWN = -1
"""The label of a row whose top-1 is not known."""

Labels = NDArray[np.int64]


def draw(estimates: Array, labels: Labels, seed: int, width: Width) -> Array:
    """Return one clean row (n, classes) for each estimate, drawn from the prior around it.

    ``estimates``: (n, classes) distributions. ``labels``: (n,) the known top-1 of the clean rows, else
    :data:`UNKNOWN`.
    """
    concentration, power = width
    estimates = estimates**power / (estimates**power).sum(axis=1, keepdims=True)
    parameters = concentration * estimates.shape[1] * estimates + FLOOR
    weights = np.random.default_rng(seed).standard_gamma(parameters)
    total = weights.sum(axis=1, keepdims=True)
    # Where parameters are tiny, all of a row's weights may be zero.
    rows = _floored(np.where(total > 0, weights / np.where(total > 0, total, 1), estimates))
    return with_top(rows / rows.sum(axis=1, keepdims=True), labels)


def draw_any_class(estimates: Array, labels: Labels, seed: int, width: Width) -> Array:
    """Return one clean row (n, classes) for each estimate, of its shape and of any class.

    Estimates are taken to the power of ``width``, their logarithms get normal noise with its deviation, and
    entries change places at random. Unlike Dirichlet draws, these have small entries like a network's.
    ``labels``: as in :func:`draw`.
    """
    deviation, power = width
    rng = np.random.default_rng(seed)
    logs = power * np.log(np.maximum(estimates, LEAST)) + deviation * rng.normal(size=estimates.shape)
    rows = np.exp(logs - logs.max(axis=1, keepdims=True))
    rows = _floored(rows / rows.sum(axis=1, keepdims=True))
    return with_top(rng.permuted(rows / rows.sum(axis=1, keepdims=True), axis=1), labels)


def _floored(rows: Array) -> Array:
    """Return rows (n, classes) with entries of at least :data:`LEAST`, of which no two are equal.

    Nor are those of a network: where a defense takes the largest away, two would share its place.
    """
    classes = rows.shape[1]
    return np.asarray(np.maximum(rows, LEAST * (2 - np.arange(classes) / classes)))


def with_top(rows: Array, labels: Labels) -> Array:
    """Return rows (n, classes) in which the largest entry has changed places with that of the known label."""
    known = np.flatnonzero(labels != UNKNOWN)
    top, label = rows[known].argmax(axis=1), labels[known]
    changed = rows.copy()
    changed[known, label], changed[known, top] = rows[known, top], rows[known, label]
    return changed


@dataclass(frozen=True)
class Prior:
    """A distribution of clean rows: ``draw``, its ``widths``, and how many of these are ``kept``.

    Those are kept under which simulated answers are most like the bought ones.
    """

    draw: Callable[[Array, Labels, int, Width], Array]
    widths: tuple[Width, ...]
    kept: int


AROUND_ESTIMATES = Prior(draw, WIDTHS, 4)
OF_ANY_CLASS = Prior(draw_any_class, SHAPES, 2)
