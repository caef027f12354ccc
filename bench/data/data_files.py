"""Reading data sets: what is on this machine, downloads, and the splits of a victim's data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import keys
from bench.data.datasets import (
    DATASETS,
    DISJOINT,
    PARTS,
    DatasetInfo,
    Images,
    Indices,
    Labelled,
    Labels,
    Splits,
    info,
    split_indices,
    split_table,
)
from bench.data.file_layouts import UNREADABLE
from bench.data.image_cache import cached_images
from bench.errors import MissingDataError
from bench.files import cache_root, expanded, user_cache, warn_unwritable
from bench.seeds import derive
from bench.sources import code

log = logging.getLogger(__name__)

_EQUAL = (
    "{:,} of {:,} official test rows equal a row of training, calibration or pool in every column: "
    "none of them is in the test split"
)


@dataclass(frozen=True)
class Presence:
    """How many images of an official split are on this machine; None: missing or not whole."""

    name: str
    split: str
    images: int | None


def data_root(override: Path | None = None) -> Path:
    """Return the folder of data sets: ``override``, else MOATBENCH_DATA, else in the user's cache folder."""
    if override is not None:
        return expanded("--data-root", override)
    if from_environment := os.environ.get("MOATBENCH_DATA"):
        return expanded("MOATBENCH_DATA", Path(from_environment))
    return user_cache(appauthor=False) / "data"


def load_splits(name: str, seed: int, root: Path, splits: str = DISJOINT) -> Splits:
    """Return a victim's data: four splits, a function of name, seed and splits; see :func:`split_indices`.

    Raises MissingDataError, naming the command that fetches it, where an official split is missing.
    CIFAR-10 comes as pickles; torchvision unpickles them, after comparing their MD5 with its own.
    """
    dataset = info(name)
    _require(dataset, [split for split, _ in dataset.official], root)
    first = _OfficialSplit(dataset, dataset.official[0][0], root)
    last = first if len(dataset.official) == 1 else _OfficialSplit(dataset, dataset.official[1][0], root)
    if dataset.space is not None:
        return _load_table(dataset, first, last, seed, splits)
    rows = split_indices(name, seed, splits)
    return Splits(
        train=first.take(rows["train"]),
        calibration=first.take(rows["calibration"]),
        pool=first.take(rows["pool"]),
        test=last.take(rows["test"]),
        classes=dataset.classes,
    )


def _load_table(
    dataset: DatasetInfo, first: _OfficialSplit, last: _OfficialSplit, seed: int, splits: str
) -> Splits:
    """Return the splits of a table, as :func:`bench.data.datasets.split_table` cuts them."""
    every, tested = (source.take(np.arange(dict(dataset.official)[source.split])) for source in (first, last))
    rows, held_out, equal = split_table(dataset.name, seed, splits, every.x, tested.x)

    def part(name: str) -> Labelled:
        source = tested if name == "test" else every
        return Labelled(source.x[rows[name]], source.y[rows[name]])

    return Splits(
        **{name: part(name) for name in PARTS},
        classes=dataset.classes,
        space=dataset.space,
        shifted=Labelled(every.x[held_out], every.y[held_out]) if len(held_out) else None,
        groups=dataset.groups,
        notes=(_EQUAL.format(equal, len(tested)),) if equal else (),
    )


def load_pool_source(name: str, root: Path) -> Labelled:
    """Return what a data set contributes as an attacker's pool: the same images on every machine.

    They keep their own resolution. Raises MissingDataError as :func:`load_splits` does.
    """
    dataset = info(name)
    split, size = dataset.pool
    _require(dataset, [split], root)
    rng = np.random.default_rng(derive("pool-source", name))
    rows = np.sort(rng.permutation(dict(dataset.official)[split])[:size])
    return _OfficialSplit(dataset, split, root).take(rows)


def available(root: Path) -> list[Presence]:
    """Return how much of every data set and official split is on this machine; reads headers only."""
    return [
        Presence(dataset.name, split, _count(dataset, split, root))
        for dataset in DATASETS.values()
        for split, _ in dataset.official
    ]


def fetch(name: str, root: Path) -> str:
    """Download a data set through torchvision or pooch, which check its checksums; return a message.

    Placeholders and truncated files are set aside, since torchvision would take them for the real ones.
    They are put back if the download fails; MissingDataError is raised then.
    """
    dataset = info(name)
    if not dataset.fetchable:
        return f"{name} comes with scikit-learn: nothing to fetch"
    broken = [
        path
        for split, _ in dataset.official
        if _count(dataset, split, root) is None
        for path in dataset.files.paths(split, root)
        if path.is_file()
    ]
    try:
        with _set_aside(broken):
            for split, _ in dataset.official:
                dataset.files.download(split, root)
            if any(_count(dataset, split, root) != size for split, size in dataset.official):
                raise RuntimeError("the downloaded files are not whole")
    except UNREADABLE as error:
        raise MissingDataError(f"could not fetch {name} into {root}: {_one_line(error)}") from error
    counts = " and ".join(f"{size:,} {split}" for split, size in dataset.official)
    return f"{name}: {counts} {dataset.noun} are in {root}"


