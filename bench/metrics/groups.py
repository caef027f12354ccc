"""Groups of inputs by the value of a column, and how much more one loses. Functions of arrays alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bench.inputs import InputSpace
from bench.metrics.intervals import Interval, paired_difference
from bench.metrics.utility import Mask

SMALLEST = 50
"""With fewer inputs, nothing is said of a group."""


def groups_of(x: NDArray[np.float32], space: InputSpace, columns: Iterable[str]) -> dict[str, Mask]:
    """Return which of the inputs (n, columns) are in each group, (n,) bool, by "COLUMN=VALUE".

    A group for each value of the named columns of ``space`` that has :data:`SMALLEST` inputs or more, and of
    which at least that many others are not. A dot in a name becomes "_", since it separates parts of names.
    """
    found: dict[str, Mask] = {}
    for place, column in enumerate(space.columns):
        if column.name not in columns:
            continue
        values = x[:, place]
        for value in np.unique(values[~np.isnan(values)]):
            inside = np.asarray(values == value)
            if SMALLEST <= inside.sum() <= len(values) - SMALLEST:
                name = column.categories[int(value)] if column.categories else f"{value:g}"
                found[f"{column.name}={name}".replace(".", "_")] = inside
    return found


def more_lost(before: NDArray[np.float64], after: NDArray[np.float64], group: Mask, number: int) -> Interval:
    """Return how much more of the mean a group loses than all other inputs.

    ``before``, ``after``: (repeats, inputs) in [0, 1]. ``group``: (inputs,). ``number``: of groups that are
    compared, all of whose intervals together miss in 5 % (Bonferroni). The limits are those of a difference
    of two independent means, from the limits of each (Zou and Donner 2008).
    """
    confidence = 1 - 0.05 / max(number, 1)
    inside = paired_difference(before[:, group], after[:, group], confidence)
    others = paired_difference(before[:, ~group], after[:, ~group], confidence)
    difference = inside.value - others.value
    below = math.hypot(inside.value - inside.low, others.high - others.value)
    above = math.hypot(inside.high - inside.value, others.value - others.low)
    return Interval(difference, max(difference - below, -1.0), min(difference + above, 1.0))
