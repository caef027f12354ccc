"""What the inputs of a victim look like: their shape, their ranges, and for tables what each column holds.

Inputs are float32 arrays (n, …) everywhere: images (n, channels, height, width), sequences (n, steps,
features) and tables (n, columns). In a table, an integer stays an integer, a boolean is 0 or 1, a category
is its number among the column's categories, and a missing value is NaN. Whoever makes inputs, noise or
changed rows keeps to the space: see :meth:`InputSpace.project`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Kind = Literal["number", "integer", "boolean", "category"]
Layout = Literal["images", "sequences", "table"]
LAYOUTS: Mapping[int, Layout] = {3: "images", 2: "sequences", 1: "table"}
"""What an input is, by the number of its axes."""
ROUNDING = 1e-6
"""How far a value may lie outside its range, as a share of the range's width, as rounding leaves it."""
LARGEST_INTEGER = 2**24
"""Integers up to here are exact in single precision."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, what it holds, and its range.

    ``low``, ``high``: the smallest and the largest value, both included; of a category, 0 and the number of
    categories less one. ``categories``: their names, in the order of their numbers. ``missing``: whether a
    value may be missing.
    """

    name: str
    kind: Kind
    low: float
    high: float
    categories: tuple[str, ...] = ()
    missing: bool = False

    @classmethod
    def of_categories(cls, name: str, categories: Sequence[str], *, missing: bool = False) -> Column:
        """Return a column of categories."""
        return cls(name, "category", 0, max(0, len(categories) - 1), tuple(categories), missing)

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind != "number"

    def values(self) -> dict[str, Any]:
        """Return the column as JSON values; :meth:`of` reads them."""
        return {
            "name": self.name,
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "categories": list(self.categories),
            "missing": self.missing,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Column:
        """Return the column that :meth:`values` wrote."""
        return cls(**{**values, "categories": tuple(values.get("categories", ()))})


@dataclass(frozen=True)
class InputSpace:
    """The inputs that a victim accepts.

    ``shape``: of one input: (channels, height, width) of an image, (steps, features) of a sequence,
    (columns,) of a row of a table. ``low``, ``high``: the range, of every value, or one for each entry along
    the last axis. ``columns``: of a table, one an entry; empty for others.
    """

    shape: tuple[int, ...]
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)
    columns: tuple[Column, ...] = field(default=(), repr=False)

    @classmethod
    def of_columns(cls, columns: Sequence[Column]) -> InputSpace:
        """Return the space of a table."""
        low, high = tuple(each.low for each in columns), tuple(each.high for each in columns)
        return cls((len(columns),), low, high, tuple(columns))

    @property
    def layout(self) -> Layout:
        """What an input is, by the number of its axes."""
        return LAYOUTS[len(self.shape)]

    @property
    def size(self) -> int:
        """Number of values of one input."""
        return math.prod(self.shape)

    @property
    def unit(self) -> bool:
        """Whether every value is any number in [0, 1]: the inputs of images."""
        return not self.columns and set(self.low) == {0.0} and set(self.high) == {1.0}

    @property
    def without_gradient(self) -> str:
        """Why nothing has a gradient by these inputs, in a clause; empty where it has."""
        if any(each.kind in ("boolean", "category") for each in self.columns):
            return "it needs gradients by the inputs, and a category has none"
        if any(each.missing for each in self.columns):
            return "it needs gradients by the inputs, and a missing value has none"
        return ""

    @cached_property
    def limits(self) -> tuple[Array, Array]:
        """The smallest and the largest value, as float32 arrays that broadcast to ``shape``."""
        return np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)

    @cached_property
    def whole(self) -> NDArray[np.bool_]:
        """Which columns hold whole numbers, (columns,); (0,) where there are no columns."""
        return np.array([each.whole for each in self.columns], dtype=bool)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """In which columns values may be missing, (columns,); (0,) where there are no columns."""
        return np.array([each.missing for each in self.columns], dtype=bool)

    def problem(self, x: Array) -> str:
        """Return why inputs (n, …) do not belong here, "must be …, got …", or an empty string."""
        if x.shape[1:] != self.shape:
            return f"must be (n, {', '.join(map(str, self.shape))}), got {x.shape}"
        if not x.size:
            return ""
        if np.isinf(x).any():
            return "must be finite, got infinity"
        return self._hole(x) or self._outside(x) or self._fraction(x)

    def _hole(self, x: Array) -> str:
        bad = np.asarray(np.isnan(x).any(axis=0))
        if self.columns:
            bad = bad & ~self.missing
        if not bad.any():
            return ""
        return "must be finite, got NaN" + (f" in column {self._name(bad)!r}" if self.columns else "")

    def _outside(self, x: Array) -> str:
        low, high = self.limits
        slack = ROUNDING * np.maximum(high - low, 1)
        outside = (x < low - slack) | (x > high + slack)  # False where a value is missing
        if not outside.any():
            return ""
        if not self.columns:
            allowed = f"[{min(self.low):.7g}, {max(self.high):.7g}]"
            return f"must be in {allowed}, got {x.min():.7g} to {x.max():.7g}"
        place = int(outside.any(axis=0).argmax())
        column, values = self.columns[place], x[:, place]
        got = f"{np.nanmin(values):.7g} to {np.nanmax(values):.7g} in column {column.name!r}"
        return f"must be in [{column.low:.7g}, {column.high:.7g}], got {got}"

    def _fraction(self, x: Array) -> str:
        if not self.whole.any():
            return ""
        broken = self.whole & (np.abs(x - np.round(x)) > 0).any(axis=0)
        return f"must be whole numbers in column {self._name(broken)!r}" if broken.any() else ""

    def _name(self, marked: NDArray[np.bool_]) -> str:
        return self.columns[int(marked.argmax())].name

    def project(self, x: NDArray[Any]) -> Array:
        """Return the nearest inputs (n, …) of this space: clipped to the ranges, whole numbers rounded."""
        low, high = self.limits
        inside: Array = np.clip(x, low, high).astype(np.float32, copy=False)
        if self.whole.any():
            inside = np.where(self.whole, np.round(inside), inside)
        return inside

    def uniform(self, number: int, rng: np.random.Generator) -> Array:
        """Return ``number`` inputs drawn uniformly from the ranges; no value is missing."""
        x = rng.random((number, *self.shape), dtype=np.float32)
        if self.unit:
            return x
        low, high = self.limits
        if self.columns:
            # Every whole number is equally likely, the ends included.
            edge = np.where(self.whole, np.float32(0.499), np.float32(0))
            return self.project(low - edge + x * (high - low + 2 * edge))
        return self.project(low + x * (high - low))

    def values(self) -> dict[str, Any]:
        """Return the space as JSON values; :meth:`of` reads them."""
        return {
            "shape": list(self.shape),
            "low": list(self.low),
            "high": list(self.high),
            "columns": [each.values() for each in self.columns],
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> InputSpace:
        """Return the space that :meth:`values` wrote."""
        columns = tuple(Column.of(each) for each in values.get("columns", ()))
        return cls(tuple(values["shape"]), tuple(values["low"]), tuple(values["high"]), columns)
