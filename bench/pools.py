"""Pools: what a thief can send. Real images, images made of nothing, or mixtures of both.

Importing this module is cheap; torch and scikit-learn are imported where pixels are made.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from attacks.base import Pool
from bench.datasets import DATASETS, Labelled, Splits, load_pool_source, require_split
from bench.errors import UsageError, nearest
from bench.seeds import derive

Images = NDArray[np.float32]
Shape = tuple[int, int, int]

POOLS = (
    *("in-distribution", "noise", "synthetic", "permuted", "none"),
    *DATASETS,
    *(f"blend:{name}" for name in DATASETS),
)
"""Every pool: the victim's own pool split, uniform noise, drawn strokes, the own split under one
fixed permutation of its pixels, nothing at all; any data set; the even blend of the own split with
any data set. The blends and the permutation are what no detector was designed for."""

_DATALESS = ("noise", "synthetic", "none")


def access(pool_name: str, victim_data: str) -> str:
    """Return what a pool gives the thief: "in-distribution", "near", "far" or "none" (no real data).

    A data set of the victim's domain is near, any other far, as all are to a victim of the user's
    own (a ``victim_data`` that is no data set of ours). Near is by domain, not by pixels: MNIST and
    EMNIST are drawn from the same forms (NIST Special Database 19) and share writers.
    Raises UsageError with the nearest names for an unknown pool.
    """
    if pool_name not in POOLS:
        raise UsageError(f"unknown pool {pool_name!r}; {nearest(pool_name, POOLS)}")
    if _is_own(pool_name, victim_data):
        return "in-distribution"
    if pool_name in _DATALESS:
        return "none"
    if pool_name not in DATASETS:
        return "near"
    victim = DATASETS.get(victim_data)
    return "near" if victim and victim.domain == DATASETS[pool_name].domain else "far"


def size(pool_name: str, victim_data: str, in_distribution_size: int) -> int:
    """Return how many inputs a pool holds, without loading any; raises as :func:`access` does."""
    kind = access(pool_name, victim_data)
    if pool_name == "none":
        return 0
    if kind == "none":
        small = victim_data in DATASETS and DATASETS[victim_data].shape[1] < 28
        return 2_000 if small else 10_000
    if kind == "in-distribution" or pool_name not in DATASETS:
        return in_distribution_size
    return DATASETS[pool_name].pool[1]


def require(pool_name: str, root: Path) -> None:
    """Raise MissingDataError if the data set behind a pool is not in ``root``; reads headers only."""
    name = pool_name.removeprefix("blend:")
    if name in DATASETS:
        require_split(name, DATASETS[name].pool[0], root)


def load(pool_name: str, *, victim_data: str, splits: Splits, seed: int, root: Path) -> Pool:
    """Return a pool shaped for the victim: a pure function of its arguments and of the data in ``root``.

    Real images keep their labels; those of noise and synthetic are seeded k-means clusters. Raises
    UsageError for an unknown pool, MissingDataError where its data set is not in ``root``.
    """
    kind = access(pool_name, victim_data)
    number = size(pool_name, victim_data, len(splits.pool))
    stream = derive("pool", pool_name, victim_data, seed)
    rng = np.random.default_rng(stream)
    own = splits.pool
    _, channels, height, width = own.x.shape
    shape = (channels, height, width)
    same_classes = kind != "none"
    if _is_own(pool_name, victim_data):
        x, y = own.x, own.y
    elif pool_name == "none":
        x, y = np.zeros((0, *shape), np.float32), np.zeros(0, np.int64)
    elif pool_name == "noise":
        x = rng.random((number, *shape), dtype=np.float32)
        y = clusters(x, splits.classes, stream)
    elif pool_name == "synthetic":
        x = np.repeat(draw_strokes(number, height, width, rng), channels, axis=1)
        y = clusters(x, splits.classes, stream)
    elif pool_name == "permuted":
        order = rng.permutation(height * width)
        x, y = own.x.reshape(number, channels, -1)[:, :, order].reshape(own.x.shape), own.y
    elif pool_name.startswith("blend:"):
        other = _source(pool_name.removeprefix("blend:"), victim_data, own, shape, root)
        partner = np.resize(rng.permutation(len(other)), number)
        x, y = (own.x + other.x[partner]) / np.float32(2), own.y
    else:
        other = _source(pool_name, victim_data, own, shape, root)
        x, y = other.x, other.y
        same_classes = _label_space(pool_name) == _label_space(victim_data)
    return Pool(name=pool_name, x=x, y=y, access=kind, same_classes=same_classes)


def _is_own(pool_name: str, victim_data: str) -> bool:
    return pool_name in ("in-distribution", victim_data)


def _label_space(data: str) -> str:
    return DATASETS[data].label_space if data in DATASETS else f"the labels of {data}"


def _source(name: str, victim_data: str, own: Labelled, shape: Shape, root: Path) -> Labelled:
    if _is_own(name, victim_data):
        return own
    other = load_pool_source(name, root)
    return Labelled(resize(other.x, shape), other.y)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)


def resize(x: Images, shape: Shape) -> Images:
    """Bring images (n, c, h, w) in [0, 1] to ``shape`` (c, h, w), antialiased bilinear, clipped to [0, 1].

    Colour turns grey by the luma weights of ITU-R BT.601; grey turns colour by repetition.
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
    """Return (n,) int64 labels for images that have none: mini-batch k-means (Sculley 2010), seeded."""
    from sklearn.cluster import MiniBatchKMeans  # takes a second

    model = MiniBatchKMeans(classes, n_init=3, random_state=seed % 2**32)
    with threadpool_limits(limits=1):  # sums in one order: the same labels again
        return np.asarray(model.fit_predict(x.reshape(len(x), -1)), dtype=np.int64)


