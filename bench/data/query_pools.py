"""Pools of inputs that an attacker can send: real images, synthetic images, or mixtures of both.

Importing this module is cheap; torch and scikit-learn are imported where pixels are made.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from attacks.base import Pool
from bench.data.data_files import load_pool_source, require_split
from bench.data.datasets import DATASETS, Labelled, Splits
from bench.data.synthetic_images import draw_glyphs, draw_strokes
from bench.errors import UsageError, nearest
from bench.seeds import derive

Images = NDArray[np.float32]
Shape = tuple[int, int, int]

_DATALESS = ("noise", "gaussian-noise", "sparse-noise", "synthetic", "glyphs", "none")
_OWN_SPLITS = ("in-distribution", "train", "test")

POOLS = (
    *_OWN_SPLITS,
    *_DATALESS,
    "permuted",
    *DATASETS,
    *(f"blend:{name}" for name in DATASETS),
)
"""Every pool.

The victim's pool split, and its training and test split, as in some published studies. Without real data:
uniform, normal and sparse noise, drawn strokes, drawn digits, and the empty pool. The pool split under one
fixed permutation of its pixels. Any data set. The mean of the pool split and any data set. No detector was
designed for the permutation and the means."""


def access(pool_name: str, victim_data: str) -> str:
    """Return an attacker's access to data: "in-distribution", "near", "far" or "none" (no real data).

    A data set of the victim's domain is near, any other is far. For a user's own victim (a ``victim_data``
    that is not among :data:`bench.data.datasets.DATASETS`) all are far. Near is by domain, not by pixels:
    MNIST and EMNIST are taken from the same forms (NIST Special Database 19) and share writers.
    Raises UsageError with the nearest names for an unknown pool.
    """
    if pool_name not in POOLS:
        raise UsageError(f"unknown pool {pool_name!r}; {nearest(pool_name, POOLS)}")
    if pool_name in _OWN_SPLITS or _is_own(pool_name, victim_data):
        return "in-distribution"
    if pool_name in _DATALESS:
        return "none"
    if pool_name not in DATASETS:
        return "near"
    victim = DATASETS.get(victim_data)
    return "near" if victim and victim.domain == DATASETS[pool_name].domain else "far"


def size(pool_name: str, victim_data: str, sizes: Mapping[str, int]) -> int:
    """Return the number of inputs in a pool, without loading any; raises as :func:`access` does.

    ``sizes``: of the victim's splits "train", "pool" and "test".
    """
    kind = access(pool_name, victim_data)
    if pool_name == "none":
        return 0
    if kind == "none":
        small = victim_data in DATASETS and DATASETS[victim_data].shape[1] < 28
        return 2_000 if small else 10_000
    if pool_name in ("train", "test"):
        return sizes[pool_name]
    if kind == "in-distribution" or pool_name not in DATASETS:
        return sizes["pool"]
    return DATASETS[pool_name].pool[1]


def data_set(pool_name: str) -> str:
    """Return the name of the data set whose images a pool has, if it has any: its own, or those it blends."""
    return pool_name.removeprefix("blend:")


def require(pool_name: str, root: Path) -> None:
    """Raise MissingDataError if the data set behind a pool is not in ``root``; reads headers only."""
    name = data_set(pool_name)
    if name in DATASETS:
        require_split(name, DATASETS[name].pool[0], root)


def load(pool_name: str, *, victim_data: str, splits: Splits, seed: int, root: Path) -> Pool:
    """Return a pool in the victim's input shape; it depends on the arguments and the data in ``root`` alone.

    Real images and drawn digits keep their labels; those of noise and of strokes are seeded k-means
    clusters. Its ``reference`` is always the victim's pool split. Raises UsageError for an unknown pool,
    MissingDataError if its data set is not in ``root``.
    """
    kind = access(pool_name, victim_data)
    own, overlaps = splits.pool, pool_name if pool_name in ("train", "test") else ""
    same_classes = kind != "none"
    if kind == "in-distribution":
        source: Labelled = getattr(splits, overlaps or "pool")
        x, y = source.x, source.y
    elif kind == "none":
        x, y = _dataless(pool_name, victim_data, splits, seed)
        same_classes = pool_name == "glyphs" and _label_space(victim_data) == "digits"
    elif pool_name in DATASETS:
        other = _source(pool_name, victim_data, own, root)
        x, y = other.x, other.y
        same_classes = _label_space(pool_name) == _label_space(victim_data)
    else:
        rng = np.random.default_rng(derive("pool", pool_name, victim_data, seed))
        x, y = _altered(pool_name, victim_data, own, rng, root), own.y
    return Pool(pool_name, x, y, kind, same_classes, overlaps=overlaps, reference=own.x)


def _dataless(
    pool_name: str, victim_data: str, splits: Splits, seed: int
) -> tuple[Images, NDArray[np.int64]]:
    """Return synthetic images and their labels."""
    channels, height, width = shape = splits.pool.x.shape[1:]
    if pool_name == "none":
        return np.zeros((0, *shape), np.float32), np.zeros(0, np.int64)
    number = size(pool_name, victim_data, {})
    stream = derive("pool", pool_name, victim_data, seed)
    rng = np.random.default_rng(stream)
    if pool_name == "glyphs":
        drawn, digits = draw_glyphs(number, height, width, rng)
        return np.repeat(drawn, channels, axis=1), digits
    if pool_name == "noise":
        x = rng.random((number, *shape), dtype=np.float32)
    elif pool_name == "gaussian-noise":
        x = np.clip(rng.normal(0.5, 0.25, (number, *shape)), 0, 1).astype(np.float32)
    elif pool_name == "sparse-noise":
        x = _sparse(rng, (number, *shape))
    else:
        x = np.repeat(draw_strokes(number, height, width, rng), channels, axis=1)
    return x, clusters(x, splits.classes, stream)


def _sparse(rng: np.random.Generator, shape: tuple[int, ...]) -> Images:
    """Return images (n, c, h, w) with the histogram of handwriting: most pixels 0, the others mostly near 1.

    10 to 50 % of an image's pixels are not 0; their value v has the density 1 / (2 √(1 - v)).
    """
    inked = rng.random(shape, dtype=np.float32) < rng.uniform(0.1, 0.5, (shape[0], 1, 1, 1))
    return np.where(inked, 1 - rng.random(shape, dtype=np.float32) ** 2, np.float32(0))


def _altered(pool_name: str, victim_data: str, own: Labelled, rng: np.random.Generator, root: Path) -> Images:
    """Return the victim's pool split (n, c, h, w), permuted or blended."""
    number, channels, height, width = own.x.shape
    if pool_name == "permuted":
        order = rng.permutation(height * width)
        return own.x.reshape(number, channels, -1)[:, :, order].reshape(own.x.shape)
    other = _source(pool_name.removeprefix("blend:"), victim_data, own, root)
    partner = np.resize(rng.permutation(len(other)), number)
    blend: Images = (own.x + other.x[partner]) / np.float32(2)
    return blend