@contextmanager
def _set_aside(paths: list[Path]) -> Iterator[None]:
    moved = {path: path.with_name(path.name + ".aside") for path in paths}
    try:
        for path, safe in moved.items():
            path.replace(safe)
        yield
    except BaseException:
        for path, safe in moved.items():
            if safe.is_file():
                safe.replace(path)
        raise
    for safe in moved.values():
        safe.unlink()


def file_digest(name: str, root: Path) -> str:
    """Return the SHA-256 of those files of a data set that are in ``root``; empty if it has none."""
    dataset = info(name)
    paths = [path for split, _ in dataset.official for path in dataset.files.paths(split, root)]
    digests = []
    for path in dict.fromkeys(paths):
        if path.is_file():  # a pool needs one split of several
            with path.open("rb") as file:
                digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else ""


def require_split(name: str, split: str, root: Path) -> None:
    """Raise MissingDataError, naming the command that fetches it, unless the split is in ``root``."""
    _require(info(name), [split], root)


def require_all(name: str, root: Path) -> None:
    """Raise MissingDataError, naming the command that fetches them, unless all its splits are in ``root``."""
    dataset = info(name)
    _require(dataset, [split for split, _ in dataset.official], root)


def _require(dataset: DatasetInfo, splits: list[str], root: Path) -> None:
    missing = [split for split in splits if _count(dataset, split, root) != dict(dataset.official)[split]]
    if missing:
        raise _missing(dataset, f"its {' and '.join(missing)} {dataset.noun} are missing or not whole", root)


def _missing(dataset: DatasetInfo, what: str, root: Path) -> MissingDataError:
    where = "" if root == data_root() else f" --data-root {shlex.quote(str(root))}"
    command = f"moatbench data fetch {dataset.name}{where}"
    return MissingDataError(f"data set {dataset.name!r}: {what} in {root}; fetch it with: {command}")


def _count(dataset: DatasetInfo, split: str, root: Path) -> int | None:
    return dataset.files.count(split, root, dict(dataset.official)[split], dataset.pixels)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read(dataset: DatasetInfo, split: str, root: Path) -> tuple[NDArray[Any], Labels]:
    """Return an official split's images (n, c, h, w), uint8 or float32 in [0, 1], and classes (n,)."""
    try:
        return dataset.files.read(split, root)
    except UNREADABLE as error:
        reader = "torchvision" if dataset.space is None else "pandas"
        what = f"{reader} cannot read its {split} {dataset.noun} ({_one_line(error)})"
        raise _missing(dataset, what, root) from error


class _OfficialSplit:
    """An official split, read when rows of it are needed that are not in the image cache."""

    def __init__(self, dataset: DatasetInfo, split: str, root: Path) -> None:
        self._dataset, self.split, self._root = dataset, split, root

    def take(self, rows: Indices) -> Labelled:
        """Return these rows; for a downloaded data set, mapped from the image cache."""
        if not self._dataset.fetchable:
            return Labelled(*_convert(self._data, rows))
        try:
            return Labelled(
                *cached_images(self._dataset.name, self._key(rows), len(rows), lambda: self._part(rows))
            )
        except OSError as error:
            warn_unwritable(cache_root() / "images", error, "every worker holds its own images")
            return Labelled(*_convert(self._data, rows))

    @cached_property
    def _data(self) -> tuple[NDArray[Any], Labels]:
        return _read(self._dataset, self.split, self._root)

    def _part(self, rows: Indices) -> Callable[[slice], tuple[Images, Labels]]:
        data = self._data
        return lambda here: _convert(data, rows[here])

    def _key(self, rows: Indices) -> str:
        """Return the key of these rows of these files, as they are now, after one of their names alone."""
        files = [path.resolve() for path in self._dataset.files.paths(self.split, self._root)]
        states = [(path, path.stat()) for path in files]
        stamps = [[str(path), at.st_size, at.st_mtime_ns, at.st_ctime_ns] for path, at in states]
        ingredients = {
            "files": stamps,  # the last of these times, that of a change of state, is set by the system alone
            "rows": hashlib.sha256(rows.data).hexdigest(),
            "code": _code(),
            **keys.versions_of({name: importlib.metadata.version(name) for name in ("numpy", "torchvision")}),
        }
        same = hashlib.sha256(json.dumps([ingredients["rows"], [str(path) for path in files]]).encode())
        return f"{same.hexdigest()[:16]}-{keys.compose('images', ingredients)[:32]}"


@cache
def _code() -> str:
    """Return a digest of the code that reads and converts images."""
    return code(__name__).digest()


def _convert(data: tuple[NDArray[Any], Labels], rows: Indices) -> tuple[Images, Labels]:
    x, y = data[0][rows], data[1][rows]
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(x, dtype=np.float32), y
