"""FixMatch, MixMatch and rotation: each formula by hand, each gradient by autograd, and what they share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.augmentation import Augmentation
from bench.errors import NotApplicable
from bench.models import semi_supervised, surrogates, training
from bench.models.determinism import torch_seed
from bench.models.semi_supervised import (
    METHODS,
    TrainingData,
    confident_labels,
    mixture,
    require_method,
    rows_in_training,
    sharpened,
    squared_error_gradient,
    train_on_views,
)
from bench.models.training import Optimizer, TrainingSchedule

SCHEDULE = TrainingSchedule(8, batch_size=4, learning_rate=3e-3)
SHAPE = (1, 8, 8)
BY_VIEWS = ("fixmatch", "mixmatch", "rotation")
ROWS = torch.tensor([2, 0, 3])


def data_of(n=6, unlabelled=40, classes=3, shape=SHAPE):
    rng = np.random.default_rng(0)
    x, more = (rng.random((size, *shape), dtype=np.float32) for size in (n, unlabelled))
    y = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    layout = "images" if len(shape) == 3 else "table"
    return TrainingData(x, y, more, Augmentation(layout, x))


def trained(method, data, *, architecture="mlp", schedule=SCHEDULE, seed=5):
    network = surrogates.initial_network(architecture, data.x.shape[1:], data.y.shape[1], seed)
    with torch_seed(seed):
        return train_on_views(network, data, method, schedule, seed)


def bits(both):
    return [(name, value.numpy().tobytes()) for weights in both for name, value in sorted(weights.items())]


# --- the formulas, by hand


def test_sharpening_squares_and_normalises():
    # .25, .09 and .04 sum to .38.
    found = sharpened(torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]]))
    assert found[0].tolist() == pytest.approx([0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38])
    assert found[1].tolist() == [0, 1, 0]


def test_a_label_is_confident_from_95_percent_on():
    likely = torch.tensor([[0.96, 0.04], [0.94, 0.06], [0.01, 0.99], [0.5, 0.5]])
    confident, labels = confident_labels(likely.log())
    assert confident.tolist() == [True, False, True, False]
    assert labels.tolist() == [0, 0, 1, 0]


def test_a_mixture_is_convex():
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    found = mixture(rows, torch.tensor([1.0, 0.75, 0.5]), torch.tensor([1, 2, 0]))
    expected = [[0, 1], [0.75 + 0.125, 0.125], [0.25, 0.75]]
    assert found.tolist() == [pytest.approx(row) for row in expected]
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_mixing_weights_keep_the_larger_part():
    views = semi_supervised.Views(data_of(), 0)
    weights = views.mixing_weights(2_000)
    assert weights.min() >= 0.5
    assert weights.max() <= 1
    # The mean of max(b, 1 - b) for b from Beta(.75, .75), by numerical integration.
    grid = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = (grid * (1 - grid)) ** -0.25
    mean = (np.maximum(grid, 1 - grid) * density).sum() / density.sum()
    assert float(weights.mean()) == pytest.approx(mean, abs=0.02)  # standard error .0034


def test_the_gradient_of_the_squared_error_is_autograds():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    functional.mse_loss(torch.softmax(logits, dim=1), targets).backward()
    assert torch.allclose(squared_error_gradient(logits.detach(), targets), logits.grad)
    assert squared_error_gradient(logits[:0].detach(), targets[:0]).shape == (0, 4)


# --- what each method learns in a step


class Guesses:
    """A network in evaluation mode that a test knows: class by brightness, as sure as ``sure`` says."""

    def __init__(self, classes, sure):
        self.classes, self.sure, self.asked = classes, sure, []

    def __call__(self, x):
        self.asked.append(x.clone())
        label = (x.flatten(1).mean(dim=1) * 1e4).long() % self.classes
        rest = (1 - self.sure) / (self.classes - 1)
        return torch.where(functional.one_hot(label, self.classes) > 0, self.sure, rest).log()


def random_logits(rows, outputs):
    return torch.randn(rows, outputs, generator=torch.Generator().manual_seed(1))


def by_autograd(loss, logits):
    logits = logits.clone().requires_grad_()
    loss(logits).backward()
    return logits.grad


def weak_labelled(data, seed=5):
    return semi_supervised.Views(data, semi_supervised.derive(seed, "weak views")).weak(data.x[ROWS.numpy()])


def cross_entropy(logits, targets):
    return -(torch.log_softmax(logits, dim=1) * targets).sum(dim=1)


def test_the_control_learns_weak_views_of_the_answered_inputs_alone():
    data = data_of()
    x, gradient = METHODS["weak"](data, SCHEDULE, 5).batch(ROWS, 1, None)
    assert (x.numpy() == weak_labelled(data)).all()
    logits, y = random_logits(3, 3), torch.from_numpy(data.y[ROWS.numpy()])
    expected = by_autograd(lambda z: cross_entropy(z, y).mean(), logits)
    assert torch.allclose(gradient(logits), expected, atol=1e-7)


@pytest.mark.parametrize("sure", [0.96, 0.94])
def test_fixmatch_learns_confident_labels_on_strong_views(sure):
    data, guesses = data_of(), Guesses(3, sure)
    x, gradient = METHODS["fixmatch"](data, SCHEDULE, 5).batch(ROWS, 1, guesses)
    (weak,) = guesses.asked
    assert weak.shape == (28, *SHAPE)  # seven for each row of a full batch of four
    assert len(x) == (3 + 28 if sure > 0.95 else 3)
    assert (x[:3].numpy() == weak_labelled(data)).all()
    assert not set(map(bytes, x[3:].numpy())) & set(map(bytes, weak.numpy()))
    logits, y = random_logits(len(x), 3), torch.from_numpy(data.y[ROWS.numpy()])
    labels = functional.one_hot(Guesses(3, sure)(weak).argmax(dim=1), 3)[: len(x) - 3]

    def loss(z):
        return cross_entropy(z[:3], y).mean() + cross_entropy(z[3:], labels).sum() / 28

    assert torch.allclose(gradient(logits), by_autograd(loss, logits), atol=1e-7)


def test_fixmatch_divides_by_all_drawn_inputs_not_by_the_confident():
    data = data_of()
    half = [Guesses(3, 0.96), Guesses(3, 0.5)]

    def guesses(x):
        return torch.cat([half[0](x[:14]), half[1](x[14:])])

    x, gradient = METHODS["fixmatch"](data, SCHEDULE, 5).batch(ROWS, 1, guesses)
    assert len(x) == 3 + 14
    # With equal logits, the gradient of a row is its weight times (1/3 - target).
    rows = gradient(torch.zeros(17, 3))[3:]
    assert rows.max(dim=1).values.tolist() == pytest.approx([1 / 3 / 28] * 14)


@pytest.mark.parametrize("step", [1, 4, 8])
def test_mixmatch_mixes_answers_with_sharpened_mean_labels(step, monkeypatch):
    data, guesses, mixed = data_of(), Guesses(3, 0.7), []

    def recorded(rows, weights, partners):
        mixed.append((rows, weights, partners))
        return mixture(rows, weights, partners)

    monkeypatch.setattr(semi_supervised, "mixture", recorded)
    x, gradient = METHODS["mixmatch"](data, SCHEDULE, 5).batch(ROWS, step, guesses)
    views, y = guesses.asked, torch.from_numpy(data.y[ROWS.numpy()])
    assert [len(each) for each in views] == [4, 4]
    assert not torch.equal(*views)
    mean = sum(torch.softmax(Guesses(3, 0.7)(each), dim=1) for each in views) / 2
    label = mean**2 / (mean**2).sum(dim=1, keepdim=True)
    (inputs, weights, partners), (targets, *_) = mixed
    assert torch.equal(inputs, torch.cat([torch.from_numpy(weak_labelled(data)), *views]))
    assert torch.allclose(targets, torch.cat([y, label, label]))
    assert sorted(partners.tolist()) == list(range(11))
    logits, soft = random_logits(11, 3), mixture(targets, weights, partners)

    def loss(z):
        squares = functional.mse_loss(torch.softmax(z[3:], dim=1), soft[3:])
        return cross_entropy(z[:3], soft[:3]).mean() + 75 * step / 8 * squares

    assert torch.equal(x, mixture(inputs, weights, partners))
    assert torch.allclose(gradient(logits), by_autograd(loss, logits), atol=1e-6)


def test_rotation_tells_four_turns_apart_on_a_second_head():
    data = data_of()
    x, gradient = METHODS["rotation"](data, SCHEDULE, 5).batch(ROWS, 1, None)
    assert x.shape == (3 + 16, *SHAPE)
    for turn in range(4):
        assert (x[3 + 4 * turn : 7 + 4 * turn].numpy() == np.rot90(x[3:7].numpy(), turn, axes=(2, 3))).all()
    logits, y = random_logits(19, 3 + 4), torch.from_numpy(data.y[ROWS.numpy()])
    turns = torch.tensor([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)

    def loss(z):
        return cross_entropy(z[:3, :3], y).mean() + functional.cross_entropy(z[3:, 3:], turns)

    assert torch.allclose(gradient(logits), by_autograd(loss, logits), atol=1e-7)


def test_the_second_head_leaves_the_first_as_it_was_and_is_not_kept():
    network = surrogates.initial_network("mlp", SHAPE, 3, 1)
    weight, bias = network.blocks[-1].weight.clone(), network.blocks[-1].bias.clone()
    state = torch.get_rng_state()
    semi_supervised._add_outputs(network, 4, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.blocks[-1].weight.shape == (7, 64)
    assert torch.equal(network.blocks[-1].weight[:3], weight)
    assert torch.equal(network.blocks[-1].bias[:3], bias)
    assert 0 < network.blocks[-1].weight[3:].abs().max() <= 1 / 8
    for weights in trained("rotation", data_of()):
        assert weights["blocks.2.weight"].shape == (3, 64)
        assert weights["blocks.2.bias"].shape == (3,)


@pytest.mark.parametrize(("size", "number"), [(40, 4), (3, 3), (4, 4), (5, 4), (1, 1)])
def test_unlabelled_inputs_come_in_full_batches_and_all_in_turn(size, number):
    method = METHODS["mixmatch"](data_of(unlabelled=size), SCHEDULE, 5)
    rows = [next(method._rows) for _ in range(3 * size)]
    assert {len(each) for each in rows} == {number}
    flat = np.concatenate(rows)[: 3 * size]
    for turn in range(3):
        assert sorted(flat[turn * size : (turn + 1) * size]) == list(range(size))


@pytest.mark.parametrize("method", BY_VIEWS)
def test_batches_and_weak_views_of_answered_inputs_are_the_controls(method, monkeypatch):
    data, seen = data_of(), {}
    for name in ("weak", method):
        seen[name] = []
        plain = METHODS[name]._weak_views

        def recorded(self, rows, plain=plain, name=name):
            x, targets = plain(self, rows)
            seen[name].append((rows.tolist(), x.tobytes(), targets.numpy().tobytes()))
            return x, targets

        with monkeypatch.context() as patch:
            patch.setattr(METHODS[name], "_weak_views", recorded)
            trained(name, data)
    assert len(seen["weak"]) == 8
    assert seen["weak"] == seen[method]


# --- the training


@pytest.mark.parametrize("method", METHODS)
def test_a_training_is_a_function_of_data_and_seed(method):
    data = data_of()
    one = trained(method, data)
    assert bits(one) == bits(trained(method, data))
    assert bits(one) != bits(trained(method, data, seed=6))
    assert all(not torch.equal(one[0][name], one[1][name]) for name in one[0])


@pytest.mark.parametrize("method", BY_VIEWS)
def test_the_unlabelled_inputs_matter_and_without_them_it_is_the_control(method):
    data = data_of()
    data = replace(data, x=data.x[:3], y=np.eye(3, dtype=np.float32))  # learned, so that labels get confident
    longer = TrainingSchedule(60, batch_size=4, learning_rate=1e-2)
    control = bits(trained("weak", data, schedule=longer))
    assert bits(trained(method, data, schedule=longer)) != control
    nothing = replace(data, unlabelled=data.unlabelled[:0])
    assert bits(trained(method, nothing, schedule=longer)) == control


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("architecture", "side"), [("mlp", 8), ("lenet", 20), ("cnn", 8)])
def test_the_fast_path_gives_the_same_bits(method, architecture, side, monkeypatch):
    data = data_of(shape=(1, side, side))
    schedule = replace(SCHEDULE, steps=3)
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv("MOATBENCH_FAST", switch)
        found.append(bits(trained(method, data, architecture=architecture, schedule=schedule)))
    assert found[0] == found[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "unlabelled", "classes"), [(1, 1, 2), (2, 3, 2), (5, 40, 100), (9, 1, 3)])
def test_few_rows_and_any_number_of_classes_will_do(method, n, unlabelled, classes):
    half, full = trained(method, data_of(n, unlabelled, classes))
    assert all(bool(value.isfinite().all()) for weights in (half, full) for value in weights.values())
    assert full["blocks.2.bias"].shape == (classes,)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(6, 40), (4, 3), (1, 1), (70, 0)])
@pytest.mark.parametrize("method", ["", *METHODS])
def test_rows_are_counted(method, labelled, unlabelled, monkeypatch):
    """As many as the network evaluates, where FixMatch is confident of every label."""
    evaluated = []

    class Counted(Optimizer):
        def logits(self, x):
            evaluated.append(len(x))
            return super().logits(x)

        def step(self, x, *args):
            evaluated.append(len(x))
            super().step(x, *args)

        def step_by(self, x, *args):
            evaluated.append(len(x))
            super().step_by(x, *args)

    for module in (semi_supervised, training):
        monkeypatch.setattr(module, "Optimizer", Counted)
    monkeypatch.setattr(semi_supervised, "CONFIDENCE", 0.0)
    data = data_of(labelled, unlabelled)
    if method:
        trained(method, data)
    else:
        training.train(surrogates.initial_network("mlp", SHAPE, 3, 5), data.x, data.y, SCHEDULE, 5)
    assert rows_in_training(method, SCHEDULE, labelled, unlabelled) == sum(evaluated)


def test_no_answers_are_no_rows():
    assert rows_in_training("fixmatch", SCHEDULE, 0, 40) == 0


@pytest.mark.parametrize(
    ("architecture", "shape", "said"),
    [
        ("mlp", (30,), r"square images, and inputs are \(30,\)"),
        ("mlp", (6, 3), "square images"),
        ("lenet", (1, 20, 28), "square images"),
        ("logistic", SHAPE, "logistic has none"),
    ],
)
def test_rotation_needs_square_images_and_shared_layers(architecture, shape, said):
    with pytest.raises(NotApplicable, match=said):
        require_method("rotation", architecture, shape)
    for method in ("weak", "fixmatch", "mixmatch"):
        require_method(method, architecture, shape)
