"""Synthetic images: the ten digits of a small font, and random pen strokes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Array = NDArray[np.float64]

_KNOTS, _STEPS, _CHUNK = 7, 10, 500

FONT = """
.###.  ..#..  .###.  .###.  ...#.  #####  ..##.  #####  .###.  .###.
#...#  .##..  #...#  #...#  ..##.  #....  .#...  ....#  #...#  #...#
#...#  ..#..  ....#  ....#  .#.#.  ####.  #....  ...#.  #...#  #...#
#...#  ..#..  ...#.  ..##.  #..#.  ....#  ####.  ...#.  .###.  .####
#...#  ..#..  ..#..  ....#  #####  ....#  #...#  ..#..  #...#  ....#
#...#  ..#..  .#...  #...#  ...#.  #...#  #...#  ..#..  #...#  ...#.
.###.  .###.  #####  .###.  ...#.  .###.  .###.  ..#..  .###.  .##..
"""
"""The digits 0 to 9, seven rows of five cells each; "#" is ink."""


def draw_glyphs(number: int, height: int, width: int, rng: np.random.Generator) -> tuple[Images, Labels]:
    """Return images of random digits of :data:`FONT` (number, 1, height, width) in [0, 1], and the digits.

    Each is scaled, stretched, slanted, rotated and shifted, and its cells are jittered. It is drawn with a
    soft pen of random width and pressure; normal noise of random strength is added.
    """
    digits = rng.integers(0, 10, number)
    with threadpool_limits(limits=1):
        chunks = [_noisy(_glyphs(digits[part], height, width, rng), rng) for part in _chunks(number)]
    return np.concatenate([np.zeros((0, height, width), np.float32), *chunks])[:, None], digits


def _chunks(number: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, number)) for start in range(0, number, _CHUNK))


def _cells() -> tuple[Array, Array]:
    """Return the inked cells of every digit, (10, cells, 2): y and x in a box of height 1 around 0.

    Also return (10, cells): 1 for a cell, 0 for padding.
    """
    columns = np.array([list(line.replace(" ", "")) for line in FONT.split("\n") if line]) == "#"
    glyphs = columns.reshape(7, 10, 5).transpose(1, 0, 2)
    most = int(glyphs.sum(axis=(1, 2)).max())
    places, inked = np.zeros((10, most, 2)), np.zeros((10, most))
    for digit, glyph in enumerate(glyphs):
        found = np.argwhere(glyph)
        places[digit, : len(found)], inked[digit, : len(found)] = (found - [3, 2]) / 6, 1
    return places, inked


def _glyphs(digits: Labels, height: int, width: int, rng: np.random.Generator) -> Images:
    """Return (n, height, width) images in [0, 1] of the digits (n,), without noise."""
    number, side = len(digits), min(height, width)
    places, inked = (part[digits] for part in _cells())
    tall = rng.uniform(0.6, 0.85, (number, 1)) * side
    y, x = np.moveaxis(places + rng.normal(0, 0.03, places.shape), 2, 0)
    x = x * rng.uniform(0.75, 1.15, (number, 1)) - rng.normal(0.1, 0.12, (number, 1)) * y
    turn = rng.normal(0, 0.1, (number, 1))
    y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    y, x = (axis * tall + rng.normal(0, 0.03, (number, 1)) * side for axis in (y, x))
    # Cells are 1/6 apart; pen spots half as wide merge into lines.
    pen = np.hypot(rng.uniform(0.07, 0.11, (number, 1)) * tall, 0.25)
    gain = rng.uniform(1.2, 3, (number, 1, 1))
    return _inked(y, x, inked * tall / 6, pen, gain, (height, width))


def _noisy(images: Images, rng: np.random.Generator) -> Images:
    strength = rng.uniform(0, 0.15, (len(images), 1, 1))
    return np.clip(images + strength * rng.normal(size=images.shape), 0, 1).astype(np.float32)


def draw_strokes(number: int, height: int, width: int, rng: np.random.Generator) -> Images:
    """Return images that look like handwriting (number, 1, height, width) in [0, 1], made without data.

    Each holds a curved stroke: a chain of quadratic Bézier curves whose heading drifts, so that it forms
    hooks and loops. A third of them hold a short second one. They are scaled, centred and drawn with a
    soft pen of random width.
    """
    with threadpool_limits(limits=1):
        chunks = [
            _strokes(_paths(part.stop - part.start, rng), height, width, rng) for part in _chunks(number)
        ]
    return np.concatenate([np.zeros((0, height, width), np.float32), *chunks])[:, None]


def _paths(number: int, rng: np.random.Generator) -> Array:
    """Return (number, strokes, points, 2): y and x along each stroke, in a box of 1 around 0."""
    bend = rng.uniform(0.2, 1.2, (number, 1)) + rng.normal(0, 0.5, (number, _KNOTS))
    bend *= rng.choice([-1, 1], (number, 1))
    bend *= np.where(np.arange(_KNOTS) < rng.integers(2, 2 * _KNOTS, (number, 1)), 1, -1)  # some are S-shaped
    heading = rng.uniform(0, 2 * np.pi, (number, 1)) + np.cumsum(bend, axis=1)
    steps = rng.uniform(0.5, 1.5, (number, _KNOTS, 1)) * np.stack([np.sin(heading), np.cos(heading)], axis=2)
    first = _spline(np.cumsum(steps, axis=1))
    last = rng.integers(len(first[0]) // 2, len(first[0]), number)  # where the stroke ends
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


def _spline(knots: Array) -> Array:
    """Return points (n, …, 2) on the quadratic B-spline through the ends of ``knots`` (n, k, 2)."""
    knots = np.concatenate([knots[:, :1], knots, knots[:, -1:]], axis=1)[:, :, None]
    middle = (knots[:, 1:] + knots[:, :-1]) / 2
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    curves = (1 - t) ** 2 * middle[:, :-1] + 2 * t * (1 - t) * knots[:, 1:-1] + t**2 * middle[:, 1:]
    return curves.reshape(len(knots), -1, 2)


def _strokes(paths: Array, height: int, width: int, rng: np.random.Generator) -> Images:
    """Render strokes (n, strokes, points, 2): (n, height, width) in [0, 1]."""
    number, side = len(paths), min(height, width)
    pen = np.hypot(rng.uniform(0.02, 0.05, (number, 1)) * side, 0.3)  # at least a pixel's own blur
    points = paths * (rng.uniform(0.7, 0.85, (number, 1, 1, 1)) * side)
    begin, end = points[:, :, :-1], points[:, :, 1:]
    length = np.linalg.norm(end - begin, axis=3).reshape(number, -1)
    y, x = np.moveaxis(((begin + end) / 2).reshape(number, -1, 2), 2, 0)
    return _inked(y, x, length, pen, 3.0, (height, width))


def _inked(
    y: Array, x: Array, length: Array, pen: Array, gain: Array | float, size: tuple[int, int]
) -> Images:
    """Return images (n, height, width) in [0, 1] of pen spots, drawn with a Gaussian pen.

    ``y``, ``x``, ``length``: (n, spots), position from the centre and length of line that each spot
    represents. ``pen``: (n, 1), standard deviation of the pen. All in pixels. ``gain``: its darkness.
    """
    height, width = size
    spread, y, x = pen[:, None], y + (height - 1) / 2, x + (width - 1) / 2
    # A Gaussian is separable, so the pen's pressure is a product of two matrices.
    rows = np.exp(-(((np.arange(height)[:, None] - y[:, None]) / spread) ** 2) / 2) * length[:, None]
    columns = np.exp(-(((np.arange(width) - x[:, :, None]) / spread) ** 2) / 2)
    pressure = rows @ columns / (spread * np.sqrt(2 * np.pi))  # 1 in the middle of a straight stroke
    return np.asarray(1 - np.exp(-gain * pressure), dtype=np.float32)
