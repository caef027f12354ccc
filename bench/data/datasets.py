"""Real images: what is known about each data set, where it lies, and its disjoint, seeded splits.

Importing this module is cheap: torchvision and scikit-learn take seconds to import, so they are
imported inside the functions that read pixels; names, sizes and file headers need neither.
"""

import hashlib
import logging
import math
import os
import shlex
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from bench.data.image_cache import digest, mapped
from bench.errors import MissingDataError, UsageError, nearest
from bench.seeds import derive

log = logging.getLogger(__name__)
Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set without reading it.

    ``shape``: (channels, height, width). ``domain``: "handwriting", "clothing" or "photographs".
    ``label_space``: equal where labels mean the same (0 to 9 in four sets of digits).
    ``official``: its authors' splits and their numbers of images. ``sizes``: how many images go to
    train, calibration, pool and test. ``pool``: the official split, and how many of it, that it
    contributes when it is a thief's pool. ``loader``: torchvision's class, or empty.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    domain: str
    label_space: str
    official: tuple[tuple[str, int], ...]
    sizes: tuple[int, int, int, int]
    pool: tuple[str, int]
    loader: str = ""

    @property
    def fetchable(self) -> bool:
        """Whether it has to be downloaded; False where it comes with scikit-learn."""
        return bool(self.loader)


_ALL = (("all", 1_797),)
_OF_60K = (("train", 60_000), ("test", 10_000))
_OF_240K = (("train", 240_000), ("test", 40_000))
_OF_USPS = (("train", 7_291), ("test", 2_007))
_OF_CIFAR = (("train", 50_000), ("test", 10_000))
_40K = (40_000, 10_000, 10_000, 10_000)
_30K = (30_000, 10_000, 10_000, 10_000)
_10K = ("train", 10_000)
_GREY, _SMALL, _COLOUR = (1, 28, 28), (1, 16, 16), (3, 32, 32)
_USPS_SIZES = (4_291, 1_000, 2_000, 2_007)
_HAND = "handwriting"

DATASETS: dict[str, DatasetInfo] = {
    each.name: each
    for each in (
        DatasetInfo("digits", (1, 8, 8), 10, _HAND, "digits", _ALL, (700, 150, 500, 447), _ALL[0]),
        DatasetInfo("mnist", _GREY, 10, _HAND, "digits", _OF_60K, _40K, _10K, "MNIST"),
        DatasetInfo(
            "fashion-mnist", _GREY, 10, "clothing", "fashion-mnist", _OF_60K, _40K, _10K, "FashionMNIST"
        ),
        # Its test split is its pool: the training images are often not at hand.
        DatasetInfo("kmnist", _GREY, 10, _HAND, "kmnist", _OF_60K, _40K, ("test", 10_000), "KMNIST"),
        DatasetInfo("emnist-digits", _GREY, 10, _HAND, "digits", _OF_240K, _40K, _10K, "EMNIST"),
        DatasetInfo("usps", _SMALL, 10, _HAND, "digits", _OF_USPS, _USPS_SIZES, ("train", 7_291), "USPS"),
        DatasetInfo("cifar10", _COLOUR, 10, "photographs", "cifar10", _OF_CIFAR, _30K, _10K, "CIFAR10"),
    )
}


