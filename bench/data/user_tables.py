"""Tables that users bring: what each column holds, as numbers and back to what the file has.

A table becomes a float32 array (n, columns): whole numbers as such, a boolean as 0 or 1, a category as its
number among the column's categories, and a missing value as NaN. :meth:`SourceColumn.decode` undoes it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from bench.errors import UsageError, nearest, shown
from bench.files import user_file, user_text
from bench.inputs import LARGEST_INTEGER, Array, Column, InputSpace

MOST_CATEGORIES = 0.5
"""Share of the rows from which different texts in a column are taken for an identifier."""
FEW_CATEGORIES = 50
"""Number of different texts up to which a column is never taken for an identifier."""
NUMERIC = 0.5
"""Share of a column's values that have to be numbers for the others to be taken for mistakes."""
MOST_BYTES = 1024 * 1024
"""Largest size of a file that declares columns."""


class Declared(pydantic.BaseModel):
    """What a user declares of a column: any of its kind, its range, and its categories in order."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: Literal["number", "integer", "boolean", "category"] | None = None
    low: float | None = pydantic.Field(default=None, allow_inf_nan=False)
    high: float | None = pydantic.Field(default=None, allow_inf_nan=False)
    categories: tuple[str, ...] | None = None
    missing: bool = False


@dataclass(frozen=True)
class SourceColumn:
    """A column with what leads back to the file.

    ``dtype``: that of the data frame. ``values``: what the file has for each category, in their order.
    """

    column: Column
    dtype: Any
    values: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """Name of the column in the file."""
        return self.column.name

    def encode(self, series: pd.Series[Any], origin: str) -> Array:
        """Return the values as float32 numbers (n,); raises UsageError for an unknown category."""
        if self.column.kind != "category":
            if series.dtype == object:  # booleans, some of them missing
                series = pd.Series([np.nan if pd.isna(value) else float(value) for value in series])
            with np.errstate(over="ignore"):  # infinity is looked for, and named, by the caller
                return series.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
        places = {value: place for place, value in enumerate(self.values)}
        known = series.map(places).to_numpy(dtype=np.float64, na_value=np.nan)
        unknown = series[np.isnan(known) & ~series.isna().to_numpy()]
        if len(unknown):
            raise UsageError(
                f"{origin}: column {self.name!r} holds {shown(unknown.iloc[0])}, which is not among its "
                f"declared categories; {nearest(str(unknown.iloc[0]), self.column.categories)}"
            )
        return known.astype(np.float32)

    def decode(self, numbers: NDArray[Any]) -> pd.Series[Any]:
        """Return numbers (n,) as the file has them: its texts, its type, its missing values."""
        missing = np.isnan(numbers)
        if self.column.kind == "category":
            options = np.empty(len(self.values) + 1, dtype=object)
            options[:-1], options[-1] = self.values, np.nan
            places = np.where(missing, len(self.values), numbers).astype(np.int64)
            texts: pd.Series[Any] = pd.Series(options[places], dtype=self.dtype, name=self.name)
            return texts
        if self.dtype == object:  # booleans, some of them missing
            truths = np.full(len(numbers), np.nan, dtype=object)
            truths[~missing] = numbers[~missing] > 0
            return pd.Series(truths, dtype=object, name=self.name)
        values = numbers.astype(np.float64)
        if self.column.whole:
            values = np.rint(values)
        found: pd.Series[Any] = pd.Series(values, name=self.name).astype(self.dtype)
        return found


def declared_columns(path: Path | None) -> dict[str, Declared]:
    """Return what a TOML file declares of columns, a table for each; raises UsageError naming the key."""
    if path is None:
        return {}
    text = user_text(user_file(path, "file of columns"), MOST_BYTES)
    try:
        document = tomllib.loads(text)
        return {name: _declared(path, name, values) for name, values in document.items()}
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error


def _declared(path: Path, name: str, values: Any) -> Declared:
    try:
        return Declared.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (name, *first["loc"])))
        allowed = ", ".join(Declared.model_fields)
        raise UsageError(
            f"{path}: {key} = {shown(first['input'])}: {first['msg']}; of each column, {allowed} can be given"
        ) from error


def source_columns(
    frame: pd.DataFrame, declared: Mapping[str, Declared], origin: str
) -> tuple[SourceColumn, ...]:
    """Return what each column of ``frame`` holds.

    ``declared``: what is known of columns beforehand. ``origin``: the file, for messages. Raises UsageError
    where the kind of a column is not clear: text among numbers, dates, identifiers, infinity.
    """
    for name in declared:
        if name not in frame.columns:
            raise UsageError(
                f"{origin}: no column {name!r} is there to declare; {nearest(name, frame.columns)}"
            )
    return tuple(
        _source(str(name), frame[name], declared.get(str(name), Declared()), origin) for name in frame
    )


def encoded(frame: pd.DataFrame, columns: Sequence[SourceColumn], origin: str) -> Array:
    """Return the rows as float32 numbers (n, columns), see the module's text."""
    x = np.empty((len(frame), len(columns)), dtype=np.float32)
    for place, each in enumerate(columns):
        x[:, place] = each.encode(frame[each.name], origin)
    return x


def space_of(columns: Sequence[SourceColumn]) -> InputSpace:
    """Return the space of a table's inputs."""
    return InputSpace.of_columns([each.column for each in columns])


