"""The small networks of defenses: any kind of input, any loss, the same bits twice and in any batch."""

import numpy as np
import pytest
import torch

from bench.inputs import Column, InputSpace
from defenses.base import Calibration
from defenses.networks import initial, softmax, space_of, train, train_together

TABLE = InputSpace.of_columns(
    [
        Column("age", "number", 0, 100, missing=True),
        Column.of_categories("colour", ["red", "green", "blue"]),
        Column("own", "boolean", 0, 1),
    ]
)
SPACES = {
    "small images": InputSpace((1, 8, 8)),
    "images": InputSpace((1, 28, 28)),
    "coloured images": InputSpace((3, 20, 24)),
    "sequences": InputSpace((6, 2), (-1.0,), (3.0,)),
    "table": TABLE,
}


@pytest.fixture(params=SPACES, scope="module")
def space(request):
    return SPACES[request.param]


def inputs(space, number=30):
    return space.uniform(number, np.random.default_rng(5))


def test_a_row_has_the_same_bits_alone_and_in_a_batch(space):
    x = inputs(space, 300)
    if space.columns:
        x[::3, 0] = np.nan
    network = initial(space, 4, 7, x)
    together = network.logits(x)
    assert together.shape == (300, 4)
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    for row in (0, 1, 255, 256, 299):
        np.testing.assert_array_equal(network.logits(x[row : row + 1])[0], together[row])
    assert network.logits(x[:0]).shape == (0, 4)


def test_the_seed_alone_decides_the_initial_weights_and_global_generators_stay(space):
    x = inputs(space)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = (initial(space, 3, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    np.testing.assert_array_equal(first.logits(x), second.logits(x))
    assert np.abs(first.logits(x) - other.logits(x)).max() > 1e-3


def test_images_of_twenty_pixels_are_convolved_and_smaller_ones_are_not():
    def convolves(space):
        return any(isinstance(each, torch.nn.Conv2d) for each in initial(space, 2, 0).module.modules())

    assert convolves(InputSpace((1, 20, 20)))
    assert not convolves(InputSpace((1, 19, 28)))


def separable(number=200):
    """Rows of two columns; the class is whether the first is larger."""
    space = InputSpace((2,), (-1.0,), (1.0,))
    x = space.uniform(number, np.random.default_rng(0))
    return space, x, (x[:, 0] > x[:, 1]).astype(np.int64)


def test_it_learns_by_the_given_loss_with_the_same_bits_each_time():
    space, x, y = separable()
    labels = torch.from_numpy(y)

    def loss(logits, rows):
        return torch.nn.functional.cross_entropy(logits, labels[rows])

    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        nets.append(train(initial(space, 2, 3, x), x, loss, steps=150, seed=4, learning_rate=0.01))
        torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    assert (nets[0].logits(x).argmax(axis=1) == y).mean() > 0.95
    np.testing.assert_array_equal(nets[0].logits(x), nets[1].logits(x))
    assert not nets[0].module.training
    other = train(initial(space, 2, 3, x), x, loss, steps=150, seed=5, learning_rate=0.01)
    assert not np.array_equal(other.logits(x), nets[0].logits(x))


def test_networks_that_train_together_see_every_set_at_every_step():
    space, x, _ = separable(100)
    seen = []

    def loss(outputs, rows):
        seen.append([[tuple(logits.shape) for logits in each] for each in outputs])
        assert [len(each) for each in rows] == [64, 10] or [len(each) for each in rows] == [36, 10]
        # Both shall prefer class 0 on the first set and class 1 on the second.
        return sum(first[:, 1].mean() - first[:, 0].mean() for first, _ in outputs)

    networks = [initial(space, 2, seed, x) for seed in (1, 2)]
    train_together(networks, [x, x[:10]], loss, steps=20, seed=1, learning_rate=0.01)
    assert len(seen) == 20
    assert seen[0] == [[(64, 2), (10, 2)]] * 2
    assert seen[1] == [[(36, 2), (10, 2)]] * 2
    assert all((network.logits(x).argmax(axis=1) == 0).all() for network in networks)


def test_softmax_is_a_distribution_for_large_logits():
    rows = softmax(np.array([[1000.0, 0.0], [-1000.0, -1001.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[1, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)], [0.5, 0.5]], atol=1e-15)
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


def test_the_space_is_that_of_the_victim_or_images():
    images = np.zeros((2, 1, 8, 8), np.float32)
    nothing = np.zeros(2, np.int64)
    calibration = Calibration(images, nothing, images, nothing, np.full((2, 2), 0.5))
    assert space_of(calibration) == InputSpace((1, 8, 8))