@dataclass(frozen=True)
class Labelled:
    """Images ``x`` (n, channels, height, width) float32 in [0, 1] and classes ``y`` (n,) int64.

    ``told``: their digest, where it is known already.
    """

    x: Images
    y: Labels
    told: str = field(default="", compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def digest(self) -> str:
        """SHA-256 of images and labels; known from when they were read, or found now."""
        return self.told or digest(self.x, self.y)


@dataclass(frozen=True)
class Splits:
    """A victim's data: it is trained on ``train``, defenses on ``calibration``; disjoint as a rule.

    ``pool`` is what an in-distribution thief has; every figure is measured on ``test``.
    """

    train: Labelled
    calibration: Labelled
    pool: Labelled
    test: Labelled
    classes: int


@dataclass(frozen=True)
class Presence:
    """How many images of an official split are on this machine; None: missing or not whole."""

    name: str
    split: str
    images: int | None


def info(name: str) -> DatasetInfo:
    """Return what is known about a data set; raises UsageError with the nearest names."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


def data_root(override: Path | None = None) -> Path:
    """Return where data sets lie: ``override``, else MOATBENCH_DATA, else the user's cache folder."""
    if override is not None:
        return override.expanduser()
    if from_environment := os.environ.get("MOATBENCH_DATA"):
        return Path(from_environment).expanduser()
    return Path(platformdirs.user_cache_dir("moatbench", appauthor=False)) / "data"


OFFICIAL_TRAIN = 0.8
"""Share of a data set without official splits that published studies train on: most often this."""


def split_indices(name: str, seed: int, *, official: bool = False) -> dict[str, Indices]:
    """Return which rows make up train, calibration, pool and test: a function of the seed.

    Rows of the official test split for "test", else of the training split; digits has but one.
    They are disjoint, unless ``official``: then "train" and "test" are the whole official splits
    (digits: 80 % and the rest), and calibration and pool are drawn from "train".
    """
    this = info(name)
    rng = np.random.default_rng(derive("splits", name, seed))
    train, calibration, pool, test = this.sizes
    rows = rng.permutation(this.official[0][1])
    if official:
        alone = len(this.official) == 1
        known, rest = np.split(rows, [int(OFFICIAL_TRAIN * len(rows))]) if alone else (rows, rows[:0])
        return {
            "train": np.sort(known),
            "calibration": known[:calibration],
            "pool": known[calibration : calibration + pool],
            "test": np.sort(rest) if alone else np.arange(this.official[1][1]),
        }
    first, second, third, rest = np.split(rows, np.cumsum([train, calibration, pool]))
    if len(this.official) > 1:
        rest = rng.permutation(this.official[1][1])
    return {"train": first, "calibration": second, "pool": third, "test": np.sort(rest[:test])}


def load_splits(name: str, seed: int, root: Path, *, official: bool = False) -> Splits:
    """Load a victim's data: four splits, a function of name and seed; see :func:`split_indices`.

    Raises MissingDataError, naming the command that fetches it, where an official split is missing.
    CIFAR-10 comes as pickles; torchvision unpickles them, after comparing their MD5 with its own.
    """
    this = info(name)
    _require(this, [split for split, _ in this.official], root)
    rows = split_indices(name, seed, official=official)
    first = _Official(this, this.official[0][0], root)
    last = first if len(this.official) == 1 else _Official(this, this.official[1][0], root)
    return Splits(
        train=first.take(rows["train"]),
        calibration=first.take(rows["calibration"]),
        pool=first.take(rows["pool"]),
        test=last.take(rows["test"]),
        classes=this.classes,
    )


def load_pool_source(name: str, root: Path) -> Labelled:
    """Load what a data set contributes as a thief's pool: the same images on every machine.

    At its own resolution. Raises MissingDataError as :func:`load_splits` does.
    """
    this = info(name)
    split, size = this.pool
    _require(this, [split], root)
    rng = np.random.default_rng(derive("pool-source", name))
    return _Official(this, split, root).take(np.sort(rng.permutation(dict(this.official)[split])[:size]))


def available(root: Path) -> list[Presence]:
    """Return what is really there, one entry per data set and official split; reads headers only."""
    return [
        Presence(this.name, split, _count(this, split, root))
        for this in DATASETS.values()
        for split, _ in this.official
    ]


def fetch(name: str, root: Path) -> str:
    """Download a data set through torchvision, which checks its checksums; return what happened.

    Placeholders and files cut short are set aside, since torchvision would take them for the real
    ones, and put back where the download fails. Raises MissingDataError then.
    """
    this = info(name)
    if not this.fetchable:
        return f"{name} comes with scikit-learn: nothing to fetch"
    broken = [
        path
        for split, _ in this.official
        if _count(this, split, root) is None
        for path in _files(this, split, root)
        if path.is_file()
    ]
    try:
        with _set_aside(broken):
            for split, _ in this.official:
                _open(this, split, root, download=True)
            if any(_count(this, split, root) != size for split, size in this.official):
                raise RuntimeError("what came is not whole")
    except _UNREADABLE as error:
        raise MissingDataError(f"could not fetch {name} into {root}: {_one_line(error)}") from error
    counts = " and ".join(f"{size:,} {split}" for split, size in this.official)
    return f"{name}: {counts} images are in {root}"


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


def require_split(name: str, split: str, root: Path) -> None:
    """Raise MissingDataError, naming the command that fetches it, unless the split is in ``root``."""
    _require(info(name), [split], root)


def _require(this: DatasetInfo, splits: list[str], root: Path) -> None:
    missing = [split for split in splits if _count(this, split, root) != dict(this.official)[split]]
    if missing:
        raise _missing(this, f"its {' and '.join(missing)} images are missing or not whole", root)


def _missing(this: DatasetInfo, what: str, root: Path) -> MissingDataError:
    where = "" if root == data_root() else f" --data-root {shlex.quote(str(root))}"
    command = f"moatbench data fetch {this.name}{where}"
    return MissingDataError(f"data set {this.name!r}: {what} in {root}; fetch it with: {command}")


def _files(this: DatasetInfo, split: str, root: Path) -> list[Path]:
    """Return the files of an official split, images first, as torchvision lays them out."""
    if this.loader == "USPS":
        return [root / {"train": "usps.bz2", "test": "usps.t.bz2"}[split]]
    if this.loader == "CIFAR10":
        batches = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
        return [root / "cifar-10-batches-py" / batch for batch in batches]
    stem = {"train": "train", "test": "t10k"}[split]
    if this.loader == "EMNIST":
        stem = f"emnist-digits-{split}"
    raw = root / this.loader / "raw"
    return [raw / f"{stem}-images-idx3-ubyte", raw / f"{stem}-labels-idx1-ubyte"]


_USPS_BYTES = {"train": 6_579_383, "test": 1_831_726}


def _count(this: DatasetInfo, split: str, root: Path) -> int | None:
    """Return the number of images in a split's files by their headers or sizes, None unless whole."""
    official = dict(this.official)[split]
    if not this.fetchable:
        return official
    files = _files(this, split, root)
    if not all(path.is_file() for path in files):
        return None
    if this.loader == "USPS":
        return official if files[0].stat().st_size == _USPS_BYTES[split] else None
    if this.loader == "CIFAR10":
        pixels = official // len(files) * math.prod(this.shape)
        return official if all(path.stat().st_size > pixels for path in files) else None
    images, labels = (_idx_count(path) for path in files)
    return images if images == labels else None


def _idx_count(path: Path) -> int | None:
    """Return the number of items in a file of unsigned bytes in the idx format (the MNIST page's)."""
    with path.open("rb") as file:
        head = file.read(16)
    if len(head) < 8 or head[:3] != b"\0\0\x08" or head[3] not in (1, 3) or len(head) < 4 * (head[3] + 1):
        return None
    shape = struct.unpack_from(f">{head[3]}I", head, 4)
    whole = path.stat().st_size == 4 * (head[3] + 1) + math.prod(shape)
    return int(shape[0]) if whole else None


_UNREADABLE = (RuntimeError, OSError, EOFError, ValueError)
"""What torchvision raises where files are missing, damaged or not to be had."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _open(this: DatasetInfo, split: str, root: Path, *, download: bool) -> Any:
    from bench.data.torchvision_compat import load_torchvision  # takes seconds

    options = {"split": "digits"} if this.loader == "EMNIST" else {}
    cls = getattr(load_torchvision().datasets, this.loader)
    with warnings.catch_warnings():
        # CIFAR-10's pickles hold dtypes as NumPy 1 wrote them; NumPy 2.4 warns, users can do nothing.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return cls(str(root), train=split == "train", download=download, **options)


def _read(this: DatasetInfo, split: str, root: Path) -> tuple[NDArray[Any], Labels]:
    """Read an official split, never downloading: images (n, c, h, w), uint8 or float32 in [0, 1]."""
    if not this.fetchable:
        from sklearn.datasets import load_digits  # takes a second

        digits = load_digits()
        return (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    try:
        found = _open(this, split, root, download=False)
    except _UNREADABLE as error:
        what = f"torchvision cannot read its {split} images ({_one_line(error)})"
        raise _missing(this, what, root) from error
    pixels = np.asarray(found.data)
    if this.loader == "EMNIST":
        pixels = pixels.transpose(0, 2, 1)  # EMNIST stores columns first, unlike MNIST
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return pixels, np.asarray(found.targets, dtype=np.int64)


class _Official:
    """An official split, read when rows of it are taken that nobody has taken before."""

    def __init__(self, this: DatasetInfo, split: str, root: Path) -> None:
        self._this, self._split, self._root = this, split, root

    def take(self, rows: Indices) -> Labelled:
        """Return these rows, mapped from the cache where the data set is downloaded."""
        if not self._this.fetchable:
            return Labelled(*_convert(self._data, rows))
        try:
            return Labelled(*mapped(self._this.name, self._key(rows), len(rows), lambda: self._part(rows)))
        except OSError as error:
            log.warning("no images are kept (%s): every worker holds its own", _one_line(error))
            return Labelled(*_convert(self._data, rows))

    @cached_property
    def _data(self) -> tuple[NDArray[Any], Labels]:
        return _read(self._this, self._split, self._root)

    def _part(self, rows: Indices) -> Callable[[slice], tuple[Images, Labels]]:
        data = self._data
        return lambda here: _convert(data, rows[here])

    def _key(self, rows: Indices) -> str:
        """Return what tells these rows of these files from others."""
        files = _files(self._this, self._split, self._root)
        stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return f"{derive('rows', *map(str, stamps), hashlib.sha256(rows.data).hexdigest()):016x}"


def _convert(data: tuple[NDArray[Any], Labels], rows: Indices) -> tuple[Images, Labels]:
    x, y = data[0][rows], data[1][rows]
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(x, dtype=np.float32), y
