"""Pools of inputs that an attacker can send: real ones, made ones, or mixtures of both.

Whatever is made keeps to the victim's space of inputs. Importing this module is cheap; torch and scikit-learn
are imported where inputs are made.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from attacks.base import Pool
from bench.data.data_files import load_pool_source, require_split
from bench.data.datasets import DATASETS, Labelled, Splits
from bench.data.made_inputs import OWNED, drawn, in_range, marginals, permuted, perturbed
from bench.encoding import Encoding
from bench.errors import NotApplicable, UsageError, nearest
from bench.inputs import LAYOUTS, InputSpace, Layout
from bench.seeds import derive

Inputs = NDArray[np.float32]
Shape = tuple[int, int, int]

_DATALESS = ("noise", "gaussian-noise", "sparse-noise", "synthetic", "glyphs", "none")
_OWN_SPLITS = ("in-distribution", "train", "test")
_BROUGHT = ("shifted", "public")

POOLS = (
    *_OWN_SPLITS,
    *_DATALESS,
    "marginals",
    "perturbed",
    *_BROUGHT,
    "permuted",
    *DATASETS,
    *(f"blend:{name}" for name in DATASETS),
)
"""Every pool.

The victim's pool split, and its training and test split, as in some published studies. Without real data:
uniform, normal and sparse noise, drawn strokes, drawn digits, and the empty pool. Values of the pool split,
each column (or pixel) drawn for itself; 50 inputs of it, changed. Where a victim brings them: a group that
its splits leave out, and inputs that anyone can get. The pool split under one fixed permutation of its
pixels. Any data set. The mean of the pool split and any data set. No detector was designed for the
permutation and the means."""


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


def unavailable(pool_name: str, victim_data: str, layout: Layout, sizes: Mapping[str, int]) -> str:
    """Return why a victim has no such pool, or an empty string.

    ``layout``: of its inputs. ``sizes``: of what it brings: "shifted" and "public".
    """
    if pool_name in _OWN_SPLITS or _is_own(pool_name, victim_data):
        return ""
    if pool_name in _BROUGHT and not sizes.get(pool_name):
        what = "leave a group out (shift)" if pool_name == "shifted" else "come with public inputs (public)"
        return f"it needs a victim whose splits {what}"
    source = DATASETS.get(data_set(pool_name))
    has = LAYOUTS[len(source.shape)] if source else layout
    if pool_name in ("synthetic", "glyphs", "permuted"):
        has = "images"
    if has != layout:
        return f"it has {_NAMES[has]}, and the inputs of {victim_data} are {_NAMES[layout]}"
    if source and layout == "table":
        return f"it has other columns than the inputs of {victim_data}"
    if layout == "table" and pool_name in ("gaussian-noise", "sparse-noise"):
        return "it is for images and sequences; noise and marginals are for tables, too"
    return ""


_NAMES: Mapping[Layout, str] = {"images": "images", "sequences": "sequences", "table": "rows of a table"}


def size(pool_name: str, victim_data: str, sizes: Mapping[str, int]) -> int:
    """Return the number of inputs in a pool, without loading any; raises as :func:`access` does.

    ``sizes``: of the victim's splits "train", "pool" and "test", and of "shifted" and "public" where there
    are such inputs.
    """
    kind = access(pool_name, victim_data)
    if pool_name == "none":
        return 0
    if kind == "none" or pool_name in ("marginals", "perturbed"):
        shape = DATASETS[victim_data].shape if victim_data in DATASETS else ()
        return 2_000 if len(shape) == 3 and shape[1] < 28 else 10_000
    if pool_name in _BROUGHT:
        return sizes.get(pool_name, 0)
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
    """Return a pool in the victim's space of inputs; it depends on the arguments and the data in ``root``.

    Real inputs and drawn digits keep their labels; those of other made inputs are seeded k-means clusters.
    Its ``reference`` is always the victim's pool split. Raises UsageError for an unknown pool,
    MissingDataError if its data set is not in ``root``, NotApplicable for one that this victim cannot have.
    """
    kind = access(pool_name, victim_data)
    own, overlaps = splits.pool, pool_name if pool_name in ("train", "test") else ""
    brought = {name: getattr(splits, name) for name in _BROUGHT if getattr(splits, name) is not None}
    sizes = {name: len(part) for name, part in brought.items()}
    if reason := unavailable(pool_name, victim_data, splits.inputs.layout, sizes):
        raise NotApplicable(f"pool {pool_name!r}: {reason}")
    same_classes, source = kind != "none", own
    if kind == "in-distribution" or pool_name in brought:
        source = getattr(splits, pool_name if pool_name in brought else overlaps or "pool")
        x, y = source.x, source.y
    elif kind == "none":
        x, y = _dataless(pool_name, victim_data, splits, seed)
        same_classes = pool_name == "glyphs" and _label_space(victim_data) == "digits"
    elif pool_name in DATASETS:
        other = _source(pool_name, victim_data, own, splits.inputs, root)
        x, y = other.x, other.y
        same_classes = _label_space(pool_name) == _label_space(victim_data)
    else:
        stream = derive("pool", pool_name, victim_data, seed)
        rng = np.random.default_rng(stream)
        number = size(pool_name, victim_data, {"pool": len(own)})
        if pool_name == "marginals":
            x, same_classes = marginals(own.x, number, rng), False
            y = clusters(x, splits.classes, stream, splits.inputs)
        elif pool_name == "perturbed":
            owned = rng.permutation(len(own))[:OWNED]
            rows = rng.integers(len(owned), size=number)
            x, y = perturbed(own.x[owned], rows, splits.inputs, rng), own.y[owned][rows]
        else:
            x, y = _altered(pool_name, victim_data, own, splits.inputs, rng, root), own.y
    if same_classes and not source.labelled and pool_name not in DATASETS:
        # Their labels are the victim's answers, which an attacker has to buy.
        same_classes = False
        y = clusters(x, splits.classes, derive("pool", pool_name, victim_data, seed), splits.inputs)
    return Pool(pool_name, x, y, kind, same_classes, overlaps=overlaps, reference=own.x)


def _dataless(
    pool_name: str, victim_data: str, splits: Splits, seed: int
) -> tuple[Inputs, NDArray[np.int64]]:
    """Return made inputs and their labels."""
    inputs = splits.inputs
    shape = inputs.shape
    if pool_name == "none":
        return np.zeros((0, *shape), np.float32), np.zeros(0, np.int64)
    number = size(pool_name, victim_data, {})
    stream = derive("pool", pool_name, victim_data, seed)
    rng = np.random.default_rng(stream)
    x, digits = drawn(pool_name, number, inputs, rng)
    return x, clusters(x, splits.classes, stream, inputs) if digits is None else digits


def _altered(
    pool_name: str, victim_data: str, own: Labelled, inputs: InputSpace, rng: np.random.Generator, root: Path
) -> Inputs:
    """Return the victim's pool split (n, c, h, w), permuted or blended."""
    if pool_name == "permuted":
        return permuted(own.x, rng)
    other = _source(pool_name.removeprefix("blend:"), victim_data, own, inputs, root)
    partner = np.resize(rng.permutation(len(other)), len(own.x))
    blend: Inputs = (own.x + other.x[partner]) / np.float32(2)
    return blend


