"""A user's inputs as they are sent to a live target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.data.user_data import UserData
from bench.inputs import Array
from bench.remote.exchange import Inputs


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
