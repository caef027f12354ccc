"""Augmentation: random views of inputs that should show what the inputs show.

Images are shifted. All other inputs have some of their values replaced by those of other inputs, so that a
whole number stays whole, a category stays one of its column, and a value may be missing where others are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Layout

Array = NDArray[np.float32]

SHIFT = 8
"""An image is shifted by at most its height or width divided by this, and by at most one pixel if smaller."""
WEAK, STRONG = 0.1, 0.3
"""Probability that a value of a table or a sequence is replaced in a weak and in a strong view."""


@dataclass(frozen=True)
class Augmentation:
    """Random views of inputs of one layout.

    ``own``: inputs (m, …) that the attacker has, from which replaced values are taken, each column from an
    input of its own. ``widths``: of encoded rows, the number of adjacent entries that stand for one column
    and are replaced together (:attr:`bench.encoding.Encoding.widths`); empty if each entry is a column.
    """

    layout: Layout
    own: Array
    widths: tuple[int, ...] = ()

    def weak(self, x: Array, rng: np.random.Generator) -> Array:
        """Return a weak view of each input (n, …): images :func:`shifted`, others :func:`masked`."""
        if self.layout == "images":
            return shifted(x, rng)
        return masked(x, self.own, WEAK, rng, self.widths)

    def strongly_masked(self, x: Array, rng: np.random.Generator) -> Array:
        """Return a strong view of each input (n, …) that is no image."""
        return masked(x, self.own, STRONG, rng, self.widths)


def shifted(x: Array, rng: np.random.Generator) -> Array:
    """Return images (n, channels, height, width), each shifted at random; borders are reflected.

    Every whole number of pixels within :data:`SHIFT` is equally likely, in each direction.
    """
    height, width = x.shape[2:]
    down, across = (min(max(1, side // SHIFT), side - 1) for side in (height, width))
    corner = (rng.random((len(x), 2)) * (2 * down + 1, 2 * across + 1)).astype(np.intp)
    windows = np.lib.stride_tricks.sliding_window_view(
        _reflected(x, down, across), (height, width), axis=(2, 3)
    )
    result: Array = windows[np.arange(len(x)), :, corner[:, 0], corner[:, 1]]
    return result


def _reflected(x: Array, down: int, across: int) -> Array:
    """Return what ``np.pad`` returns with mode "reflect", which takes several times as long on few images."""
    height, width = x.shape[2:]
    padded = np.empty((*x.shape[:2], height + 2 * down, width + 2 * across), np.float32)
    padded[:, :, down : down + height, across : across + width] = x
    for away in range(1, across + 1):
        padded[..., across - away] = padded[..., across + away]
        padded[..., across + width - 1 + away] = padded[..., across + width - 1 - away]
    for away in range(1, down + 1):
        padded[:, :, down - away] = padded[:, :, down + away]
        padded[:, :, down + height - 1 + away] = padded[:, :, down + height - 1 - away]
    return padded


def masked(
    x: Array, own: Array, share: float, rng: np.random.Generator, widths: tuple[int, ...] = ()
) -> Array:
    """Return inputs (n, …) of which each column is replaced with probability ``share``.

    The new value is that of a random input of ``own`` (m, …), drawn for each column alone: a draw from the
    column's marginal distribution. ``widths``: as in :class:`Augmentation`. Without ``own`` inputs nothing
    is replaced.
    """
    if not len(own) or not len(x):
        return x.copy()
    flat, donors = x.reshape(len(x), -1), own.reshape(len(own), -1)
    columns = len(widths) or flat.shape[1]
    # One draw for both, so that the views of the first inputs do not depend on how many there are.
    drawn = rng.random((len(x), columns, 2))
    if widths:
        drawn = np.repeat(drawn, widths, axis=1)
    donor = (drawn[..., 1] * len(own)).astype(np.intp)
    result: Array = np.where(drawn[..., 0] < share, donors[donor, np.arange(flat.shape[1])], flat)
    return result.reshape(x.shape)