def _is_own(pool_name: str, victim_data: str) -> bool:
    return pool_name in ("in-distribution", victim_data)


def _label_space(data: str) -> str:
    return DATASETS[data].label_space if data in DATASETS else f"the labels of {data}"


def _source(name: str, victim_data: str, own: Labelled, inputs: InputSpace, root: Path) -> Labelled:
    if _is_own(name, victim_data):
        return own
    other = load_pool_source(name, root)
    channels, height, width = inputs.shape
    if other.x.shape[1:] == inputs.shape and inputs.unit:
        return other
    x = other.x if other.x.shape[1:] == inputs.shape else resize(other.x, (channels, height, width))
    return Labelled(in_range(x, inputs), other.y)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)


def resize(x: Inputs, shape: Shape) -> Inputs:
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


def clusters(x: Inputs, classes: int, seed: int, inputs: InputSpace | None = None) -> NDArray[np.int64]:
    """Return (n,) int64 cluster labels of encoded inputs: seeded mini-batch k-means (Sculley 2010).

    ``inputs``: what inputs may be; None for images in [0, 1].
    """
    from sklearn.cluster import MiniBatchKMeans  # takes a second
    from sklearn.exceptions import ConvergenceWarning

    encoded = Encoding.fit(inputs or InputSpace(x.shape[1:]), x)(x).reshape(len(x), -1)
    model = MiniBatchKMeans(classes, n_init=3, random_state=seed % 2**32)
    # One thread sums in one order, so that labels are reproducible.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # A table may have fewer distinct rows than there are classes.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit_predict(encoded), dtype=np.int64)
