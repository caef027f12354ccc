"""Data that users bring: tables, images, sequences, read from files without loading any pickle."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data import user_tables
from bench.data.user_tables import SourceColumn
from bench.errors import UsageError, nearest, one_line, shown
from bench.files import user_path
from bench.inputs import Array, InputSpace

FEWEST_ROWS = 100
"""Fewest rows that can be divided into splits on which anything can be measured."""
INPUT_NAMES = ("x", "X", "inputs", "images", "data", "features")
"""How an array of inputs is called in an npz file; the first that is there counts."""
LABEL_NAMES = ("y", "Y", "labels", "label", "targets", "target")
"""How an array of labels is called in an npz file, unless it is named."""
BYTES = 128
"""Largest pixel from which pixels are taken for bytes."""
CHANNELS = (1, 3, 4)
"""Numbers of channels that an image can have, so that the axis of channels is recognised."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Ends of the names of image files."""
KINDS = ".csv, .tsv, .parquet, .npz, .npy, or a folder with one folder of images a class"
"""What can be read."""

Channels = Literal["first", "last", "none"]


@dataclass(frozen=True)
class UserData:
    """Inputs with their labels, and what leads back to what the file has.

    ``x``: float32 (n, …), images as (n, channels, height, width) with values in [0, 1] where they were bytes.
    ``y``: (n,) int64, the places of the labels in ``class_names``; None where there are none. ``digest``:
    SHA-256 of the file's content. ``notes``: what was recognised, a sentence each. ``others``: the inputs and
    labels of the further files. ``table``: its columns; ``named``: whether they have names of the user's.
    ``channels``: where the file has the channels of images, None for others. ``scale``: what 1 stands for in
    the file: 255 where images are bytes. ``dtype``: of the values in the file. ``declared``: what the user
    declared of columns.
    """

    x: Array
    y: NDArray[np.int64] | None
    space: InputSpace
    class_names: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()
    others: tuple[tuple[Array, NDArray[np.int64] | None], ...] = ()
    table: tuple[SourceColumn, ...] = ()
    named: bool = False
    channels: Channels | None = None
    scale: float = 1
    dtype: Any = np.float32
    declared: Mapping[str, user_tables.Declared] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a table's columns."""
        return tuple(each.name for each in self.table)

    def frame(self, x: NDArray[Any]) -> pd.DataFrame:
        """Return rows (n, columns) of a table as the file has them: names, texts, integers, gaps."""
        columns = {each.name: each.decode(x[:, place]) for place, each in enumerate(self.table)}
        return pd.DataFrame(columns, copy=False)

    def array(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return inputs (n, …) as an array that looks like that in the file: its axes, range and type."""
        if self.table:
            if not self._numeric:
                return self.frame(x).to_numpy()
            kept = self.dtype.kind == "f" or not np.isnan(x).any()
            return x.astype(self.dtype) if kept else x.astype(np.float64)
        if self.channels == "last":
            x = np.moveaxis(x, 1, -1)
        elif self.channels == "none":
            x = x[:, 0]
        if self.scale == 1:
            return np.ascontiguousarray(x, dtype=np.float32)
        values = x * np.float32(self.scale)
        return np.ascontiguousarray(np.rint(values).astype(np.uint8) if self.dtype == np.uint8 else values)

    @cached_property
    def _numeric(self) -> bool:
        return all(each.column.kind != "category" for each in self.table)

    def select(self, names: Sequence[str]) -> UserData:
        """Return a table with these columns alone, in this order; raises UsageError if one is missing."""
        known = {name: place for place, name in enumerate(self.names)}
        # Converters of models spell names as identifiers.
        spelled = {_identifier(name): place for name, place in known.items()}
        for name in names:
            if name not in known and _identifier(name) not in spelled:
                raise UsageError(f"the model expects a column {name!r}; {nearest(name, known)}")
        places = [known.get(name, spelled.get(_identifier(name), 0)) for name in names]
        if places == list(range(len(self.names))):
            return self
        table = tuple(self.table[place] for place in places)
        left = [repr(name) for place, name in enumerate(self.names) if place not in places]
        note = (f"the model takes no {', '.join(left[:5])}: left out",) if left else ()
        return replace(
            self,
            x=np.ascontiguousarray(self.x[:, places]),
            space=user_tables.space_of(table),
            others=tuple((np.ascontiguousarray(x[:, places]), y) for x, y in self.others),
            table=table,
            notes=(*self.notes, *note),
        )

    def keep(self, rows: NDArray[np.bool_]) -> UserData:
        """Return the rows (n,) that are True; ranges and categories are those of these rows."""
        y = None if self.y is None else self.y[rows]
        kept = replace(self, x=self.x[rows], y=y)
        if not self.table:
            return kept
        frames = [self.frame(kept.x), *(self.frame(x) for x, _ in self.others)]
        together = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
        declared = {
            each.name: self.declared.get(each.name, user_tables.Declared(kind=each.column.kind))
            for each in self.table
        }
        table = user_tables.source_columns(together, declared, "the data")
        return replace(
            kept,
            x=user_tables.encoded(frames[0], table, "the data"),
            space=user_tables.space_of(table),
            table=table,
            others=tuple(
                (user_tables.encoded(frame, table, "the data"), y)
                for frame, (_, y) in zip(frames[1:], self.others, strict=True)
            ),
        )


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


class Layout(NamedTuple):
    """What is declared of images and sequences: their axis of channels and their range; None: recognised."""

    channels: Literal["first", "last"] | None = None
    range: tuple[float, float] | None = None


class _Source(NamedTuple):
    """A file as it was read: inputs, labels as the file has them, and what was recognised."""

    origin: str
    inputs: pd.DataFrame | NDArray[Any]
    labels: NDArray[Any] | None
    digest: str
    notes: tuple[str, ...] = ()
    named: bool = False
    pictures: bool = False


def load_data(
    path: str | Path,
    *,
    label: str | None = None,
    columns: str | Path | None = None,
    folder: Path = Path(),
    also: Sequence[str | Path] = (),
    layout: Layout | None = None,
) -> UserData:
    """Return the data of a file: a table, images or sequences, with labels where there are any.

    ``path``: see :data:`KINDS`, relative to ``folder``. ``label``: the column, the array of an npz file, or
    for ``.npy`` another such file. ``columns``: a TOML file that declares columns of a table. ``also``:
    further files of the same columns, whose labels may be missing; see ``UserData.others``. ``layout``: what
    is declared of images and sequences. Raises UsageError, one sentence that says what to do, for whatever
    cannot be read or assessed.
    """
    sources = [_read(folder, path, label)]
    sources += [_read(folder, each, label, required=False) for each in also]
    declared = user_tables.declared_columns(None if columns is None else folder / user_path(columns))
    return _data(sources, declared, layout or Layout())


def data_of(x: Any, y: Any = None, *, name: str = "the data", columns: str | Path | None = None) -> UserData:
    """Return data that are in memory: ``x`` a data frame or an array (n, …), ``y`` (n,) labels or None."""
    named = isinstance(x, pd.DataFrame)
    inputs = x.reset_index(drop=True) if named else np.asarray(x)
    labels = None if y is None else np.asarray(y)
    if labels is not None and labels.shape != (len(inputs),):
        raise UsageError(
            f"{name}: {len(inputs)} inputs come with labels of shape {labels.shape}; one each is needed"
        )
    digest = hashlib.sha256()
    for part in (inputs, labels):
        if isinstance(part, pd.DataFrame):
            digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
            digest.update(repr(list(part.columns)).encode())
        elif part is not None:
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(part.tobytes() if part.dtype != object else repr(part.tolist()).encode())
    source = _Source(name, inputs, labels, digest.hexdigest(), named=named)
    declared = user_tables.declared_columns(None if columns is None else Path(columns))
    return _data([source], declared, Layout())


def label_text(value: Any) -> str:
    """Return a label as the name of its class: 1, 1.0 and "1" are one class."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | float | np.integer | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _data(sources: Sequence[_Source], declared: dict[str, user_tables.Declared], layout: Layout) -> UserData:
    sources = [_with_labels_alone(source) for source in sources]
    first = sources[0]
    if len(first.inputs) < FEWEST_ROWS:
        raise UsageError(
            f"{first.origin}: {len(first.inputs)} rows are too few; an assessment needs {FEWEST_ROWS} at the "
            "least, and says more with some thousands"
        )
    names, ys, notes = _classes(sources)
    if isinstance(first.inputs, pd.DataFrame) or first.inputs.ndim == 2:
        if layout != Layout():
            raise UsageError(
                f"{first.origin}: it holds a table, of which --columns declares ranges; channels and range "
                "are of images and sequences"
            )
        data = _table(sources, declared)
    else:
        if declared:
            raise UsageError(f"{first.origin}: columns are declared, but it holds no table")
        data = _arrays(sources, layout)
    others = tuple((x, y) for (x, _), y in zip(data.others, ys[1:], strict=True))
    return replace(data, y=ys[0], class_names=names, others=others, notes=(*first.notes, *notes, *data.notes))


def _with_labels_alone(source: _Source) -> _Source:
    """Return the source without rows that have no label, if others have one."""
    if source.labels is None:
        return source
    missing = np.asarray(pd.isna(source.labels))
    if not missing.any():
        return source
    if missing.all():
        raise UsageError(f"{source.origin}: no row has a label; leave out the label, or give another column")
    keep = ~missing
    inputs = source.inputs[keep]
    if isinstance(inputs, pd.DataFrame):
        inputs = inputs.reset_index(drop=True)
    note = f"{int(missing.sum()):,} rows without a label are left out"
    return source._replace(inputs=inputs, labels=source.labels[keep], notes=(*source.notes, note))


def _classes(
    sources: Sequence[_Source],
) -> tuple[tuple[str, ...], list[NDArray[np.int64] | None], list[str]]:
    """Return the names of the classes, the labels of each source as their places, and notes."""
    first, notes = sources[0], []
    if first.labels is None:
        return (), [None for _ in sources], ["there are no labels: the model's own answers stand for them"]
    given = [source.labels for source in sources if source.labels is not None]
    numeric = all(labels.dtype.kind in "iuf" for labels in given)
    if any(labels.dtype.kind == "f" for labels in given):
        broken = sum(int((labels != np.round(labels)).sum()) for labels in given if labels.dtype.kind == "f")
        if broken:
            raise UsageError(
                f"{first.origin}: {broken:,} labels are no whole numbers, as a quantity to be predicted has; "
                "a classifier needs classes"
            )
        notes.append("labels are read as whole numbers")
    distinct = {label_text(value): value for labels in given for value in pd.unique(labels)}
    # As scikit-learn sorts classes: by number, else by text.
    names = sorted(distinct, key=(lambda name: float(distinct[name])) if numeric else None)
    if len({label_text(value) for value in pd.unique(first.labels)}) < 2:
        raise UsageError(f"{first.origin}: every label is {shown(names[0])}; two classes are needed")
    if len(names) > len(first.inputs) / 2:
        raise UsageError(
            f"{first.origin}: {len(names):,} different labels in {len(first.inputs):,} rows are no classes; "
            "give the column of classes as the label"
        )
    places = {name: place for place, name in enumerate(names)}
    ys = [
        None
        if source.labels is None
        else np.array([places[label_text(value)] for value in source.labels], dtype=np.int64)
        for source in sources
    ]
    return tuple(names), ys, notes


def _table(sources: Sequence[_Source], declared: dict[str, user_tables.Declared]) -> UserData:
    first = sources[0]
    frames = [_as_frame(source, first) for source in sources]
    together = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    table = user_tables.source_columns(together, declared, first.origin)
    if not table:
        raise UsageError(f"{first.origin}: it has no column besides the label; inputs are needed")
    # Types of the first file: that is what models are given, and a join may have changed them.
    table = tuple(
        replace(each, dtype=frames[0][each.name].dtype)
        if not (each.column.missing and frames[0][each.name].dtype.kind in "iub")
        else each
        for each in table
    )
    x = [
        user_tables.encoded(frame, table, source.origin)
        for frame, source in zip(frames, sources, strict=True)
    ]
    return UserData(
        x=x[0],
        y=None,
        space=user_tables.space_of(table),
        class_names=(),
        digest=first.digest,
        notes=tuple(user_tables.notes_on(table, x[0])),
        others=tuple((each, None) for each in x[1:]),
        table=table,
        named=first.named,
        declared=declared,
        dtype=np.dtype(np.float64) if isinstance(first.inputs, pd.DataFrame) else first.inputs.dtype,
    )


def _as_frame(source: _Source, first: _Source) -> pd.DataFrame:
    """Return the table of a source, with the columns of the first one."""
    frame = source.inputs
    if not isinstance(frame, pd.DataFrame):
        if frame.ndim != 2:
            raise UsageError(f"{source.origin}: inputs are {frame.shape}; (n, columns) are needed")
        frame = pd.DataFrame(frame, columns=[f"x{place}" for place in range(frame.shape[1])])
    if source is first:
        return frame
    wanted = list(_as_frame(first, first).columns)
    for name in wanted:
        if name not in frame.columns:
            raise UsageError(
                f"{source.origin}: no column {name!r}, as {first.origin} has; {nearest(name, frame.columns)}"
            )
    return frame[wanted]


def _arrays(sources: Sequence[_Source], layout: Layout) -> UserData:
    """Return images and sequences."""
    first = sources[0]
    values = [_checked(source, first) for source in sources]
    channels, notes = _axes(values[0], first, layout)
    low, high = (float(end([end(each) for each in values])) for end in (np.min, np.max))
    if layout.range is not None:
        if first.pictures and layout.range[0] != 0:
            raise UsageError(
                f"{first.origin}: pixels of pictures begin at 0; declare a range of 0 to 1 or 255"
            )
        if not first.pictures and (low < layout.range[0] or high > layout.range[1]):
            raise UsageError(
                f"{first.origin}: its values are from {low:g} to {high:g}, not within the range "
                f"{layout.range[0]:g} to {layout.range[1]:g} that is declared"
            )
        low, high = layout.range
    scale = _scale(low, high, channels, values[0].dtype, first, layout)
    if first.pictures:
        in_file, scale = 255.0, high if layout.range else 1.0
        channels = layout.channels or "first"
        axes = "channels, height, width" if channels == "first" else "height, width, channels"
        notes = [f"images are given to the model as (n, {axes}) with pixels from 0 to {scale:g}"]
        arrays = [each.astype(np.float32) / np.float32(in_file) for each in values]
    else:
        arrays = [_channels_first(each, channels).astype(np.float32) / np.float32(scale) for each in values]
        if scale != 1:
            notes.append(
                f"pixels from 0 to {scale:g}; attacks work in [0, 1], the model is given 0 to {scale:g}"
            )
    unit = first.pictures or (channels is not None and (scale != 1 or (low >= 0 and high <= 1)))
    shape = arrays[0].shape[1:]
    space = InputSpace(shape) if unit else InputSpace(shape, (low,), (high,))
    if not unit:
        told = "as is declared" if layout.range else "this is taken for the range of all inputs"
        notes.append(f"values from {low:g} to {high:g}: {told}")
    return UserData(
        x=arrays[0],
        y=None,
        space=space,
        class_names=(),
        digest=first.digest,
        notes=tuple(notes),
        others=tuple((each, None) for each in arrays[1:]),
        channels=channels,
        scale=scale,
        dtype=values[0].dtype,
    )


def _axes(raw: NDArray[Any], first: _Source, layout: Layout) -> tuple[Channels | None, list[str]]:
    """Return where the channels of images are, None for sequences, and what was recognised."""
    if raw.ndim == 3:
        if layout.channels is not None:
            raise UsageError(
                f"{first.origin}: inputs are {raw.shape}, without an axis of channels; leave out channels"
            )
        if raw.dtype == np.uint8:
            return "none", [f"{raw.shape[1]}×{raw.shape[2]} grey images without an axis of channels"]
        return None, [f"sequences of {raw.shape[1]} steps and {raw.shape[2]} features"]
    last = raw.shape[-1] in CHANNELS and raw.shape[1] not in CHANNELS
    channels: Channels = layout.channels or ("last" if last else "first")
    axes = "height, width, channels" if channels == "last" else "channels, height, width"
    return channels, [f"images as (n, {axes}) = {raw.shape}; the model is given them so"]


def _scale(
    low: float, high: float, channels: Channels | None, dtype: Any, first: _Source, layout: Layout
) -> float:
    """Return by what values are divided to be in [0, 1]; 1 where they are not."""
    if not channels or low < 0:
        return 1.0
    if layout.range is not None:
        return high if low == 0 else 1.0
    if high <= 1 and not first.pictures:
        return 1.0
    # Grey levels of fewer bits, such as 0 to 16, stay what they are.
    return 255.0 if first.pictures or dtype == np.uint8 or BYTES <= high <= 255 else high


def _channels_first(values: NDArray[Any], channels: Channels | None) -> NDArray[Any]:
    if channels == "none":
        return values[:, None]
    return np.ascontiguousarray(np.moveaxis(values, -1, 1)) if channels == "last" else values


def _checked(source: _Source, first: _Source) -> NDArray[Any]:
    values = source.inputs
    if isinstance(values, pd.DataFrame) or values.dtype.kind not in "iufb" or not values.size:
        got = "a table" if isinstance(values, pd.DataFrame) else f"{values.dtype} {values.shape}"
        raise UsageError(f"{source.origin}: inputs are {got}; numbers (n, …) are needed")
    if not 2 <= values.ndim <= 4:
        raise UsageError(
            f"{source.origin}: inputs are {values.shape}; (n, columns), (n, steps, features) or images with "
            "channels first or last are needed"
        )
    if values.shape[1:] != first.inputs.shape[1:]:
        raise UsageError(
            f"{source.origin}: inputs are {values.shape}; "
            f"the shape of {first.origin}, {first.inputs.shape[1:]}, is needed"
        )
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"{source.origin}: {int((~finite).sum()):,} inputs hold NaN or infinity; "
            "leave them out, or fill them"
        )
    return values


