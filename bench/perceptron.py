"""Steps of perceptrons by hand, to the bit as autograd and Adam take them.

On small models most of a step goes into bookkeeping: a graph is recorded and walked. A perceptron's
gradients are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.flat_adam import FlatAdam


def linears(network: nn.Module) -> list[nn.Linear]:
    """Return a perceptron's layers, first to last; none where the network is something else."""
    leaves = [module for module in network.modules() if not list(module.children())]
    if leaves and isinstance(leaves[0], nn.Flatten):
        del leaves[0]
    found = [leaf for leaf in leaves[::2] if isinstance(leaf, nn.Linear) and leaf.bias is not None]
    between = all(isinstance(leaf, nn.ReLU) for leaf in leaves[1::2])
    return found if between and len(leaves) % 2 and len(found) == len(leaves[::2]) else []


class Perceptron:
    """Linear layers with ReLU between them, which learn in place.

    ``weights``: (outputs, inputs) each, and ``biases`` (outputs,); or, for members side by side, (members,
    inputs, outputs) and (members, 1, outputs). The parameters stay what they are and move where they lie.
    ``loss``: that of :class:`bench.training.Recipe`.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        loss: str = "cross-entropy",
        weight_decay: float = 0.0,
    ) -> None:
        self._weights, self._biases, self._loss = list(weights), list(biases), loss
        self._optimizer = FlatAdam([*weights, *biases], weight_decay)
        self._stacked = weights[0].ndim == 3

    @torch.inference_mode()
    def step(self, x: Tensor, targets: Tensor, share: Tensor, rate: float) -> None:
        """Take one step on inputs ([members,] n, pixels) and :func:`bench.training.aims` (…, n, classes).

        ``share`` (…, n): each row's share of the loss.
        """
        seen, outputs = self._forward(x)
        slope = slope_of_losses(outputs, targets, share, self._loss)
        depth = len(seen)
        for place in reversed(range(depth)):
            self._learn(seen[place], slope, *self._optimizer.slopes[place::depth])
            if place:
                slope = self._before(slope, self._weights[place])
                slope = torch.ops.aten.threshold_backward(slope, seen[place], 0)
        self._optimizer.step(rate)

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Return (…, n, classes) for inputs (…, n, pixels)."""
        return self._forward(x)[1]

    def _forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what each layer is given, and what the last one returns."""
        seen = [x]
        *hidden, last = zip(self._weights, self._biases, strict=True)
        for weight, bias in hidden:
            seen.append(torch.relu_(self._product(seen[-1], weight, bias)))
        return seen, self._product(seen[-1], *last)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias, x, weight) if self._stacked else functional.linear(x, weight, bias)

    def _learn(self, x: Tensor, slope: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Write the slopes of a layer's weight and bias, given that of what it returned."""
        if self._stacked:
            torch.bmm(x.transpose(1, 2), slope, out=weight)
            torch.sum(slope, dim=1, keepdim=True, out=bias)
        else:
            torch.mm(slope.t(), x, out=weight)
            torch.sum(slope, dim=0, out=bias)

    def _before(self, slope: Tensor, weight: Tensor) -> Tensor:
        """Return the slope of what a layer was given."""
        return torch.bmm(slope, weight.transpose(1, 2)) if self._stacked else torch.mm(slope, weight)


def slope_of_losses(outputs: Tensor, targets: Tensor, share: Tensor, loss: str) -> Tensor:
    """Return the slope of the sum of :func:`bench.training.row_losses` times ``share`` along ``outputs``."""
    likely = torch.log_softmax(outputs, dim=-1)
    wide = share[..., None]
    if loss == "cross-entropy":
        slope = -wide * targets
    else:
        slope = wide / targets.shape[-1] * (2 * (likely - targets))
    found: Tensor = torch.ops.aten._log_softmax_backward_data(slope, likely, -1, likely.dtype)  # noqa: SLF001  # autograd's own
    return found
