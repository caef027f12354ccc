"""Adam without its bookkeeping, to the bit as PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LINE = 16
"""Numbers to a cache line. Where a tensor starts decides the last bits of its products, and what is left
over of its last line those of Adam's, which are taken one by one."""


class FlatAdam:
    """Adam over parameters that are moved into as few tensors as give the same bits.

    ``slopes``: what a step reads, one of each parameter's shape.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self._decay = weight_decay
        whole = [each for each in parameters if each.numel() % LINE == 0]
        groups = [whole] * bool(whole) + [[each] for each in parameters if each.numel() % LINE]
        self._values = [torch.cat([each.detach().flatten() for each in group]) for group in groups]
        self._slopes, self._means, self._squares = (
            [torch.zeros_like(values) for values in self._values] for _ in range(3)
        )
        self._steps, self._counts = 0, [self._values[0].new_zeros(())] * len(self._values)
        found: dict[Tensor, Tensor] = {}
        for group, values, slopes in zip(groups, self._values, self._slopes, strict=True):
            sizes = [each.numel() for each in group]
            parts = zip(group, values.split(sizes), slopes.split(sizes), strict=True)
            for parameter, value, slope in parts:
                parameter.data, found[parameter] = value.view(parameter.shape), slope.view(parameter.shape)
        self.slopes = [found[parameter] for parameter in parameters]

    def forget(self) -> None:
        """Set all slopes to zero, for those that add to them."""
        for slopes in self._slopes:
            slopes.zero_()

    def step(self, rate: float) -> None:
        """Move all parameters by their slopes."""
        # What torch.optim.Adam(fused=True) ends in: on the way there it spends as long again on checks.
        self._steps += 1
        self._counts[0].fill_(self._steps)
        torch._fused_adam_(
            self._values,
            self._slopes,
            self._means,
            self._squares,
            [],
            self._counts,
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self._decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
