"""2×2 max-pooling, alone and after a convolution: PyTorch's results to the last bit, faster on a CPU.

PyTorch compares single numbers where images are contiguous. Here the four corners of every 2×2 square are
four images, which are compared as vectors. Two differences remain: the result with NaN is undefined, and
numbers whose difference is denormal are equal while denormals are flushed to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Corners = Sequence[Tensor]
"""Upper left, upper right, lower left and lower right of each 2×2 square, each (n, c, h / 2, w / 2)."""
MAX_SHIFTED_CHANNELS = 3
"""Input channels up to which four shifted kernels compute the corners directly."""


class MaxPool2x2(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, c, h / 2, w / 2) for (n, c, h, w)."""
        return max_pool_2x2(x)


class PooledConv2d(nn.Conv2d):
    """``nn.Conv2d(inputs, outputs, kernel)`` followed by ``nn.MaxPool2d(2)``."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, (h - kernel + 1) / 2, (w - kernel + 1) / 2) for (n, inputs, h, w)."""
        return max_pool_2x2(super().forward(x)) if torch.is_grad_enabled() else self.pooled(x)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the output, and a function from its gradient to that of the convolution's output."""
        if x.is_cuda or any((size - self.kernel_size[0]) % 2 == 0 for size in x.shape[-2:]):
            convolved = super().forward(x)
            output, indices = functional.max_pool2d(convolved, 2, return_indices=True)
            return output, partial(_torch_pool_backward, convolved=convolved, indices=indices)
        squares = self._corners(x)
        upper, lower, output = maxima(squares)
        return output, partial(pool_backward, squares=squares, upper=upper, lower=lower)

    def _corners(self, x: Tensor) -> Corners:
        if self.in_channels > MAX_SHIFTED_CHANNELS:
            return corners(super().forward(x))
        # A kernel shifted by one pixel, with stride 2, computes one corner. Four small kernels side by side
        # fill the vector registers that one leaves half empty. The zeros around them change no sum.
        outputs, inputs, size, _ = self.weight.shape
        shifted = self.weight.new_zeros(4, outputs, inputs, size + 1, size + 1)
        row, kernel, four = size + 1, (size + 1) ** 2, outputs * inputs * (size + 1) ** 2
        view = (
            (2, 2, outputs, inputs, size, size),
            (2 * four + row, four + 1, inputs * kernel, kernel, row, 1),
        )
        shifted.as_strided(*view).copy_(self.weight)
        bias = None if self.bias is None else self.bias.expand(4, -1).flatten()
        convolved = functional.conv2d(x, shifted.flatten(0, 1), bias, stride=2)
        return convolved.view(len(x), 4, outputs, *convolved.shape[2:]).unbind(1)


def max_pool_2x2(x: Tensor) -> Tensor:
    """Return 2×2 max-pooling, (n, c, h / 2, w / 2), of (n, c, h, w)."""
    if x.is_cuda or x.shape[-2] % 2 or x.shape[-1] % 2 or not x.is_contiguous():
        return functional.max_pool2d(x, 2)
    pooled: Tensor = _MaxPool2x2.apply(x)  # type: ignore[no-untyped-call]  # torch has no types for it
    return pooled


def corners(x: Tensor) -> Corners:
    """Return the corners of the 2×2 squares of (n, c, h, w), with h and w even."""
    return [x[..., top::2, left::2] for top in (0, 1) for left in (0, 1)]


def maxima(squares: Corners) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maximum of the two upper corners, of the two lower ones, and of all four."""
    upper, lower = torch.maximum(*squares[:2]), torch.maximum(*squares[2:])
    return upper, lower, torch.maximum(upper, lower)


def pool_backward(gradient: Tensor, squares: Corners, upper: Tensor, lower: Tensor) -> Tensor:
    """Return the gradient (n, c, h, w) of the pooling's input, given that of its output (n, c, h / 2, w / 2).

    ``upper`` and ``lower`` are those of :func:`maxima`. Of equal corners, the first in reading order gets
    the gradient.
    """
    above, below = _to_larger(gradient, upper, lower)
    parts = [*_to_larger(above, *squares[:2]), *_to_larger(below, *squares[2:])]
    images, channels, height, width = gradient.shape
    result = gradient.new_empty(images, channels, 2 * height, 2 * width)
    for corner, part in zip(corners(result), parts, strict=True):
        corner.copy_(part)
    return result


def _torch_pool_backward(gradient: Tensor, convolved: Tensor, indices: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        gradient, convolved, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
    )
    return result


def _to_larger(gradient: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of two tensors, given that of their maximum; the larger one gets all of it."""
    # Comparing by difference is the operation that runs on vectors.
    to_second = torch.ops.aten.threshold_backward(gradient, second - first, 0)
    return gradient - to_second, to_second


class _MaxPool2x2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # torch's
        squares = corners(x)
        upper, lower, pooled = maxima(squares)
        ctx.save_for_backward(x, upper, lower)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, upper, lower = ctx.saved_tensors
        return pool_backward(gradient, corners(x), upper, lower)
