"""Data sets: what is known about each of them, and the seeded splits of a victim's data.

Nothing here touches a file; :mod:`bench.data.data_files` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from bench.data import adult, breast_cancer
from bench.data.file_layouts import (
    FileLayout,
    SklearnDigits,
    TorchvisionFiles,
    count_by_bytes,
    count_pickles,
    idx_files,
)
from bench.data.image_cache import digest
from bench.errors import UsageError, nearest, shown
from bench.inputs import InputSpace
from bench.seeds import derive

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set without reading it.

    ``shape``: of one input: (channels, height, width) of an image, (columns,) of a row of a table.
    ``domain``: "handwriting", "clothing", "photographs", "medicine" or "census".
    ``label_space``: equal where labels mean the same (0 to 9 in four sets of digits).
    ``official``: its authors' splits and their numbers of inputs. ``sizes``: how many inputs go to
    train, calibration, pool and test. ``pool``: the official split, and how many of it, that it
    contributes as an attacker's pool. ``files``: how its files are named, counted, downloaded and read.
    ``expected``: test accuracy in [0, 1] that a victim reaches if its training went well, by
    architecture. ``expected_official``: the same for victims trained on the whole official training split.
    ``space``: what inputs may be; None where every value is any number in [0, 1]. ``shifted``: from inputs
    (n, …), which of them (n,) are held out of all splits, as a pool of another distribution. ``usable``: how
    many inputs of each official split are left for the splits, where not all are. ``groups``: columns for
    whose values utility loss is measured apart.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    domain: str
    label_space: str
    official: tuple[tuple[str, int], ...]
    sizes: tuple[int, int, int, int]
    pool: tuple[str, int]
    files: FileLayout
    expected: Mapping[str, float] = field(default_factory=dict, hash=False)
    expected_official: Mapping[str, float] = field(default_factory=dict, hash=False)
    space: InputSpace | None = None
    shifted: Callable[[NDArray[np.float32]], NDArray[np.bool_]] | None = None
    usable: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def fetchable(self) -> bool:
        """Whether it has to be downloaded; False where it comes with scikit-learn."""
        return self.files.fetchable

    @property
    def pixels(self) -> int:
        """Values of one input: of an image, channels × height × width."""
        return prod(self.shape)

    @property
    def noun(self) -> str:
        """What its inputs are called: "images" or "rows"."""
        return "images" if len(self.shape) == 3 else "rows"


_OF_60K = (("train", 60_000), ("test", 10_000))
_40K = (40_000, 10_000, 10_000, 10_000)
_10K = ("train", 10_000)
_GREY = (1, 28, 28)
_HAND = "handwriting"

DATASETS: dict[str, DatasetInfo] = {
    each.name: each
    for each in (
        DatasetInfo(
            name="digits",
            shape=(1, 8, 8),
            classes=10,
            domain=_HAND,
            label_space="digits",
            official=(("all", 1_797),),
            sizes=(700, 150, 500, 447),
            pool=("all", 1_797),
            files=SklearnDigits(),
            expected={
                "mlp": 0.94,
                "cnn": 0.95,
                "logistic": 0.93,
                "tree": 0.75,
                "forest": 0.92,
                "boosting": 0.92,
            },
            expected_official={"logistic": 0.965},
        ),
        DatasetInfo(
            name="mnist",
            shape=_GREY,
            classes=10,
            domain=_HAND,
            label_space="digits",
            official=_OF_60K,
            sizes=_40K,
            pool=_10K,
            files=idx_files("MNIST"),
            expected={"mlp": 0.97, "lenet": 0.985, "cnn": 0.992},
            expected_official={"lenet": 0.99},
        ),
        DatasetInfo(
            name="fashion-mnist",
            shape=_GREY,
            classes=10,
            domain="clothing",
            label_space="fashion-mnist",
            official=_OF_60K,
            sizes=_40K,
            pool=_10K,
            files=idx_files("FashionMNIST"),
            expected={"mlp": 0.87, "mlp128": 0.87, "lenet": 0.87, "cnn": 0.90},
            expected_official={"mlp128": 0.88},
        ),
        DatasetInfo(
            name="kmnist",
            shape=_GREY,
            classes=10,
            domain=_HAND,
            label_space="kmnist",
            official=_OF_60K,
            sizes=_40K,
            # The training images are often not at hand.
            pool=("test", 10_000),
            files=idx_files("KMNIST"),
        ),
        DatasetInfo(
            name="emnist-digits",
            shape=_GREY,
            classes=10,
            domain=_HAND,
            label_space="digits",
            official=(("train", 240_000), ("test", 40_000)),
            sizes=_40K,
            pool=_10K,
            files=idx_files(
                "EMNIST",
                ("emnist-digits-train", "emnist-digits-test"),
                {"split": "digits"},
                columns_first=True,
            ),
        ),
        DatasetInfo(
            name="emnist-letters",
            shape=_GREY,
            classes=26,
            domain=_HAND,
            label_space="letters",
            official=(("train", 124_800), ("test", 20_800)),
            sizes=_40K,
            # As many as publications send.
            pool=("train", 50_000),
            files=idx_files(
                "EMNIST",
                ("emnist-letters-train", "emnist-letters-test"),
                {"split": "letters"},
                columns_first=True,
                first_class=1,
            ),
        ),
        DatasetInfo(
            name="usps",
            shape=(1, 16, 16),
            classes=10,
            domain=_HAND,
            label_space="digits",
            official=(("train", 7_291), ("test", 2_007)),
            sizes=(4_291, 1_000, 2_000, 2_007),
            pool=("train", 7_291),
            files=TorchvisionFiles(
                "USPS",
                {"train": ("usps.bz2",), "test": ("usps.t.bz2",)},
                count_by_bytes({"usps.bz2": 6_579_383, "usps.t.bz2": 1_831_726}),
            ),
        ),
        DatasetInfo(
            name="cifar10",
            shape=(3, 32, 32),
            classes=10,
            domain="photographs",
            label_space="cifar10",
            official=(("train", 50_000), ("test", 10_000)),
            sizes=(30_000, 10_000, 10_000, 10_000),
            pool=_10K,
            files=TorchvisionFiles(
                "CIFAR10",
                {
                    "train": tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
                    "test": ("cifar-10-batches-py/test_batch",),
                },
                count_pickles,
            ),
        ),
        DatasetInfo(
            name="breast-cancer",
            shape=breast_cancer.SPACE.shape,
            classes=2,
            domain="medicine",
            label_space="breast-cancer",
            official=(("all", 569),),
            sizes=(200, 69, 150, 150),
            pool=("all", 569),
            files=breast_cancer.BreastCancer(),
            expected={"logistic": 0.93, "tree": 0.85, "forest": 0.9, "boosting": 0.9, "mlp": 0.92},
            space=breast_cancer.SPACE,
        ),
        DatasetInfo(
            name="adult",
            shape=adult.SPACE.shape,
            classes=2,
            domain="census",
            label_space="adult",
            official=(("train", 32_561), ("test", 16_281)),
            sizes=(12_000, 3_000, 10_000, 8_000),
            pool=("train", 10_000),
            files=adult.AdultFiles(),
            expected={"logistic": 0.84, "tree": 0.84, "forest": 0.85, "boosting": 0.86, "mlp": 0.84},
            space=adult.SPACE,
            shifted=adult.from_elsewhere,
            # Without people from elsewhere; of the test rows, those that equal no other are 11,500 at least.
            usable=(29_753, 11_500),
            groups=("sex", "race"),
        ),
    )
}


@dataclass(frozen=True)
class Labelled:
    """Inputs ``x`` (n, …) float32, images in [0, 1] unless a space says more, and classes ``y`` (n,) int64.

    ``known_digest``: their digest, where it is known already. ``labelled``: False where classes are not known
    and the victim's own answers stand for them, which no attacker may see.
    """

    x: Images
    y: Labels
    known_digest: str = field(default="", compare=False, repr=False)
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, which: NDArray[np.bool_] | Indices) -> Labelled:
        """Return some of the rows."""
        return Labelled(np.ascontiguousarray(self.x[which]), self.y[which], labelled=self.labelled)

    @property
    def digest(self) -> str:
        """SHA-256 of images and labels: ``known_digest``, or computed now."""
        return self.known_digest or digest(self.x, self.y)


@dataclass(frozen=True)
class Splits:
    """A victim's data: it is trained on ``train``, defenses are fitted on ``calibration``.

    ``pool`` is what an in-distribution attacker has; everything is measured on ``test``. The four are
    disjoint unless they follow official splits, see :func:`split_indices`. ``space``: what inputs may be;
    None where every value may be any number in [0, 1]. ``shifted``: a group that is in none of the splits,
    and ``public``: inputs that anyone can get, for the pools of these names. ``groups``: columns of ``space``
    for whose values utility loss is measured apart. ``notes``: what a reader of results should know of the
    splits, a sentence each.
    """

    train: Labelled
    calibration: Labelled
    pool: Labelled
    test: Labelled
    classes: int
    space: InputSpace | None = None
    shifted: Labelled | None = None
    public: Labelled | None = None
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> InputSpace:
        """What inputs may be: ``space``, or values in [0, 1] of the test inputs' shape."""
        return self.space or InputSpace(self.test.x.shape[1:])