_KNOTS, _STEPS, _CHUNK = 7, 10, 500


def draw_strokes(number: int, height: int, width: int, rng: np.random.Generator) -> Images:
    """Draw what looks like handwriting, from no data: (number, 1, height, width) in [0, 1].

    Each image is a curved stroke (a chain of quadratic Bézier curves whose heading drifts, so that it
    bends into hooks and loops), in a third of them a short second one; scaled, centred and inked with
    a soft pen of random width.
    """
    with threadpool_limits(limits=1):
        chunks = [
            _ink(_paths(min(_CHUNK, number - start), rng), height, width, rng)
            for start in range(0, number, _CHUNK)
        ]
    return np.concatenate([np.zeros((0, height, width), np.float32), *chunks])[:, None]


def _paths(number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (number, strokes, points, 2): y and x along each stroke, in a box of 1 around 0."""
    bend = rng.uniform(0.2, 1.2, (number, 1)) + rng.normal(0, 0.5, (number, _KNOTS))
    bend *= rng.choice([-1, 1], (number, 1))
    bend *= np.where(np.arange(_KNOTS) < rng.integers(2, 2 * _KNOTS, (number, 1)), 1, -1)  # an S now and then
    heading = rng.uniform(0, 2 * np.pi, (number, 1)) + np.cumsum(bend, axis=1)
    steps = rng.uniform(0.5, 1.5, (number, _KNOTS, 1)) * np.stack([np.sin(heading), np.cos(heading)], axis=2)
    first = _spline(np.cumsum(steps, axis=1))
    last = rng.integers(len(first[0]) // 2, len(first[0]), number)  # where the pen is lifted
    along = np.minimum(np.arange(len(first[0])), last[:, None])
    first = np.take_along_axis(first, along[:, :, None], axis=1)
    low, high = first.min(axis=1, keepdims=True), first.max(axis=1, keepdims=True)
    second = low + (high - low) * rng.random((number, 3, 2))
    second = np.where(rng.random((number, 1, 1)) < 0.35, second, first[:, :1])
    second = _spline(second)
    second = np.pad(second, ((0, 0), (0, len(first[0]) - len(second[0])), (0, 0)), mode="edge")
    both = np.stack([first, second], axis=1)
    tall, wide = np.moveaxis(high - low, 2, 0)[..., None]
    y, x = np.moveaxis(both - (low + high)[:, None] / 2, 3, 0)
    y, x = y / tall, x / wide * np.clip(wide / tall, 0.1, 0.75)  # as tall as a line of writing
    return np.stack([y, x - rng.normal(0.15, 0.1, (number, 1, 1)) * y], axis=3)  # slanted


def _spline(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (n, …, 2) on the quadratic B-spline through the ends of ``knots`` (n, k, 2)."""
    knots = np.concatenate([knots[:, :1], knots, knots[:, -1:]], axis=1)[:, :, None]
    middle = (knots[:, 1:] + knots[:, :-1]) / 2
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    curves = (1 - t) ** 2 * middle[:, :-1] + 2 * t * (1 - t) * knots[:, 1:-1] + t**2 * middle[:, 1:]
    return curves.reshape(len(knots), -1, 2)


def _ink(paths: NDArray[np.float64], height: int, width: int, rng: np.random.Generator) -> Images:
    """Render strokes (n, strokes, points, 2) with a Gaussian pen: (n, height, width) in [0, 1]."""
    number, side = len(paths), min(height, width)
    pen = np.hypot(rng.uniform(0.02, 0.05, (number, 1, 1)) * side, 0.3)  # at least a pixel's own blur
    centre = np.array([height - 1, width - 1]) / 2
    points = paths * (rng.uniform(0.7, 0.85, (number, 1, 1, 1)) * side) + centre
    begin, end = points[:, :, :-1], points[:, :, 1:]
    length = np.linalg.norm(end - begin, axis=3).reshape(number, -1)
    y, x = np.moveaxis(((begin + end) / 2).reshape(number, -1, 2), 2, 0)
    # A Gaussian falls apart into rows and columns, so the pen's pressure is a product of matrices.
    rows = np.exp(-(((np.arange(height)[:, None] - y[:, None]) / pen) ** 2) / 2) * length[:, None]
    columns = np.exp(-(((np.arange(width) - x[:, :, None]) / pen) ** 2) / 2)
    pressure = rows @ columns / (pen * np.sqrt(2 * np.pi))  # 1 in the middle of a straight stroke
    return np.asarray(1 - np.exp(-3 * pressure), dtype=np.float32)
