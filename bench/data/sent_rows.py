"""A user's inputs as they are sent to a server, and what is sent as inputs like a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.user_data import UserData
from bench.inputs import Array, Column
from bench.remote.exchange import Inputs

LARGEST = float(np.finfo(np.float32).max)
"""From here on, a number is none of single precision."""


def on_the_wire(data: UserData, x: Array) -> Inputs:
    """Return inputs (n, …) as ``data`` have them: an array, or rows with texts, integers and gaps."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    columns = data.names if data.named else ()
    if not data.table:
        return Inputs(x, data.array(x))
    plain = all(each.column.kind == "number" for each in data.table)
    if (plain or not data.named) and not np.isnan(x).any() and not _has_texts(data):
        return Inputs(x, data.array(x), columns)
    frame = data.frame(x).astype(object)
    rows: list[list[Any]] = frame.where(pd.notna(frame), None).to_numpy(dtype=object).tolist()
    return Inputs(x, [[_plain(value) for value in row] for row in rows], columns)


def _has_texts(data: UserData) -> bool:
    return any(each.column.kind == "category" for each in data.table)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_the_wire(data: UserData, rows: NDArray[Any] | Sequence[Sequence[Any]]) -> Array:
    """Return inputs that were sent, as float32 (n, …) of the space of ``data``: see :func:`on_the_wire`.

    A row of a table with a value that ``data`` could not hold (an unknown category, a text for a number, a
    gap where there is none) is infinite in all columns of numbers and has no category: it is far from all.
    """
    if not data.table:
        x: NDArray[Any] = np.asarray(rows)
        if data.channels == "last":
            x = np.moveaxis(x, -1, 1)
        x = x.reshape(len(x), *data.space.shape).astype(np.float32)
        return x if data.scale == 1 else (x / np.float32(data.scale)).astype(np.float32)
    places = [{value: place for place, value in enumerate(each.values)} for each in data.table]
    columns = [each.column for each in data.table]
    far = [np.nan if each.kind in ("boolean", "category") else np.inf for each in columns]
    x = np.empty((len(rows), len(columns)), dtype=np.float32)
    for number, row in enumerate(rows):
        values = [_encoded(*each) for each in zip(row, columns, places, strict=True)]
        x[number] = far if None in values else values
    return x


def _encoded(value: Any, column: Column, places: Mapping[Any, int]) -> float | None:
    """Return a value as a number, NaN for a gap; None where the column could not hold it."""
    if value is None:
        return np.nan if column.missing else None
    if column.kind == "category":
        return None if isinstance(value, bool) else places.get(value)
    if isinstance(value, str):
        return None
    if column.kind == "boolean":
        return float(value) if value in (0, 1) else None
    try:
        return float(value) if abs(value) < LARGEST else None
    except OverflowError:
        return None
