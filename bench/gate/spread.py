"""The error of a difference between two defense evaluations: noise, retraining of the victim, test inputs.

Each part of the variance has its own degrees of freedom; those of their sum are Satterthwaite's (1946).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.metrics.intervals import Interval
from bench.metrics.pooled_difference import Contrast, Error
from bench.records import Record

ROUNDING = 1e-12
"""Tolerated rounding error in comparisons with a limit, and between two draws."""
NO_DRAWS = "the {} does not have its values by draw of the noise, so the error of a difference is not known"
NO_RETRAININGS = "the victim differs by more than rounding, and no run has its values on retrained victims"
OTHER_INPUTS = "the pool has other inputs in the two runs"


@dataclass(frozen=True)
class Sides:
    """How two evaluations belong together.

    ``paired``: draw r of the noise has the same random seed in both. ``equal``: their victims are equal
    but for rounding, so that nothing but the defense and its noise makes a difference.
    """

    paired: bool
    equal: bool


@dataclass(frozen=True)
class Part:
    """A part of a variance, on ``freedom`` degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """Difference of a metric, ``after`` less ``before``.

    ``error``: None where nothing random differs, so that the difference is a fact. ``unknown``: why its
    error cannot be known, as text; empty where it is known. ``noise``: the difference and its error, if
    noise is all that is random.
    """

    before: float
    after: float
    error: Error | None = None
    unknown: str = ""
    noise: Contrast | None = None

    @property
    def value(self) -> float:
        """The candidate's value less the baseline's."""
        return self.after - self.before

    @property
    def interval(self) -> Interval:
        """The difference with its 95 % interval; limits are NaN where there is no error."""
        if self.error is None:
            return Interval(self.value, math.nan, math.nan)
        half = float(special.stdtrit(self.error.freedom, 0.975)) * self.error.size
        return Interval(self.value, self.value - half, self.value + half)


def difference(name: str, old: Record, new: Record, sides: Sides, bits: str = "") -> Difference | None:
    """Return the difference of a metric; None if one of the evaluations does not have it.

    ``bits``: name of the arrays (inputs,) of which the metric is the mean, on the same inputs in both.
    """
    before, after = (finite(each.metrics.get(name)) for each in (old, new))
    if before is None or after is None:
        return None
    marks = [each.arrays[bits].astype(np.float64) for each in (old, new) if bits in each.arrays]
    if len(marks) == 2 and len(marks[0]) != len(marks[1]):
        return Difference(before, after, unknown=OTHER_INPUTS)
    of_marks = [of_inputs(marks[1] - marks[0])] if len(marks) == 2 and len(marks[0]) > 1 else []
    noise, lacking = _noise(name, old, new, sides)
    if lacking and not of_marks:
        return Difference(before, after, unknown=NO_DRAWS.format(lacking))
    drawn = [_values(each.info.drawn, name) for each in (old, new)]
    if noise is not None and all(len(each) > 1 for each in drawn):
        # What all draws give together need not be the mean of what each gives, as of a maximum.
        before, after = (float(np.mean(each)) for each in drawn)
    parts: list[Part] = []
    if not sides.equal:
        parts = of_retraining(*(_values(each.info.retrained, name) for each in (old, new)))
        if not parts:
            return Difference(before, after, unknown=NO_RETRAININGS)
    if lacking or parts:
        # Noise that is independent from input to input is part of this.
        parts += of_marks
    if noise is None:
        return Difference(before, after, combined(parts) if parts else None)
    error = combined([*parts, Part(noise[0] * noise[2], noise[1])])
    return Difference(before, after, error, noise=None if parts else Contrast(after - before, *noise))


def finite(value: float | None) -> float | None:
    """Return a metric's value; None, as for one that was not measured, where it is NaN or infinite.

    No difference from NaN exceeds a tolerance, so that any change to it would pass as none.
    """
    return value if value is not None and math.isfinite(value) else None


def _values(measured: Mapping[str, Sequence[float]], name: str) -> Sequence[float]:
    """Return the values of a metric; none where one is NaN or infinite, as for one that was not measured."""
    values = measured.get(name, ())
    return values if all(math.isfinite(each) for each in values) else ()