def _read(folder: Path, name: str | Path, label: str | None, *, required: bool = True) -> _Source:
    """Return a file as it is; ``required``: whether a label that is named has to be there."""
    path = folder / user_path(name)
    origin = str(name)
    if path.is_dir():
        return _read_pictures(path, origin)
    if not path.is_file():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(
            f"no data file {shown(origin)}" + (f"; {nearest(path.name, beside)}" if beside else "")
        )
    if not path.stat().st_size:
        raise UsageError(f"{origin}: the file is empty")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth"):
        raise UsageError(
            f"{origin}: pickled data are never loaded, since loading can run any code; save a data frame by "
            "frame.to_parquet(…), arrays by numpy.savez(…, x=x, y=y)"
        )
    if suffix in (".csv", ".tsv", ".parquet"):
        return _read_table(path, origin, label, required=required)
    if suffix in (".npz", ".npy"):
        return _read_arrays(path, origin, label, folder, required=required)
    raise UsageError(f"{origin}: it cannot be read; give {KINDS}")


def _digest(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _read_table(path: Path, origin: str, label: str | None, *, required: bool) -> _Source:
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", low_memory=False)
    except Exception as error:  # the readers raise many kinds
        raise UsageError(f"{origin}: it cannot be read as a table: {one_line(error)}") from error
    frame = frame.reset_index(drop=True)
    frame.columns = [str(each) for each in frame.columns]
    numbers = [name for name in frame.columns if _is_number(name)]
    if path.suffix.lower() != ".parquet" and len(numbers) > len(frame.columns) / 4:
        raise UsageError(
            f"{origin}: its first line holds values ({shown(numbers[0])}); names of columns are needed there"
        )
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise UsageError(f"{origin}: two columns are called {repeated[0]!r}; give one another name")
    labels = None
    if label is not None and (required or label in frame.columns):
        if label not in frame.columns:
            raise UsageError(f"{origin}: no column {label!r}; {nearest(label, frame.columns)}")
        labels = frame.pop(label).to_numpy()
    return _Source(origin, frame, labels, _digest(path), named=True)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_arrays(path: Path, origin: str, label: str | None, folder: Path, *, required: bool) -> _Source:
    digest = _digest(path)
    if path.suffix.lower() == ".npy":
        x, y = _load(path, origin), None
        if label is not None and required:
            other = folder / user_path(label)
            if other.suffix.lower() != ".npy" or not other.is_file():
                raise UsageError(f"{origin}: labels of a .npy file are another one; no file {shown(label)}")
            y, digest = _load(other, label), _digest(path, other)
        return _source(origin, x, y, digest)
    with _load(path, origin) as arrays:
        names = list(arrays.files)
        if not names:
            raise UsageError(f"{origin}: it holds no array")
        if label is not None and label not in names and required:
            raise UsageError(f"{origin}: no array {label!r}; {nearest(label, names)}")
        of_labels = label if label in names else next((name for name in LABEL_NAMES if name in names), None)
        left = [name for name in names if name != of_labels]
        chosen = left[0] if len(left) == 1 else next((name for name in INPUT_NAMES if name in left), None)
        if chosen is None:
            raise UsageError(
                f"{origin}: it holds {', '.join(map(repr, names[:8]))}; "
                "call the inputs 'x' and the labels 'y'"
            )
        y = None if of_labels is None else _member(arrays, of_labels, origin)
        return _source(origin, _member(arrays, chosen, origin), y, digest)


def _load(path: Path, origin: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(origin, error) from error


def _member(arrays: Any, name: str, origin: str) -> NDArray[Any]:
    try:
        values: NDArray[Any] = arrays[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(f"{origin}: array {name!r}", error) from error
    return values


def _unreadable(origin: str, error: Exception) -> UsageError:
    if "pickle" in str(error).lower():
        return UsageError(
            f"{origin} holds Python objects, or is no array: pickles are never loaded, since "
            "loading can run any code; save arrays of numbers or texts, tables by frame.to_parquet(…)"
        )
    return UsageError(f"{origin}: it cannot be read: {one_line(error)}")


def _source(origin: str, x: NDArray[Any], y: NDArray[Any] | None, digest: str) -> _Source:
    if x.ndim < 2 or not len(x):
        raise UsageError(f"{origin}: inputs are {x.shape}; (n, …) with two axes or more are needed")
    if x.dtype.kind not in "iufb":
        raise UsageError(
            f"{origin}: inputs are {x.dtype}; numbers are needed (a table of texts: .csv or .parquet)"
        )
    if y is not None:
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != (len(x),):
            raise UsageError(
                f"{origin}: {len(x):,} inputs come with labels of shape {y.shape}; one each is needed"
            )
        if y.dtype.kind == "c":
            raise UsageError(f"{origin}: labels are complex numbers; integers or texts are needed")
    return _Source(origin, x, y, digest)


def _read_pictures(path: Path, origin: str) -> _Source:
    from PIL import Image, UnidentifiedImageError

    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not folders:
        raise UsageError(f"{origin}: it has no folders; one folder of images a class is needed")
    files = [
        (each, folder.name)
        for folder in folders
        for each in sorted(folder.rglob("*"))
        if each.suffix.lower() in PICTURES
    ]
    if not files:
        raise UsageError(f"{origin}: there are no images in its folders; {', '.join(PICTURES)} are read")
    arrays, grey, size = [], True, None
    digest = hashlib.sha256()
    for file, label in files:
        digest.update(f"{file.relative_to(path)} {label} ".encode() + _digest(file).encode())
        try:
            with Image.open(file) as image:
                image.load()
                grey = grey and image.mode in ("1", "L")
                values = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise UsageError(f"{file}: it cannot be read as an image: {one_line(error)}") from error
        size = size or values.shape[:2]
        if values.shape[:2] != size:
            raise UsageError(
                f"{file}: it has {values.shape[1]}×{values.shape[0]} pixels, "
                f"the first image {size[1]}×{size[0]}; give them one size"
            )
        arrays.append(values)
    if not grey:
        arrays = [np.repeat(each[..., None], 3, axis=-1) if each.ndim == 2 else each for each in arrays]
    x = np.stack(arrays)
    x = x[:, None] if grey else np.ascontiguousarray(np.moveaxis(x, -1, 1))
    return _Source(origin, x, np.array([label for _, label in files]), digest.hexdigest(), pictures=True)
