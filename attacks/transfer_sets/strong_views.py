"""Strong views of images, as noise for a student: turned, sheared, shifted, and with a hidden square.

After FixMatch (Sohn et al. 2020), whose strong views are RandAugment (Cubuk et al. 2020) and Cutout (DeVries,
Taylor 2017). Values stay within the range of the image, so images need not be in [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Array = NDArray[np.float64]

ROTATION = np.pi / 6
"""Largest angle, in radians."""
SHEAR = 0.3
SHIFT = 0.15
"""Largest shift, as a share of height or width."""
HIDDEN = 0.5
"""Largest side of the hidden square, as a share of the shorter side."""
CHUNK = 512
"""Images that are moved at once; a limit on memory alone."""


def strong(x: Images, rng: np.random.Generator) -> Images:
    """Return a strong view of each image (n, channels, height, width), float32.

    Each is turned by up to 30°, sheared by up to .3 along each axis, and shifted by up to .15 of its height
    and width, all uniform. What lies outside is the nearest pixel of the border. Then a square of random
    place and size, with a side of up to half of the shorter side, gets the mean of its channel.
    """
    amounts, squares = rng.uniform(-1, 1, (len(x), 5)), rng.random((len(x), 3))
    views = np.empty(x.shape, np.float32)
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        views[rows] = with_a_hidden_square(moved(x[rows], amounts[rows]), squares[rows])
    return views


def moved(x: Images, amounts: Array) -> Images:
    """Return images (n, channels, height, width) turned, sheared and shifted, by bilinear interpolation.

    ``amounts``: (n, 5), shares in [-1, 1] of the largest angle, of both shears, and of the shifts across and
    down.
    """
    n, channels, height, width = x.shape
    angle, shear_x, shear_y, across, down = (amounts * [ROTATION, SHEAR, SHEAR, SHIFT, SHIFT]).T[:, :, None]
    places = np.indices((height, width)).reshape(2, 1, -1)
    y, z = places[0] - (height - 1) / 2, places[1] - (width - 1) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    sheared_y, sheared_z = y + shear_y * z, z + shear_x * y
    row = cosine * sheared_y + sine * sheared_z + down * height + (height - 1) / 2
    column = cosine * sheared_z - sine * sheared_y + across * width + (width - 1) / 2
    row, column = row.clip(0, height - 1), column.clip(0, width - 1)
    top, left = row.astype(np.intp), column.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    lower, righter = ((part - whole).astype(np.float32) for part, whole in ((row, top), (column, left)))
    flat = x.reshape(n, channels, height * width)

    def at(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Images:
        found: Images = np.take_along_axis(flat, (rows * width + columns)[:, None, :], axis=2)
        return found

    lower, righter = lower[:, None, :], righter[:, None, :]
    above = at(top, left) * (1 - righter) + at(top, right) * righter
    below = at(bottom, left) * (1 - righter) + at(bottom, right) * righter
    result: Images = (above * (1 - lower) + below * lower).reshape(x.shape)
    return result


def with_a_hidden_square(x: Images, drawn: Array) -> Images:
    """Return images (n, channels, height, width) with a square of the channel's mean.

    ``drawn``: (n, 3) in [0, 1): size, and place of the centre down and across.
    """
    height, width = x.shape[2:]
    half = drawn[:, :1] * HIDDEN * min(height, width) / 2
    hidden = [
        np.abs(np.arange(side) + 0.5 - drawn[:, place, None] * side) < half
        for place, side in ((1, height), (2, width))
    ]
    inside = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    return np.where(inside, x.mean(axis=(2, 3), keepdims=True), x)