def combined(parts: Iterable[Part]) -> Error:
    """Return the standard error of a sum of independent parts, by Satterthwaite's degrees of freedom."""
    moving = [part for part in parts if part.variance > 0]
    total = sum(part.variance for part in moving)
    if not moving:
        return Error(0.0, math.inf)
    if any(part.freedom <= 0 for part in moving):
        return Error(math.inf, 0.0)
    return Error(math.sqrt(total), total**2 / sum(part.variance**2 / part.freedom for part in moving))


def of_inputs(differences: NDArray[np.float64]) -> Part:
    """Return the variance of a mean of differences (inputs,), as in McNemar's test."""
    inputs = len(differences)
    # Where no input differs, assume one of them.
    return Part(max(float(differences.var(ddof=1)) / inputs, 1 / inputs**2), inputs - 1)


def of_retraining(old: Sequence[float], new: Sequence[float]) -> list[Part]:
    """Return what retrained victims add to the variance of a difference; empty if neither side has any.

    Each side is one draw from the victims that the same recipe gives with other rounding errors. A side
    without retrainings is assumed to vary as the other one.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (old, new) if len(side) > 1]
    weight = 2 / len(sides) if sides else 0.0
    return [Part(weight * float(side.var(ddof=1)), len(side) - 1) for side in sides]


def _noise(
    name: str, old: Record, new: Record, sides: Sides
) -> tuple[tuple[float, int, float, float, int] | None, str]:
    """Return what noise adds, as :func:`noise_error`, and the side that lacks its draws, or nothing."""
    drawn = [_values(each.info.drawn, name) for each in (old, new)]
    if list(drawn[0]) == list(drawn[1]) and len(drawn[0]):
        return None, ""
    for side, record, draws in zip(("baseline", "candidate"), (old, new), drawn, strict=True):
        # With the same seeds, the noise is the same.
        if record.info.claims.stochastic and not len(draws) and not sides.paired:
            return None, side
    return noise_error(*drawn, paired=sides.paired), ""


def noise_error(
    old: Sequence[float], new: Sequence[float], *, paired: bool = False
) -> tuple[float, int, float, float, int] | None:
    """Return the error that noise adds to the difference of two means of draws; None if there is none.

    The values are those of :class:`~bench.metrics.pooled_difference.Contrast` after the first. A side whose
    draws are all equal counts as one draw; one without draws has no noise. ``paired``: where both sides
    vary, draw r of one belongs to draw r of the other.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (old, new)]
    moving = [side for side in sides if len(side) > 1 and np.ptp(side) > 0]
    weight = sum(1 / len(side) if np.ptp(side) > 0 else 1.0 for side in sides if len(side))
    if paired and len(moving) == 2 and len(old) == len(new):
        moving, weight = [moving[1] - moving[0]], 1 / len(old)
        if np.ptp(moving[0]) <= ROUNDING:
            return None
    if not moving:
        return None
    freedom = sum(len(side) - 1 for side in moving)
    spread = sum(float(side.var(ddof=1)) * (len(side) - 1) for side in moving) / freedom
    return spread, freedom, weight, 0.0, min(len(side) for side in moving)


def two_sided(each: Difference, limit: float) -> float:
    """Return the p-value against a true difference of at most ``limit`` in either direction.

    It is largest at the limits, and there both tails count.
    """
    if each.error is None or each.error.freedom <= 0:
        return 1.0
    size, away = each.error.size, abs(each.value)
    if size == 0:
        return float(away <= limit + ROUNDING)
    upper = special.stdtr(each.error.freedom, (limit - away) / size)
    return float(upper + special.stdtr(each.error.freedom, -(limit + away) / size))


def as_contrast(each: Difference, way: int = 1) -> tuple[Contrast, Error]:
    """Return a difference, times ``way``, as the tests of the rows on strength take it.

    Raises ValueError for a difference without an error.
    """
    if each.error is None:
        raise ValueError("a difference without an error is not tested")
    return Contrast(way * each.value, 0.0, 0, 0.0, 0.0, 1), each.error
