"""From inputs to what a model or a distance is computed on: columns of tables encoded, other ranges scaled.

Columns of a table have different units, and categories have no order. So a distance on them, or a network,
gets numbers without a unit: booleans and categories one-hot, other columns standardised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.inputs import InputSpace

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

FARTHEST = 20.0
"""Largest standardised value: what lies further from the mean is moved to it."""


@dataclass(frozen=True)
class Encoding:
    """How inputs of a space are encoded.

    Images and sequences are scaled by the range of their space to [0, 1]; those in [0, 1] stay as they are.
    A table becomes (n, ``width``) numbers. A number or an integer is standardised, and a missing one is the
    mean, which is 0. A boolean or a category becomes one column a value, all 0 where it is missing. Each
    column in which values may be missing is followed by one that is 1 where they are. The width depends on
    the space alone. ``mean``, ``deviation``: (columns,) float64, of the inputs that it was fitted on; empty
    for images and sequences.
    """

    space: InputSpace
    mean: Wide
    deviation: Wide

    @classmethod
    def fit(cls, space: InputSpace, x: Array) -> Encoding:
        """Return the encoding with mean and standard deviation of inputs (n, …); they may be none.

        A column that does not vary in ``x`` gets the standard deviation of a uniform draw from its range.
        """
        if space.layout != "table":
            return cls(space, np.empty(0), np.empty(0))
        low, high = (np.broadcast_to(limit, space.shape).astype(np.float64) for limit in space.limits)
        known = ~np.isnan(x)
        count = known.sum(axis=0)
        values = np.where(known, x, 0).astype(np.float64)
        mean = np.where(count > 0, values.sum(axis=0) / np.maximum(count, 1), (low + high) / 2)
        apart = np.where(known, values - mean, 0)
        deviation = np.sqrt((apart**2).sum(axis=0) / np.maximum(count, 1))
        spread = np.where(high > low, (high - low) / np.sqrt(12), 1.0)
        # A column whose values are equal has a deviation of 0, or of a rounding error.
        return cls(space, mean, np.where(deviation > 1e-9 * (high - low), deviation, spread))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded input."""
        return (sum(self.widths),) if self.space.layout == "table" else self.space.shape

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of encoded columns for each column of a table."""
        if not self.space.columns:
            return (1,) * self.space.size
        return tuple(
            (round(each.high - each.low) + 1 if each.kind in ("boolean", "category") else 1) + each.missing
            for each in self.space.columns
        )

    def __call__(self, x: Array) -> Array:
        """Return inputs (n, …) encoded, (n, …) float32; inputs in [0, 1] themselves where they are images."""
        if self.space.layout == "table":
            return self._table(x)
        if self.space.unit:
            return x
        low, high = self.space.limits
        scaled: Array = ((x - low) / np.where(high > low, high - low, np.float32(1))).astype(np.float32)
        return scaled

    def flat(self, x: Array) -> Wide:
        """Return inputs (n, …) encoded and flattened, (n, width) float64."""
        return self(x).reshape(len(x), int(np.prod(self.shape))).astype(np.float64)

    def _table(self, x: Array) -> Array:
        hidden = np.isnan(x)
        standard = np.where(hidden, 0, (np.where(hidden, 0, x) - self.mean) / self.deviation)
        standard = np.clip(standard, -FARTHEST, FARTHEST).astype(np.float32)
        if not self.space.columns:
            return standard
        encoded = np.zeros((len(x), *self.shape), np.float32)
        start = 0
        for place, column in enumerate(self.space.columns):
            if column.kind in ("boolean", "category"):
                number = round(column.high - column.low) + 1
                there = np.flatnonzero(~hidden[:, place])
                value = np.round(x[there, place] - column.low).astype(np.int64)
                encoded[there, start + np.clip(value, 0, number - 1)] = 1
                start += number
            else:
                encoded[:, start] = standard[:, place]
                start += 1
            if column.missing:
                encoded[:, start] = hidden[:, place]
                start += 1
        return encoded
