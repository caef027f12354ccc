"""Networks fit the shapes of their images."""

import numpy as np
import pytest
from cases import slow_unless

from bench.errors import UsageError
from bench.models import networks, training
from bench.models.determinism import torch_seed


@pytest.mark.parametrize(
    ("name", "shape"),
    slow_unless(
        lambda name, shape: (name, shape) != ("resnet18", (3, 16, 16)),
        [
            ("logistic", (1, 8, 8)),
            ("mlp", (3, 16, 16)),
            ("cnn", (1, 8, 8)),
            ("cnn", (3, 32, 32)),
            ("lenet", (1, 28, 28)),
            ("lenet", (3, 20, 24)),
            ("resnet18", (1, 8, 8)),
            ("resnet18", (3, 16, 16)),
        ],
    ),
)
def test_a_network_fits_its_images(name, shape):
    with torch_seed(0):
        network = networks.build(name, shape, 7).eval()
    x = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    logits = training.logits(network, x)
    assert logits.shape == (3, 7)
    assert logits.dtype == np.float32
    depths = training.activations(network, x)
    assert len(depths) == len(network.blocks)
    assert (depths[-1] == logits).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 16), (3, 19, 19)])
def test_lenet_says_that_images_are_too_small(shape):
    with pytest.raises(UsageError, match=r"lenet needs inputs of 20×20 or more, got .*; use mlp or cnn"):
        networks.build("lenet", shape, 10)
