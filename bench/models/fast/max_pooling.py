"""Max-pooling by two, alone and behind a convolution: to the bit as PyTorch's, sooner on a CPU.

PyTorch compares scalars where images are contiguous. Here each square's four corners are four images, which
are compared as vectors. Two differences remain: with NaN anything may pass, and what is apart by a denormal
number is equal where these are flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Corners = Sequence[Tensor]
"""Upper left, upper right, lower left and lower right of each square, (n, c, h / 2, w / 2) each."""
FEW = 3
"""Input channels up to which a convolution is told to give the corners apart, with zeros in its kernels."""


class Halved(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, c, h / 2, w / 2) for (n, c, h, w)."""
        return halve(x)


class HalvedConv2d(nn.Conv2d):
    """``nn.Conv2d(inside, outside, kernel)`` with ``nn.MaxPool2d(2)`` behind it."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        super().__init__(inside, outside, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outside, (h - kernel + 1) / 2, (w - kernel + 1) / 2) for (n, inside, h, w)."""
        return halve(super().forward(x)) if torch.is_grad_enabled() else self.pooled(x)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the same, and what takes its slope back to that of what was pooled."""
        if x.is_cuda or any((size - self.kernel_size[0]) % 2 == 0 for size in x.shape[-2:]):
            whole = super().forward(x)
            found, places = functional.max_pool2d(whole, 2, return_indices=True)
            return found, partial(_placed, whole=whole, places=places)
        squares = self._corners(x)
        upper, lower, found = greatest(squares)
        return found, partial(passed, squares=squares, upper=upper, lower=lower)

    def _corners(self, x: Tensor) -> Corners:
        if self.in_channels > FEW:
            return corners(super().forward(x))
        # A kernel moved by one pixel, at every other place: four small kernels side by side fill the vectors
        # that one leaves half empty, and products with zero change no sum.
        outside, inside, size, _ = self.weight.shape
        wide = self.weight.new_zeros(4, outside, inside, size + 1, size + 1)
        row, kernel, four = size + 1, (size + 1) ** 2, outside * inside * (size + 1) ** 2
        moved = (
            (2, 2, outside, inside, size, size),
            (2 * four + row, four + 1, inside * kernel, kernel, row, 1),
        )
        wide.as_strided(*moved).copy_(self.weight)
        bias = None if self.bias is None else self.bias.expand(4, -1).flatten()
        found = functional.conv2d(x, wide.flatten(0, 1), bias, stride=2)
        return found.view(len(x), 4, outside, *found.shape[2:]).unbind(1)


def halve(x: Tensor) -> Tensor:
    """Return max-pooling by two, (n, c, h / 2, w / 2), of (n, c, h, w)."""
    if x.is_cuda or x.shape[-2] % 2 or x.shape[-1] % 2 or not x.is_contiguous():
        return functional.max_pool2d(x, 2)
    halved: Tensor = _Halve.apply(x)  # type: ignore[no-untyped-call]  # torch has no types for it
    return halved


def corners(x: Tensor) -> Corners:
    """Return the corners of the squares of (n, c, h, w), h and w even."""
    return [x[..., top::2, left::2] for top in (0, 1) for left in (0, 1)]


def greatest(squares: Corners) -> tuple[Tensor, Tensor, Tensor]:
    """Return the greater of the upper corners, of the lower ones, and of all."""
    upper, lower = torch.maximum(*squares[:2]), torch.maximum(*squares[2:])
    return upper, lower, torch.maximum(upper, lower)


def passed(slope: Tensor, squares: Corners, upper: Tensor, lower: Tensor) -> Tensor:
    """Return the slope (n, c, h, w) of what was pooled, given that of what came of it (n, c, h / 2, w / 2).

    Of equals, the first in reading order counts.
    """
    above, below = _split(slope, upper, lower)
    parts = [*_split(above, *squares[:2]), *_split(below, *squares[2:])]
    images, channels, height, width = slope.shape
    found = slope.new_empty(images, channels, 2 * height, 2 * width)
    for corner, part in zip(corners(found), parts, strict=True):
        corner.copy_(part)
    return found


def _placed(slope: Tensor, whole: Tensor, places: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        slope, whole, [2, 2], [2, 2], [0, 0], [1, 1], False, places
    )
    return found


def _split(slope: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Give each slope to the greater of two; comparing by difference is what there are vectors for."""
    lost = torch.ops.aten.threshold_backward(slope, second - first, 0)
    return slope - lost, lost


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # torch's
        squares = corners(x)
        upper, lower, found = greatest(squares)
        ctx.save_for_backward(x, upper, lower)
        return found

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x, upper, lower = ctx.saved_tensors
        return passed(slope, corners(x), upper, lower)
