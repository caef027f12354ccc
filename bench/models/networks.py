"""The networks that victims and surrogates are made of. They return logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.data.torchvision_compat import load_torchvision
from bench.errors import NotApplicable, UsageError
from bench.inputs import InputSpace
from bench.models import fast
from bench.models.fast.max_pooling import MaxPool2x2, PooledConv2d
from bench.models.training_config import OF_IMAGES

Shape = tuple[int, ...]


MODAL = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # noqa: SLF001  # torch has no other name
"""Modules that compute something else in training mode."""


class Network(nn.Module):
    """Blocks in sequence; each block's output is a depth that an input detector can use as features."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) for inputs (n, …)."""
        logits: Tensor = self.blocks(x)
        return logits

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return every block's output, flattened to (n, d), shallow to deep; the last is the logits."""
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x.flatten(1))
        return outputs


def logistic(shape: Shape, classes: int) -> Network:
    """Return multinomial logistic regression."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), classes)))


def mlp(shape: Shape, classes: int) -> Network:
    """Return a perceptron with hidden layers of 128 and 64."""
    return Network(
        nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), 128), nn.ReLU()),
        nn.Sequential(nn.Linear(128, 64), nn.ReLU()),
        nn.Linear(64, classes),
    )


def mlp128(shape: Shape, classes: int) -> Network:
    """Return a perceptron with one hidden layer of 128."""
    return Network(
        nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), 128), nn.ReLU()),
        nn.Linear(128, classes),
    )


def lenet(shape: Shape, classes: int) -> Network:
    """Return LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling; needs inputs of 20×20 or more."""
    channels, height, width = shape
    if min(height, width) < 20:
        raise UsageError(f"lenet needs inputs of 20×20 or more, got {height}×{width}; use mlp or cnn")
    rows, columns = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
    # Pooling before the (monotone) ReLU is the same function with a quarter of the comparisons.
    return Network(
        nn.Sequential(*_pooled_convolution(channels, 6, 5), nn.ReLU()),
        nn.Sequential(*_pooled_convolution(6, 16, 5), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(16 * rows * columns, 120), nn.ReLU()),
        nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, classes),
    )


def cnn(shape: Shape, classes: int) -> Network:
    """Return a small modern network: 3×3 convolutions, batch normalisation, global average pooling."""

    def block(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        return nn.Sequential(*layers, _pooling()) if pool else nn.Sequential(*layers)

    return Network(
        block(shape[0], 16, pool=True),
        block(16, 32, pool=True),
        block(32, 64, pool=False),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU()),
        nn.Linear(64, classes),
    )


def resnet18(shape: Shape, classes: int) -> Network:
    """Return torchvision's ResNet-18 (He et al. 2016) with the stem for small images: 3×3, no pooling."""
    net = load_torchvision().models.resnet18(weights=None, num_classes=classes)
    net.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    return Network(
        nn.Sequential(net.conv1, net.bn1, net.relu),
        net.layer1,
        net.layer2,
        net.layer3,
        nn.Sequential(net.layer4, net.avgpool, nn.Flatten()),
        net.fc,
    )


def _pooled_convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Return a convolution followed by 2×2 max-pooling; the parameters' names are the same on both paths."""
    if fast.enabled():
        return [PooledConv2d(inputs, outputs, kernel)]
    return [nn.Conv2d(inputs, outputs, kernel), nn.MaxPool2d(2)]


def _pooling() -> nn.Module:
    return MaxPool2x2() if fast.enabled() else nn.MaxPool2d(2)


def _size(shape: Shape) -> int:
    return math.prod(shape)


BUILDERS: dict[str, Callable[[Shape, int], Network]] = {
    "mlp": mlp,
    "mlp128": mlp128,
    "lenet": lenet,
    "cnn": cnn,
    "resnet18": resnet18,
    "logistic": logistic,
}


def require_layout(name: str, inputs: InputSpace) -> None:
    """Raise NotApplicable where ``name`` convolves images and inputs are none."""
    if name in OF_IMAGES and inputs.layout != "images":
        raise NotApplicable(f"{name} needs images (channels, height, width), and inputs are {inputs.shape}")


def build(name: str, shape: Shape, classes: int) -> Network:
    """Return a freshly initialised network; draws from torch's global generator (see torch_seed)."""
    return BUILDERS[name](shape, classes).to(torch.float32)


def has_modes(network: nn.Module) -> bool:
    """Return whether some layer computes something else in training mode."""
    return any(isinstance(module, MODAL) for module in network.modules())
