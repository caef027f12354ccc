"""Hand-written backpropagation: the training steps of autograd and Adam to the last bit, in less time.

On small models, autograd spends most of a step on recording and traversing a graph. Where layers form a
sequence, the order of gradient computations is known in advance and no graph is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.models.fast.adam import FlatAdam
from bench.models.fast.max_pooling import PooledConv2d

# The operators that autograd calls. Looking them up takes longer than running them on one row.
RELU_BACKWARD = torch.ops.aten.threshold_backward.default
LOG_SOFTMAX_BACKWARD = torch.ops.aten._log_softmax_backward_data.default  # noqa: SLF001  # has no other name
CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


class Layer(ABC):
    """A layer that keeps its last input or output for the backward pass."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x``."""

    @abstractmethod
    def backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to the last input, given that of the output.

        A layer with parameters also stores their gradients.
        """


class TrainableLayer(Layer):
    """A layer with parameters, which the optimizer updates in place."""

    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]

    def bind(self, gradients: Sequence[Tensor]) -> None:
        """Set the tensors that receive the parameters' gradients, one for each parameter, of its shape.

        Call this after the optimizer has moved the parameters.
        """
        self.gradients = gradients

    @abstractmethod
    def store_gradients(self, gradient: Tensor) -> None:
        """Store the gradients of the parameters, given that of the output."""


class LinearLayer(TrainableLayer):
    """``weight`` (outputs, inputs) and ``bias`` (outputs,): (n, inputs) to (n, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.parameters = weight, bias

    def bind(self, gradients: Sequence[Tensor]) -> None:
        """Set the tensors for the gradients, and take views of the parameters at their new address."""
        super().bind(gradients)
        self._weight, self._bias = (parameter.detach() for parameter in self.parameters)
        self._transposed = self._weight.t()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs): the product with the weight plus the bias."""
        self._input = x
        return torch.addmm(self._bias, x, self._transposed)

    def store_gradients(self, gradient: Tensor) -> None:
        """Store the gradients of weight and bias."""
        weight, bias = self.gradients
        torch.mm(gradient.t(), self._input, out=weight)
        if gradient.shape[0] > 1:
            torch.sum(gradient, dim=0, out=bias)
        else:
            bias.copy_(gradient.view(-1))

    def backward(self, gradient: Tensor) -> Tensor:
        """Store the gradients of the parameters; return that of the input."""
        self.store_gradients(gradient)
        return torch.mm(gradient, self._weight)


class BatchedLinearLayer(TrainableLayer):
    """Linear layers of networks that are trained together: (networks, n, inputs) to (networks, n, outputs).

    ``weight``: (networks, inputs, outputs); ``bias``: (networks, 1, outputs).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.parameters = self._weight, self._bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Return (networks, n, outputs): the products with the weights plus the biases."""
        self._input = x
        return torch.baddbmm(self._bias, x, self._weight)

    def store_gradients(self, gradient: Tensor) -> None:
        """Store the gradients of weight and bias."""
        weight, bias = self.gradients
        torch.bmm(self._input.transpose(1, 2), gradient, out=weight)
        torch.sum(gradient, dim=1, keepdim=True, out=bias)

    def backward(self, gradient: Tensor) -> Tensor:
        """Store the gradients of the parameters; return that of the input."""
        self.store_gradients(gradient)
        return torch.bmm(gradient, self._weight.transpose(1, 2))


class ReLULayer(Layer):
    """ReLU in place: the output overwrites the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the positive part of ``x``, in the memory of ``x``."""
        self._output = torch.relu_(x)
        return self._output

    def backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        result: Tensor = RELU_BACKWARD(gradient, self._output, 0)
        return result


class FlattenLayer(Layer):
    """Flattens each input to one row."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, d) for (n, …)."""
        self._shape = x.shape
        return x.flatten(1)

    def backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to the input, in its shape."""
        return gradient.view(self._shape)


class ConvolutionLayer(TrainableLayer):
    """A convolution followed by 2×2 max-pooling: (n, inputs, h, w) to (n, outputs, …)."""

    def __init__(self, module: PooledConv2d) -> None:
        self._module = module
        self.parameters = list(module.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output."""
        self._input = x
        output, self._pool_backward = self._module.pooled(x)
        return output

    def store_gradients(self, gradient: Tensor) -> None:
        """Store the gradients of weight and bias."""
        self._backward(gradient, inputs=False)

    def backward(self, gradient: Tensor) -> Tensor:
        """Store the gradients of the parameters; return that of the input."""
        return self._backward(gradient, inputs=True)

    def _backward(self, gradient: Tensor, *, inputs: bool) -> Tensor:
        weight, bias = self.parameters
        results: tuple[Tensor, Tensor, Tensor] = CONVOLUTION_BACKWARD(
            self._pool_backward(gradient),
            self._input,
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
        for stored, new in zip(self.gradients, results[1:], strict=True):
            stored.copy_(new)
        return results[0]


class LayerSequence:
    """Layers applied one after another and trained in place; the last returns logits.

    ``loss``: as in :class:`bench.models.training.TrainingSchedule`.
    """

    def __init__(
        self, layers: Sequence[Layer], *, loss: str = "cross-entropy", weight_decay: float = 0.0
    ) -> None:
        self._layers, self._loss = list(layers), loss
        trainable = [layer for layer in layers if isinstance(layer, TrainableLayer)]
        self._first = trainable[0]
        self._later = self._layers[self._layers.index(self._first) + 1 :]
        parameters = [parameter for layer in trainable for parameter in layer.parameters]
        self._optimizer = FlatAdam(parameters, weight_decay)
        gradients = iter(self._optimizer.gradients)
        for layer in trainable:
            layer.bind([next(gradients) for _ in layer.parameters])

    def step(self, x: Tensor, targets: Tensor, row_weights: Tensor | float, learning_rate: float) -> None:
        """Take one optimizer step on inputs ([networks,] n, …) and loss targets (…, n, classes).

        ``targets``: of :func:`bench.models.training.loss_targets`. ``row_weights``: each row's weight in the
        loss, (…, n), or one number for all.
        """
        self.step_by(x, lambda logits: loss_gradient(logits, targets, row_weights, self._loss), learning_rate)

    def step_by(self, x: Tensor, gradient_of: Callable[[Tensor], Tensor], learning_rate: float) -> None:
        """Take one optimizer step on inputs by any loss: from logits to its gradient by them."""
        with torch.inference_mode():
            gradient = gradient_of(self._forward(x))
            for layer in reversed(self._later):
                gradient = layer.backward(gradient)
            # The input's gradient is not needed.
            self._first.store_gradients(gradient)
            self._optimizer.step(learning_rate)

    def logits(self, x: Tensor) -> Tensor:
        """Return (…, n, classes) logits for inputs (…, n, …)."""
        with torch.inference_mode():
            return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer.forward(x)
        return x


def layers_of(network: nn.Module) -> list[Layer]:
    """Return the layers of a network, first to last; an empty list if any of them has no counterpart here."""
    found: list[Layer] = []
    for _, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module.bias is not None:
            found.append(LinearLayer(module.weight, module.bias))
        elif isinstance(module, PooledConv2d) and module.weight.is_cpu:
            found.append(ConvolutionLayer(module))
        elif isinstance(module, nn.ReLU) and found and isinstance(found[-1], TrainableLayer):
            found.append(ReLULayer())
        elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            found.append(FlattenLayer())
        elif not list(module.children()):
            return []
    return found if found and isinstance(found[-1], LinearLayer) else []


def loss_gradient(outputs: Tensor, targets: Tensor, row_weights: Tensor | float, loss: str) -> Tensor:
    """Return the gradient, by logits ``outputs``, of the weighted sum of the rows' losses.

    The losses are those of :func:`bench.models.training.row_losses`.
    """
    log_probabilities = torch.log_softmax(outputs, dim=-1)
    weights = row_weights[..., None] if isinstance(row_weights, Tensor) else row_weights
    if loss == "cross-entropy":
        gradient = -targets
        if isinstance(weights, Tensor) or weights != 1:
            gradient *= weights
    else:
        # One weight for all rows is rounded to single precision before the division, as a tensor's are.
        weights = weights if isinstance(weights, Tensor) else outputs.new_tensor(weights)
        gradient = weights / targets.shape[-1] * (2 * (log_probabilities - targets))
    result: Tensor = LOG_SOFTMAX_BACKWARD(gradient, log_probabilities, -1, log_probabilities.dtype)
    return result