def _is_own(pool_name: str, victim_data: str) -> bool:
    return pool_name in ("in-distribution", victim_data)


def _label_space(data: str) -> str:
    return DATASETS[data].label_space if data in DATASETS else f"the labels of {data}"


def _source(name: str, victim_data: str, own: Labelled, root: Path) -> Labelled:
    if _is_own(name, victim_data):
        return own
    other = load_pool_source(name, root)
    channels, height, width = own.x.shape[1:]
    if other.x.shape[1:] == own.x.shape[1:]:
        return other
    return Labelled(resize(other.x, (channels, height, width)), other.y)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)


def resize(x: Images, shape: Shape) -> Images:
    """Return images (n, c, h, w) in [0, 1] resized to ``shape`` (c, h, w): bilinear, antialiased, clipped.

    Colour becomes grey by the luma weights of ITU-R BT.601; grey becomes colour by repetition.
    """
    import torch  # takes seconds

    channels, height, width = shape
    if x.shape[1] == 3 and channels != 3:
        x = np.sum(x * _LUMA, axis=1, keepdims=True, dtype=np.float32)
    if x.shape[2:] != (height, width):
        x = torch.nn.functional.interpolate(
            torch.from_numpy(x), size=(height, width), mode="bilinear", antialias=True
        ).numpy()
    if x.shape[1] != channels:
        x = np.repeat(x, channels, axis=1)
    return np.ascontiguousarray(np.clip(x, 0, 1), dtype=np.float32)


def clusters(x: Images, classes: int, seed: int) -> NDArray[np.int64]:
    """Return (n,) int64 cluster labels of images: seeded mini-batch k-means (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans  # takes a second

    model = MiniBatchKMeans(classes, n_init=3, random_state=seed % 2**32)
    with threadpool_limits(limits=1):  # sums in one order, so that labels are reproducible
        return np.asarray(model.fit_predict(x.reshape(len(x), -1)), dtype=np.int64)