def notes_on(columns: Sequence[SourceColumn], x: Array) -> Iterator[str]:
    """Yield what is worth knowing of a table's columns, a sentence each."""
    kinds = [each.column.kind for each in columns]
    counted = [f"{kinds.count(kind)} {kind}" for kind in ("number", "integer", "boolean", "category")]
    yield f"columns by kind: {', '.join(text for text in counted if not text.startswith('0 '))}"
    missing = [repr(each.name) for each in columns if each.column.missing]
    if missing:
        yield f"values are missing in {_few(missing)}"
    constant = [repr(each.name) for place, each in enumerate(columns) if len(x) and _is_constant(x[:, place])]
    if constant:
        yield f"one value alone is in {_few(constant)}: it tells a model nothing"
    large = [
        repr(each.name)
        for each in columns
        if each.column.kind == "integer"
        and max(abs(each.column.low), abs(each.column.high)) > LARGEST_INTEGER
    ]
    if large:
        yield (
            f"integers beyond {LARGEST_INTEGER:,} are rounded to the nearest in single precision: "
            f"{_few(large)}"
        )


def _is_constant(values: Array) -> bool:
    known = values[~np.isnan(values)]
    return not len(known) or (len(known) == len(values) and known.min() == known.max())


def _few(names: Sequence[str]) -> str:
    what = "column " if len(names) == 1 else "columns "
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return what + ", ".join(names[:5]) + more


def _source(name: str, series: pd.Series[Any], declared: Declared, origin: str) -> SourceColumn:
    where = f"{origin}: column {name!r}"
    if declared.categories is not None and declared.kind not in (None, "category"):
        raise UsageError(
            f"{where}: categories are declared for kind = {declared.kind!r}; 'category' is allowed"
        )
    kind = declared.kind or ("category" if declared.categories is not None else _kind(series, where))
    missing = declared.missing or bool(series.isna().any())
    if kind == "category":
        return _category(name, series, declared, where, missing=missing)
    if kind != "boolean" and not pd.api.types.is_numeric_dtype(series.dtype):
        raise UsageError(f"{where} is declared {kind}, but holds {_example(series)}; 'category' is allowed")
    dtype = series.dtype
    numbers = SourceColumn(Column(name, kind, 0, 0), dtype).encode(series, origin)
    known = numbers[~np.isnan(numbers)]
    if np.isinf(known).any():
        raise UsageError(
            f"{where} holds infinity, or numbers beyond single precision (3.4e38), in "
            f"{int(np.isinf(known).sum())} rows; correct them or leave the column out"
        )
    if kind != "number" and (known != np.round(known)).any():
        raise UsageError(f"{where} is declared {kind}, but holds {known[known != np.round(known)][0]:g}")
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if kind == "boolean":
        if low < 0 or high > 1:
            raise UsageError(
                f"{where} is declared boolean, but holds {low:g} to {high:g}; 0 and 1 are allowed"
            )
        return SourceColumn(Column(name, kind, 0, 1, missing=missing), dtype)
    low_allowed = low if declared.low is None else declared.low
    high_allowed = high if declared.high is None else declared.high
    if low < low_allowed or high > high_allowed:
        raise UsageError(
            f"{where} holds {low:g} to {high:g}, but [{low_allowed:g}, {high_allowed:g}] is declared; "
            "declare a range that holds every row"
        )
    return SourceColumn(Column(name, kind, low_allowed, high_allowed, missing=missing), dtype)


def _category(
    name: str, series: pd.Series[Any], declared: Declared, where: str, *, missing: bool
) -> SourceColumn:
    values = list(series.dropna().unique())
    if isinstance(series.dtype, pd.CategoricalDtype):
        values = [value for value in series.dtype.categories if value in set(values)]
    else:
        values.sort(
            key=lambda value: (str(type(value)), value) if isinstance(value, str) else (" ", str(value))
        )
    by_text = {str(value): value for value in values}
    if declared.categories is not None:
        unknown = [text for text in by_text if text not in declared.categories]
        if unknown:
            raise UsageError(
                f"{where} holds {shown(unknown[0])}, which is not among its declared categories; "
                f"{nearest(unknown[0], declared.categories)}"
            )
        values = [by_text.get(text, text) for text in declared.categories]
    elif declared.kind is None and len(values) > max(FEW_CATEGORIES, MOST_CATEGORIES * len(series)):
        raise UsageError(
            f"{where} holds {len(values):,} different texts in {len(series):,} rows, as an identifier or "
            "free text does; leave the column out, or declare its kind in a file of columns"
        )
    column = Column.of_categories(name, [str(value) for value in values], missing=missing)
    return SourceColumn(column, series.dtype, tuple(values))


def _kind(series: pd.Series[Any], where: str) -> Literal["number", "integer", "boolean", "category"]:
    dtype = series.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_complex_dtype(dtype):
        raise UsageError(f"{where} holds complex numbers; leave it out or give their parts as columns")
    if pd.api.types.is_numeric_dtype(dtype):
        known = series.dropna().to_numpy(dtype=np.float64)
        known = known[np.isfinite(known)]
        return "integer" if len(known) and (known == np.round(known)).all() else "number"
    known_values = series.dropna()
    if not len(known_values):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        raise UsageError(f"{where} holds dates or times; turn them into numbers, as the model takes them")
    if all(isinstance(value, bool | np.bool_) for value in known_values):
        return "boolean"
    if not all(isinstance(value, str) for value in known_values):
        raise UsageError(f"{where} holds {_example(known_values)}; numbers, texts and booleans are allowed")
    numbers = pd.to_numeric(known_values, errors="coerce").notna()
    share = float(numbers.mean())
    if NUMERIC <= share < 1:
        text = known_values[~numbers]
        raise UsageError(
            f"{where} holds numbers, and text in {len(text):,} rows ({shown(text.iloc[0])}); "
            'leave cells empty where a value is missing, or declare kind = "category" in a file of columns'
        )
    return "category"


def _example(series: pd.Series[Any]) -> str:
    odd = [value for value in series if not isinstance(value, str)] or list(series)
    return f"a {type(odd[0]).__name__} ({shown(odd[0])})" if odd else "nothing"
