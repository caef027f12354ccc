"""What a victim's splits are recognised by: a digest of every byte, and a sketch that rounding leaves alone.

Data of a user's may be computed (scaled, cropped, decoded), and then their last bits depend on the processor.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Splits
from bench.run_facts import DataSketch

PARTS = ("train", "calibration", "pool", "test")
"""The splits of a victim, in the order of digest and sketch."""
SIGNS = 20261129
"""Seed of the signs in a projection."""


def data_digest(splits: Splits) -> str:
    """Return the SHA-256 of the digests of all splits."""
    return hashlib.sha256("".join(getattr(splits, part).digest for part in PARTS).encode()).hexdigest()


def data_sketch(splits: Splits) -> DataSketch:
    """Return the digest of all labels, and a projection of the inputs of each split."""
    labels = hashlib.sha256()
    for part in PARTS:
        y = getattr(splits, part).y
        labels.update(f"{part} {len(y)} ".encode() + y.astype("<i8").tobytes())
    inputs = [projection(getattr(splits, part).x) for part in PARTS]
    return DataSketch(labels=labels.hexdigest(), inputs=inputs)


def projection(x: NDArray[np.float32]) -> float:
    """Return r'Xp / √(nd) of inputs (n, …) of d values each, with fixed signs r (n,) and p (d,).

    Rounding in the last bit of every value moves it by about 1e-7. Another image among n moves it by their
    distance over √(nd): .01 for one of 700 images of 64 pixels, 1e-3 for one of 40,000 of 784.
    """
    rows = x.reshape(len(x), -1)
    values = (rows @ _signs(rows.shape[1], 1).astype(np.float32)).astype(np.float64)
    return float(f"{values @ _signs(len(rows), 2) / np.sqrt(rows.size):.9g}")


def _signs(n: int, stream: int) -> NDArray[np.float64]:
    """Return ``n`` signs from the raw bits of a generator, which are the same in every version of NumPy."""
    bits = np.random.PCG64([SIGNS, stream]).random_raw(n) >> np.uint64(63)
    return 1.0 - 2.0 * bits.astype(np.float64)
