"""Training steps by hand, to the bit as autograd and Adam take them.

On small models most of a step goes into bookkeeping: a graph is recorded and walked. Where layers follow one
another, what a graph would tell is known before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.models.fast.adam import FlatAdam
from bench.models.fast.max_pooling import HalvedConv2d

# What autograd calls. Looking them up takes longer than they do, on one row.
BEFORE_RELU = torch.ops.aten.threshold_backward.default
BEFORE_LOG_SOFTMAX = torch.ops.aten._log_softmax_backward_data.default  # noqa: SLF001  # has no other name
BEFORE_CONVOLUTION = torch.ops.aten.convolution_backward.default


class Layer(ABC):
    """A layer that remembers what it was given last."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of ``x``."""

    @abstractmethod
    def before(self, slope: Tensor) -> Tensor:
        """Return the slope of what was given, from that of what was returned; a layer that learns, learns."""


class Learning(Layer):
    """A layer with parameters, which stay what they are and move where they lie."""

    parameters: Sequence[Tensor]
    slopes: Sequence[Tensor]

    def settle(self, slopes: Sequence[Tensor]) -> None:
        """Take what their slopes are to be written to, of their shapes; the parameters have moved."""
        self.slopes = slopes

    @abstractmethod
    def learn(self, slope: Tensor) -> None:
        """Write the slopes of the parameters, given that of what was returned."""


class LinearLayer(Learning):
    """``weight`` (outputs, inputs) and ``bias`` (outputs,): (n, inputs) to (n, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.parameters = weight, bias

    def settle(self, slopes: Sequence[Tensor]) -> None:
        """Look at the weights from where they lie now."""
        super().settle(slopes)
        self._weight, self._bias = (each.detach() for each in self.parameters)
        self._turned = self._weight.t()

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sums."""
        self._seen = x
        return torch.addmm(self._bias, x, self._turned)

    def learn(self, slope: Tensor) -> None:
        """Write the slopes of weight and bias."""
        weight, bias = self.slopes
        torch.mm(slope.t(), self._seen, out=weight)
        if slope.shape[0] > 1:
            torch.sum(slope, dim=0, out=bias)
        else:
            bias.copy_(slope.view(-1))

    def before(self, slope: Tensor) -> Tensor:
        """Write the same, and return the slope before."""
        self.learn(slope)
        return torch.mm(slope, self._weight)


class SideBySide(Learning):
    """Linear layers of members that learn together: (members, n, inputs) to (members, n, outputs).

    ``weight``: (members, inputs, outputs); ``bias``: (members, 1, outputs).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.parameters = self._weight, self._bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sums."""
        self._seen = x
        return torch.baddbmm(self._bias, x, self._weight)

    def learn(self, slope: Tensor) -> None:
        """Write the slopes of weight and bias."""
        weight, bias = self.slopes
        torch.bmm(self._seen.transpose(1, 2), slope, out=weight)
        torch.sum(slope, dim=1, keepdim=True, out=bias)

    def before(self, slope: Tensor) -> Tensor:
        """Write the same, and return the slope before."""
        self.learn(slope)
        return torch.bmm(slope, self._weight.transpose(1, 2))


class Rectified(Layer):
    """ReLU, in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the positive part, in the memory of what was given."""
        self._returned = torch.relu_(x)
        return self._returned

    def before(self, slope: Tensor) -> Tensor:
        """Return the slope before."""
        found: Tensor = BEFORE_RELU(slope, self._returned, 0)
        return found


class Flat(Layer):
    """Each input as one row."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, numbers) of (n, …)."""
        self._shape = x.shape
        return x.flatten(1)

    def before(self, slope: Tensor) -> Tensor:
        """Return the slope before."""
        return slope.view(self._shape)


class Convolved(Learning):
    """A convolution with pooling by two behind it: (n, inside, h, w) to (n, outside, …)."""

    def __init__(self, module: HalvedConv2d) -> None:
        self._module = module
        self.parameters = list(module.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the module does."""
        self._seen = x
        found, self._pooled = self._module.pooled(x)
        return found

    def learn(self, slope: Tensor) -> None:
        """Write the slopes of weight and bias."""
        self._back(slope, inputs=False)

    def before(self, slope: Tensor) -> Tensor:
        """Write the same, and return the slope before."""
        return self._back(slope, inputs=True)

    def _back(self, slope: Tensor, *, inputs: bool) -> Tensor:
        weight, bias = self.parameters
        found: tuple[Tensor, Tensor, Tensor] = BEFORE_CONVOLUTION(
            self._pooled(slope),
            self._seen,
            weight,
            list(bias.shape),
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [inputs, True, True],
        )
        for kept, new in zip(self.slopes, found[1:], strict=True):
            kept.copy_(new)
        return found[0]


class Chain:
    """Layers one behind another, which learn in place; the last returns logits.

    ``loss``: that of :class:`bench.models.training.TrainingSchedule`.
    """

    def __init__(
        self, layers: Sequence[Layer], *, loss: str = "cross-entropy", weight_decay: float = 0.0
    ) -> None:
        self._layers, self._loss = list(layers), loss
        learning = [layer for layer in layers if isinstance(layer, Learning)]
        self._first = learning[0]
        self._later = self._layers[self._layers.index(self._first) + 1 :]
        self._optimizer = FlatAdam([each for layer in learning for each in layer.parameters], weight_decay)
        slopes = iter(self._optimizer.slopes)
        for layer in learning:
            layer.settle([next(slopes) for _ in layer.parameters])

    def step(self, x: Tensor, targets: Tensor, share: Tensor | float, rate: float) -> None:
        """Take one step on inputs ([members,] n, …) and :func:`bench.models.training.aims` (…, n, classes).

        ``share``: each row's share of the loss, (…, n), or one for all.
        """
        with torch.inference_mode():
            slope = slope_of_losses(self._forward(x), targets, share, self._loss)
            for layer in reversed(self._later):
                slope = layer.before(slope)
            self._first.learn(slope)
            self._optimizer.step(rate)

    def logits(self, x: Tensor) -> Tensor:
        """Return (…, n, classes) for inputs (…, n, …)."""
        with torch.inference_mode():
            return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer.forward(x)
        return x


def layers(network: nn.Module) -> list[Layer]:
    """Return a network's layers, first to last; none where there is one that is not known here."""
    found: list[Layer] = []
    for _, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module.bias is not None:
            found.append(LinearLayer(module.weight, module.bias))
        elif isinstance(module, HalvedConv2d) and module.weight.is_cpu:
            found.append(Convolved(module))
        elif isinstance(module, nn.ReLU) and found and isinstance(found[-1], Learning):
            found.append(Rectified())
        elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            found.append(Flat())
        elif not list(module.children()):
            return []
    return found if found and isinstance(found[-1], LinearLayer) else []


def slope_of_losses(outputs: Tensor, targets: Tensor, share: Tensor | float, loss: str) -> Tensor:
    """Return the slope along ``outputs`` of ``share`` times :func:`bench.models.training.row_losses`."""
    likely = torch.log_softmax(outputs, dim=-1)
    wide = share[..., None] if isinstance(share, Tensor) else share
    if loss == "cross-entropy":
        slope = -targets
        if isinstance(wide, Tensor) or wide != 1:
            slope *= wide
    else:
        # A share of all is rounded before it is divided, as those of a tensor are.
        wide = wide if isinstance(wide, Tensor) else outputs.new_tensor(wide)
        slope = wide / targets.shape[-1] * (2 * (likely - targets))
    found: Tensor = BEFORE_LOG_SOFTMAX(slope, likely, -1, likely.dtype)
    return found
