"""Difference of two runs' fidelity with variances pooled over comparisons.

A contrast compares two agreement tables (repeats, inputs) on the same test inputs. Its variance has a
part from repeats and one from inputs. With few repeats, the first cannot be estimated well from one
comparison alone. It is therefore shrunk towards the variance that all comparisons of a run have in
common, the more the better they agree (Smyth 2004, "Linear Models and Empirical Bayes Methods for
Assessing Differential Expression", section 6.2): variances that agree are pooled, others keep their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from bench.metrics.intervals import Agreement, Floats, as_table

NEWTON = 50
"""Largest number of Newton steps for the inverse of the trigamma function; few are needed."""


@dataclass(frozen=True)
class Contrast:
    """The difference of two means and the parts of its variance.

    ``value``: mean of the first minus that of the second. ``spread``: variance of one repeat (of one
    pair, where paired) on ``freedom`` degrees of freedom; ``weight`` times it is the repeats' part of the
    variance of the difference. ``inputs``: the test inputs' part. ``repeats``: of the smaller side.
    """

    value: float
    spread: float
    freedom: int
    weight: float
    inputs: float
    repeats: int


@dataclass(frozen=True)
class Error:
    """The standard error of a contrast, on ``freedom`` degrees of freedom (may be infinite)."""

    size: float
    freedom: float


def contrast(first: Agreement, second: Agreement, *, paired: bool) -> Contrast:
    """Return the contrast of two tables (repeats, inputs); ``paired``: repeat r is the same in both.

    Raises ValueError where the test inputs, or for pairs the repeats, are not equally many.
    """
    a, b = as_table(first), as_table(second)
    if a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"Tables of {a.shape} and {b.shape} share no inputs.")
    sides = [a - b] if paired else [a, b]
    parts = [_parts(side) for side in sides]
    freedom = sum(len(side) - 1 for side in sides)
    squares = sum(spread * (len(side) - 1) for (spread, _), side in zip(parts, sides, strict=True))
    by_input = a.mean(axis=0) - b.mean(axis=0)
    inputs = a.shape[1]
    # The rest's part of an input's mean is included in the repeats' part.
    rest = sum(remainder / (len(side) * inputs) for (_, remainder), side in zip(parts, sides, strict=True))
    of_inputs = float(by_input.var(ddof=1)) / inputs - rest if inputs > 1 else 0.0
    return Contrast(
        float(by_input.mean()),
        squares / freedom if freedom else 0.0,
        freedom,
        sum(1 / len(side) for side in sides),
        # Where no input differs, assume one of them.
        max(of_inputs, 1 / inputs**2),
        min(len(a), len(b)),
    )


def _parts(table: Floats) -> tuple[float, float]:
    """Return the variance between repeats' means, and the residual mean square of rows and columns."""
    repeats, inputs = table.shape
    if repeats < 2:
        return 0.0, 0.0
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns + table.mean()
    return float(rows.var(ddof=1)), float(np.square(rest).sum()) / ((repeats - 1) * max(inputs - 1, 1))


@dataclass(frozen=True)
class Prior:
    """The variance that comparisons have in common, and its degrees of freedom (may be infinite)."""

    spread: float = 0.0
    freedom: float = 0.0

    def error(self, each: Contrast) -> Error:
        """Return the standard error of a contrast, its repeats' part shrunk towards that of all."""
        freedom = each.freedom + self.freedom
        if math.isinf(freedom):
            spread = self.spread
        elif freedom > 0:
            spread = (each.freedom * each.spread + self.freedom * self.spread) / freedom
        else:  # one repeat, and no other comparison
            return Error(math.inf, 0.0)
        return Error(math.sqrt(each.weight * spread + each.inputs), freedom)


def common_prior(contrasts: Iterable[Contrast]) -> Prior:
    """Return the variance that contrasts have in common.

    Its degrees of freedom are infinite if the variances differ no more than by chance, and 0 for fewer
    than two contrasts. Contrasts without variance are left out: nothing was trained again.
    """
    known = np.array([(c.spread, c.freedom) for c in contrasts if c.spread > 0 and c.freedom > 0])
    if len(known) < 2:
        return Prior()
    spreads, half = known[:, 0], known[:, 1] / 2
    level = np.log(spreads) - special.digamma(half) + np.log(half)
    beyond = float(level.var(ddof=1) - special.polygamma(1, half).mean())
    if beyond <= 0:
        # Pooling takes the weighted mean of variances, not of their logarithms.
        return Prior(float((spreads * half).sum() / half.sum()), math.inf)
    worth = 2 * _inverse_trigamma(beyond)
    spread = float(np.exp(level.mean() + special.digamma(worth / 2) - np.log(worth / 2)))
    return Prior(spread, worth)


def _inverse_trigamma(y: float) -> float:
    """Return the x > 0 at which the trigamma function is y > 0, by Newton's method on 1 / trigamma."""
    x = 0.5 + 1 / y
    for _ in range(NEWTON):
        value = float(special.polygamma(1, x))
        step = value * (1 - value / y) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def p_value_above(each: Contrast, error: Error, limit: float) -> float:
    """Return the p-value against a true difference of at most ``limit``."""
    return _p_value(limit - each.value, error)


def p_value_below(each: Contrast, error: Error, limit: float) -> float:
    """Return the p-value against a true difference of at least ``limit``."""
    return _p_value(each.value - limit, error)


def _p_value(excess: float, error: Error) -> float:
    """Return the probability of Student's t to lie below ``excess`` in standard errors."""
    if error.freedom <= 0:
        return 1.0
    if error.size == 0:  # variances too small for a double: only the sign is left
        return 0.5 if excess == 0 else float(excess > 0)
    return float(special.stdtr(error.freedom, excess / error.size))
