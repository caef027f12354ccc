"""Adam on few large tensors: the steps of ``torch.optim.Adam(fused=True)`` to the last bit, in less time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LINE = 16
"""Single-precision numbers in a cache line. The address of a tensor's first number affects the last bits of
its products. The numbers after its last full line are computed one by one, which affects Adam's last bits."""


class FlatAdam:
    """Adam over parameters that are moved into as few flat tensors as keep the results bit-identical.

    ``gradients``: one tensor for each parameter, of its shape; a step reads them. Those parameters whose size
    is a multiple of :data:`LINE` share one flat tensor; every other parameter has its own.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self._weight_decay = weight_decay
        aligned = [parameter for parameter in parameters if parameter.numel() % LINE == 0]
        others = [[parameter] for parameter in parameters if parameter.numel() % LINE]
        groups = [aligned] * bool(aligned) + others
        self._values = [torch.cat([each.detach().flatten() for each in group]) for group in groups]
        self._gradients, self._means, self._squares = (
            [torch.zeros_like(values) for values in self._values] for _ in range(3)
        )
        self._steps, self._counts = 0, [self._values[0].new_zeros(())] * len(self._values)
        gradient_of: dict[Tensor, Tensor] = {}
        for group, values, gradients in zip(groups, self._values, self._gradients, strict=True):
            sizes = [parameter.numel() for parameter in group]
            parts = zip(group, values.split(sizes), gradients.split(sizes), strict=True)
            for parameter, value, gradient in parts:
                parameter.data = value.view(parameter.shape)
                gradient_of[parameter] = gradient.view(parameter.shape)
        self.gradients = [gradient_of[parameter] for parameter in parameters]

    def zero_gradients(self) -> None:
        """Set all gradients to zero, for autograd, which adds to them."""
        for gradients in self._gradients:
            gradients.zero_()

    def step(self, learning_rate: float) -> None:
        """Update all parameters by their gradients."""
        # torch.optim.Adam(fused=True) makes the same call, and spends as long again on checks before it.
        self._steps += 1
        self._counts[0].fill_(self._steps)
        torch._fused_adam_(
            self._values,
            self._gradients,
            self._means,
            self._squares,
            [],
            self._counts,
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self._weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
