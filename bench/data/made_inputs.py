"""Inputs that an attacker makes from what is known of a victim's inputs: noise, marginals, changed rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Splits
from bench.data.synthetic_images import draw_glyphs, draw_strokes
from bench.inputs import InputSpace
from bench.seeds import derive

Inputs = NDArray[np.float32]

OWNED = 50
"""Inputs that an attacker owns who changes them."""
SWAPPED = 0.3
"""Share of the values of a row that are exchanged for those of other owned rows."""
JITTER = 0.1
"""Noise on values: of a table in standard deviations of the owned column, else in widths of the range."""
UNIFORM = 2_000
"""Inputs drawn from the whole space of a table or of sequences, to compare models on."""


def in_range(x: Inputs, inputs: InputSpace) -> Inputs:
    """Return inputs (n, …) in [0, 1] scaled to the range of a space without columns."""
    if inputs.unit:
        return x
    low, high = inputs.limits
    return inputs.project(low + x * (high - low))


def sparse(rng: np.random.Generator, shape: tuple[int, ...]) -> Inputs:
    """Return inputs (n, …) with the histogram of handwriting: most values 0, the others mostly near 1.

    10 to 50 % of an input's values are not 0; their value v has the density 1 / (2 √(1 - v)).
    """
    single = (shape[0], *[1] * (len(shape) - 1))
    inked = rng.random(shape, dtype=np.float32) < rng.uniform(0.1, 0.5, single)
    return np.where(inked, 1 - rng.random(shape, dtype=np.float32) ** 2, np.float32(0))


def drawn(
    kind: str, number: int, inputs: InputSpace, rng: np.random.Generator
) -> tuple[Inputs, NDArray[np.int64] | None]:
    """Return ``number`` inputs of a space that need no data, and the classes of drawn digits.

    ``kind``: "noise", "gaussian-noise", "sparse-noise", and of images "synthetic" (strokes) and "glyphs".
    """
    shape = inputs.shape
    if kind == "noise":
        return inputs.uniform(number, rng), None
    if kind == "gaussian-noise":
        x = np.clip(rng.normal(0.5, 0.25, (number, *shape)), 0, 1).astype(np.float32)
        return in_range(x, inputs), None
    if kind == "sparse-noise":
        return in_range(sparse(rng, (number, *shape)), inputs), None
    channels, height, width = shape
    if kind == "glyphs":
        pictures, digits = draw_glyphs(number, height, width, rng)
        return in_range(np.repeat(pictures, channels, axis=1), inputs), digits
    pictures = draw_strokes(number, height, width, rng)
    return in_range(np.repeat(pictures, channels, axis=1), inputs), None


def permuted(images: Inputs, rng: np.random.Generator) -> Inputs:
    """Return images (n, c, h, w) with their pixels in another order, the same for all."""
    number, channels, height, width = images.shape
    order = rng.permutation(height * width)
    return images.reshape(number, channels, -1)[:, :, order].reshape(images.shape)


def marginals(own: Inputs, number: int, rng: np.random.Generator) -> Inputs:
    """Return ``number`` inputs, each value drawn from those that ``own`` (n, …) have in its place."""
    flat = own.reshape(len(own), -1)
    x = np.stack([column[rng.integers(len(own), size=number)] for column in flat.T], axis=1)
    return np.ascontiguousarray(x).reshape(number, *own.shape[1:])


def perturbed(owned: Inputs, rows: NDArray[np.int64], inputs: InputSpace, rng: np.random.Generator) -> Inputs:
    """Return the ``rows`` (n,) of the ``owned`` inputs (m, …), changed within their space.

    Numbers get normal noise; of a row of a table, some values are exchanged for those of other owned rows.
    """
    x = owned[rows]
    if inputs.layout != "table":
        low, high = inputs.limits
        return inputs.project(x + rng.normal(0, JITTER, x.shape) * (high - low))
    exchanged = rng.random(x.shape) < SWAPPED
    others = owned[rng.integers(len(owned), size=x.shape), np.arange(x.shape[1])]
    there = np.maximum((~np.isnan(owned)).sum(axis=0), 1)
    mean = np.nansum(owned, axis=0, dtype=np.float64) / there
    spread = np.sqrt(np.nansum((owned - mean) ** 2, axis=0) / there)
    ordered = np.array([each.kind in ("number", "integer") for each in inputs.columns] or True)
    noise = rng.normal(0, JITTER, x.shape) * spread * ordered
    return inputs.project(np.where(exchanged, others, x) + noise)


def uniform_inputs(splits: Splits, name: str) -> Inputs | None:
    """Return inputs (n, …) drawn uniformly from the space of a victim called ``name``; None for images.

    They belong to no pool. Tramèr et al. 2016 (arXiv 1609.02943, section 2) compare models on such inputs,
    besides those of the victim's distribution: two that agree there may differ in the rest of the space.
    """
    if splits.inputs.layout == "images":
        return None
    return splits.inputs.uniform(UNIFORM, np.random.default_rng(derive("uniform inputs", name)))
