"""Strong augmentation of images, as FixMatch has it: two random changes and a hidden square.

Cubuk et al. 2020, "RandAugment"; DeVries, Taylor 2017, "Cutout"; Sohn et al. 2020, "FixMatch".
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

CHANGES = 2
"""Changes of one image, of the seven: rotation, two shears, two shifts, contrast and brightness."""
ROTATION = np.pi / 6
"""Largest angle, in radians."""
SHEAR = 0.3
TRANSLATION = 0.3
"""Largest shift, as a share of height or width."""
FACTOR = 0.9
"""Contrast and brightness are multiplied by 1 - FACTOR to 1 + FACTOR."""
HIDDEN = 0.5
"""Largest side of the hidden square, as a share of the shorter side."""

Wide = NDArray[np.float64]


def strong(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a strong view of each image (n, channels, height, width) in [0, 1].

    Two of the seven changes are drawn for each image, with magnitudes uniform up to the limits above. Last,
    a square of random place and size gets the mean of its channel.
    """
    if not len(x):
        return x
    amounts = changes(len(x), rng)
    moved = _moved(x, amounts[:, :5])
    contrast, brightness = (_column(1 + FACTOR * amounts[:, number]) for number in (5, 6))
    mean = moved.mean(dim=(2, 3), keepdim=True)
    coloured = moved.sub_(mean).mul_(contrast).add_(mean).mul_(brightness).clamp_(0, 1)
    return _with_a_hidden_square(coloured, rng.random((len(x), 3)))


def changes(n: int, rng: np.random.Generator) -> Wide:
    """Return (n, 7) magnitudes in [-1, 1], of which all but :data:`CHANGES` in each row are 0."""
    amounts = rng.uniform(-1, 1, (n, 7))
    rank = rng.random((n, 7)).argsort(axis=1).argsort(axis=1)
    return np.where(rank < CHANGES, amounts, 0)


def _moved(x: Tensor, amounts: Wide) -> Tensor:
    """Return images rotated, sheared and shifted, bilinear; ``amounts``: (n, 5), in this order."""
    angle, shear_x, shear_y, shift_x, shift_y = (amounts * [ROTATION, SHEAR, SHEAR, 1, 1]).T
    cosine, sine = np.cos(angle), np.sin(angle)
    # Coordinates run from -1 to 1 over the image, so that a shift by its whole width is 2.
    rows = [
        [cosine - sine * shear_y, cosine * shear_x - sine, 2 * TRANSLATION * shift_x],
        [sine + cosine * shear_y, sine * shear_x + cosine, 2 * TRANSLATION * shift_y],
    ]
    height, width = x.shape[2:]
    across, down = (((torch.arange(side) + 0.5) * 2 / side - 1) for side in (width, height))
    # torch's affine_grid multiplies matrices of three columns, and takes longer than the sampling.
    places = torch.empty(len(x), height, width, 2)
    for number, row in enumerate(rows):
        by_x, by_y, offset = (torch.from_numpy(part.astype(np.float32))[:, None] for part in row)
        by_row = torch.addcmul(offset, by_y, down)
        torch.add((by_x * across)[:, None, :], by_row[:, :, None], out=places[..., number])
    return functional.grid_sample(x, places, padding_mode="reflection", align_corners=False)


def _with_a_hidden_square(x: Tensor, drawn: Wide) -> Tensor:
    """Return images with a square of the channel's mean; ``drawn``: (n, 3) in [0, 1), side and centre."""
    height, width = x.shape[2:]
    half = drawn[:, :1] * HIDDEN * min(height, width) / 2
    hidden = [
        np.abs(np.arange(side) + 0.5 - drawn[:, place, None] * side) < half
        for place, side in ((1, height), (2, width))
    ]
    inside = torch.from_numpy(hidden[0][:, None, :, None] & hidden[1][:, None, None, :])
    return torch.where(inside, x.mean(dim=(2, 3), keepdim=True), x)


def _column(values: Wide) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]