def info(name: str) -> DatasetInfo:
    """Return what is known about a data set; raises UsageError with the nearest names."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


DISJOINT, OFFICIAL = "disjoint", "official"
SIZES = re.compile(r"\d{1,9}(/\d{1,9}){3}")
"""Splits that are given by their sizes."""
OFFICIAL_TRAIN = 0.8
"""Share of a data set without official splits that published studies train on: most often this."""


PARTS = ("train", "calibration", "pool", "test")


def requested_sizes(name: str, splits: str) -> tuple[int, int, int, int]:
    """Return how many images go to train, calibration, pool and test.

    ``splits``: "disjoint" for the data set's own sizes, or four sizes as "500/150/297/850". Raises
    UsageError for any other text, and for more images than the data set has.
    """
    dataset = info(name)
    if splits == DISJOINT:
        return dataset.sizes
    if not SIZES.fullmatch(splits):
        raise UsageError(
            f"splits {shown(splits)} is not known; disjoint, official, or the sizes of training, "
            "calibration, pool and test split are allowed, as 700/150/500/447"
        )
    train, calibration, pool, test = (int(size) for size in splits.split("/"))
    if not all((train, calibration, pool, test)):
        raise UsageError(f"splits {splits} leave a split without {dataset.noun}")
    first, last = train + calibration + pool, test
    has, *rest = dataset.usable or [images for _, images in dataset.official]
    what = dataset.noun
    if not rest and first + last > has:
        raise UsageError(f"splits {splits} ask for {first + last:,} {what}; {name} has {has:,}")
    if rest and (first > has or last > rest[0]):
        raise UsageError(
            f"splits {splits} ask for {first:,} and {last:,} {what}; {name} has {has:,} for training, "
            f"calibration and pool, and {rest[0]:,} for test"
        )
    return train, calibration, pool, test


def split_sizes(name: str, splits: str = DISJOINT) -> dict[str, int]:
    """Return the numbers of images that :func:`split_indices` gives to train, calibration, pool and test.

    Raises UsageError as :func:`requested_sizes` does.
    """
    dataset = info(name)
    if splits != OFFICIAL:
        return dict(zip(PARTS, requested_sizes(name, splits), strict=True))
    sizes = dict(zip(PARTS, dataset.sizes, strict=True))
    every = dataset.official[0][1]
    if len(dataset.official) > 1:
        return sizes | {"train": every, "test": dataset.official[1][1]}
    known = int(OFFICIAL_TRAIN * every)
    return sizes | {"train": known, "test": every - known}


def split_indices(name: str, seed: int, splits: str = DISJOINT) -> dict[str, Indices]:
    """Return the row numbers of train, calibration, pool and test, a function of name, seed and splits.

    ``splits``: "disjoint", four sizes as "500/150/297/850", or "official". "test" numbers rows of the
    official test split, the others those of the training split; digits has only one split. The four are
    disjoint, unless they are official: then "train" and "test" are the whole official splits (digits: 80 %
    and the rest), and calibration and pool are drawn from "train". Raises UsageError as
    :func:`requested_sizes` does.
    """
    dataset = info(name)
    rng = np.random.default_rng(derive("splits", name, seed))
    rows = rng.permutation(dataset.official[0][1])
    if splits == OFFICIAL:
        _, calibration, pool, _ = dataset.sizes
        single = len(dataset.official) == 1
        known, rest = np.split(rows, [int(OFFICIAL_TRAIN * len(rows))]) if single else (rows, rows[:0])
        return {
            "train": np.sort(known),
            "calibration": known[:calibration],
            "pool": known[calibration : calibration + pool],
            "test": np.sort(rest) if single else np.arange(dataset.official[1][1]),
        }
    train, calibration, pool, test = requested_sizes(name, splits)
    first, second, third, rest = np.split(rows, np.cumsum([train, calibration, pool]))
    if len(dataset.official) > 1:
        rest = rng.permutation(dataset.official[1][1])
    return {"train": first, "calibration": second, "pool": third, "test": np.sort(rest[:test])}


def split_table(
    name: str, seed: int, splits: str, every: Images, tested: Images
) -> tuple[dict[str, Indices], Indices, int]:
    """Return the row numbers of a table's four splits and of its shifted group, and how many are left out.

    ``every``, ``tested``: all rows (n, columns) of the official training and test split. "test" numbers rows
    of ``tested``, all others those of ``every``. The shifted group is in none of the four. Rows of ``tested``
    that equal one of train, calibration or pool in every column are not in "test", but counted. Official
    splits are as they are: with the group, and with such rows. Raises UsageError as :func:`requested_sizes`
    does.
    """
    dataset = info(name)
    if splits == OFFICIAL or dataset.shifted is None:
        return split_indices(name, seed, splits), np.zeros(0, np.int64), 0
    train, calibration, pool, test = requested_sizes(name, splits)
    rng = np.random.default_rng(derive("splits", name, seed))
    order, last = rng.permutation(len(every)), rng.permutation(len(tested))
    apart = dataset.shifted(every)
    order, last = order[~apart[order]], last[~dataset.shifted(tested)[last]]
    order = order[: train + calibration + pool]
    seen = {row.tobytes() for row in every[order]}
    fresh = np.array([row.tobytes() not in seen for row in tested[last]], dtype=bool)
    first, second, third = np.split(order, np.cumsum([train, calibration]))
    parts = {"train": first, "calibration": second, "pool": third, "test": np.sort(last[fresh][:test])}
    return parts, np.flatnonzero(apart), int((~fresh).sum())
