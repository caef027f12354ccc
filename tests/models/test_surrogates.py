"""Training of surrogates: pure, cached by everything it depends on, one configuration for every budget."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import slow_unless

from attacks.base import TransferSet
from bench.models import networks, surrogates, training
from bench.models.batched_training import BATCHED
from bench.models.determinism import torch_seed
from bench.models.training_config import TrainingConfig

SHAPE = (1, 8, 8)
SEEDS = (5, 6)


@pytest.fixture
def twenty_steps(monkeypatch):
    """Train for 20 steps, whatever the data set."""
    by_rule = TrainingConfig.schedule
    monkeypatch.setattr(TrainingConfig, "schedule", lambda *args: replace(by_rule(*args), steps=20))


@pytest.fixture
def sets(digits_pool):
    labels = np.eye(10, dtype=np.float32)[digits_pool.y]
    return [TransferSet(digits_pool.x[start : start + 40], labels[start : start + 40]) for start in (0, 40)]


def empty(sets):
    return TransferSet(sets[0].x[:0], sets[0].y[:0])


def bits(copies):
    return [
        (name, value.numpy().tobytes())
        for copy in copies
        for weights in (copy.half, copy.full)
        for name, value in sorted(weights.items())
    ]


def forbid_training(monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(surrogates, "train_batched", never)
    monkeypatch.setattr(training, "train", never)


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", ["mlp", "logistic", "cnn"])
def test_training_is_a_pure_function(architecture, sets):
    before = [repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().numpy().tobytes()]
    one = surrogates.fit(sets, architecture, 10, SEEDS)
    torch.rand(3)
    after = torch.get_rng_state()
    other = surrogates.fit(sets, architecture, 10, SEEDS)
    assert bits(one) == bits(other)
    assert torch.equal(torch.get_rng_state(), after)
    assert before[:2] == [repr(random.getstate()), repr(np.random.get_state())]
    assert not any(copy.shared for copy in one)
    assert [copy.steps for copy in one] == [20, 20]


@pytest.mark.usefixtures("twenty_steps")
def test_training_leaves_the_transfer_set_alone(sets):
    digests = [each.digest() for each in sets]
    surrogates.fit(sets, "mlp", 10, SEEDS)
    assert [each.digest() for each in sets] == digests


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", slow_unless(lambda name: name != "cnn", ["mlp", "cnn"]))
def test_the_seed_and_the_transfer_set_matter(architecture, sets):
    (one,) = surrogates.fit(sets[:1], architecture, 10, [5])
    (reseeded,) = surrogates.fit(sets[:1], architecture, 10, [6])
    (other,) = surrogates.fit(sets[1:], architecture, 10, [5])
    assert len({str(bits([copy])) for copy in (one, reseeded, other)}) == 3


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", slow_unless(lambda name: name != "cnn", ["mlp", "cnn"]))
def test_a_cached_training_is_equal_to_the_last_bit(architecture, sets, tmp_path, monkeypatch):
    first = surrogates.fit(sets, architecture, 10, SEEDS, tmp_path)
    forbid_training(monkeypatch)
    again = surrogates.fit(sets, architecture, 10, SEEDS, tmp_path)
    assert bits(again) == bits(first)
    assert all(copy.shared for copy in again)
    assert not any(copy.shared for copy in first)
    x = sets[0].x
    assert (again[0].probabilities(x) == first[0].probabilities(x)).all()
    assert not list(tmp_path.glob("*.part"))
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if architecture in BATCHED else 2)


@pytest.mark.usefixtures("twenty_steps")
def test_a_cached_training_is_for_the_same_sets_order_architecture_and_seeds(sets, tmp_path):
    surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path)
    fewer = TransferSet(sets[1].x[:-1], sets[1].y[:-1])
    asked = [
        (sets[::-1], "mlp", SEEDS),
        ([sets[0], fewer], "mlp", SEEDS),
        (sets[:1], "mlp", SEEDS[:1]),
        (sets, "logistic", SEEDS),
        (sets, "mlp", SEEDS[::-1]),
    ]
    for bought, architecture, seeds in asked:
        assert not any(copy.shared for copy in surrogates.fit(bought, architecture, 10, seeds, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1 + len(asked)


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("learning_rate=0.001", "learning_rate=0.0010000001"),
        ("loss=mse-log-softmax,constant=0.001", "loss=mse-log-softmax,constant=0.0010000001"),
        ("learning_rate=0.001", "learning_rate=0.001,augment=weak"),
    ],
)
def test_a_cached_training_is_for_the_same_configuration_to_the_last_digit(one, other, sets, tmp_path):
    for text, shared in [(one, False), (other, False), (one, True)]:
        fitted = surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path, f"rule({text})")
        assert all(surrogate.shared == shared for surrogate in fitted)


@pytest.mark.usefixtures("twenty_steps")
def test_a_cached_training_of_other_versions_is_not_used(sets, tmp_path, monkeypatch):
    surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path)
    monkeypatch.setattr(surrogates, "versions", lambda: {"torch": "another"})
    assert not any(copy.shared for copy in surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path))


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("left", [0, 5, 1000], ids=["empty", "header cut", "weights cut"])
def test_half_a_cached_file_is_trained_again_and_replaced(left, sets, tmp_path):
    first = surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    again = surrogates.fit(sets, "mlp", 10, SEEDS, tmp_path)
    assert bits(again) == bits(first)
    assert not any(copy.shared for copy in again)
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", slow_unless(lambda name: name != "cnn", ["mlp", "cnn"]))
def test_an_empty_transfer_set_gives_an_untrained_network(architecture, sets):
    nothing, something = surrogates.fit([empty(sets), sets[1]], architecture, 10, SEEDS)
    with torch_seed(SEEDS[0]):
        untrained = networks.build(architecture, SHAPE, 10).eval()
    expected = training.softmax(training.logits(untrained, sets[1].x))
    assert (nothing.probabilities(sets[1].x) == expected).all()
    assert (nothing.probabilities_half(sets[1].x) == expected).all()
    assert not np.allclose(something.probabilities(sets[1].x), expected, atol=1e-2)


@pytest.mark.usefixtures("twenty_steps")
def test_a_group_of_empty_transfer_sets_is_trained_too(sets):
    assert len(surrogates.fit([empty(sets)] * 2, "mlp", 10, SEEDS)) == 2


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "logistic", "resnet18", "lenet"])
def test_small_images_get_a_thousand_steps(architecture):
    for n in (1, 400, 100_000):
        assert TrainingConfig().schedule(architecture, (1, 8, 8), n).steps == 1_000
        assert TrainingConfig().schedule(architecture, (1, 19, 28), n).steps == 1_000


@pytest.mark.parametrize(("n", "steps"), [(1, 2_500), (8_000, 2_500), (8_001, 2_520), (10_000, 3_140)])
def test_larger_images_get_2500_steps_or_20_epochs(n, steps):
    assert TrainingConfig().schedule("mlp", (1, 28, 28), n).steps == steps
    assert TrainingConfig().schedule("mlp", (3, 20, 20), n).steps == steps


@pytest.mark.usefixtures("twenty_steps")
def test_a_surrogate_after_half_of_the_steps_answers_differently(sets):
    copy = surrogates.fit(sets, "cnn", 10, SEEDS)[0]
    half, full = copy.probabilities_half(sets[0].x), copy.probabilities(sets[0].x)
    assert half.shape == full.shape == (40, 10)
    assert (half != full).any()
    assert np.allclose(full.sum(axis=1), 1)


def test_a_surrogate_fits_its_transfer_set(sets):
    copies = surrogates.fit(sets, "mlp", 10, SEEDS)
    for copy, bought in zip(copies, sets, strict=True):
        assert (copy.probabilities(bought.x).argmax(axis=1) == bought.y.argmax(axis=1)).mean() > 0.97


def test_soft_answers_are_soft_targets(sets):
    soft = TransferSet(sets[0].x, np.full((40, 10), 0.1, dtype=np.float32))
    (copy,) = surrogates.fit([soft], "mlp", 10, [0])
    assert np.allclose(copy.probabilities(soft.x), 0.1, atol=0.05)


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", slow_unless(lambda name: name != "cnn", ["mlp", "cnn"]))
def test_another_training_configuration_is_another_training(architecture, sets, tmp_path):
    plain = surrogates.fit(sets, architecture, 10, SEEDS, tmp_path)
    for how in (
        "rule(loss=mse-log-softmax)",
        "rule(loss=mse-log-softmax, constant=0.001)",
        "rule(learning_rate=0.001)",
        "rule(batch_size=16)",
        "rule(decay=false)",
        "rule(mean=0.1)",
        "rule(std=0.5)",
    ):
        other = surrogates.fit(sets, architecture, 10, SEEDS, tmp_path, how)
        assert not any(copy.shared for copy in other), how
        assert bits(other) != bits(plain), how
        plain = other


def test_a_surrogate_scales_its_inputs_as_in_training(sets):
    scaled = [TransferSet((each.x - np.float32(0.25)) / np.float32(0.5), each.y) for each in sets]
    (one, _) = surrogates.fit(sets, "logistic", 10, SEEDS, None, "rule(mean=0.25, std=0.5, epochs=3)")
    (other, _) = surrogates.fit(scaled, "logistic", 10, SEEDS, None, "rule(epochs=3)")
    assert (one.probabilities(sets[0].x) == other.probabilities(scaled[0].x)).all()
    assert (one.probabilities(sets[0].x) != other.probabilities(sets[0].x)).any()


class Teacher:
    """Sure of the first half of what it is shown, in class 1; unsure of the rest."""

    def probabilities(self, x):
        told = np.full((len(x), 10), 0.1)
        told[: len(x) // 2] = np.eye(10)[1]
        return told


def test_pseudo_labels_are_the_confident_labels_of_the_teacher(sets, digits_pool):
    rest = digits_pool.x[100:120]
    more = surrogates.with_pseudo_labels(sets[0], Teacher(), rest)
    assert (more.x == np.concatenate([sets[0].x, rest[:10]])).all()
    assert (more.y[:40] == sets[0].y).all()
    assert (more.y[40:] == np.eye(10)[1]).all()
    assert more.x.dtype == more.y.dtype == np.float32


def test_no_answers_or_no_unqueried_inputs_give_no_pseudo_labels(sets, digits_pool):
    nothing = empty(sets)
    assert surrogates.with_pseudo_labels(nothing, Teacher(), digits_pool.x[:9]) is nothing
    assert surrogates.with_pseudo_labels(sets[0], Teacher(), digits_pool.x[:0]) is sets[0]


@pytest.mark.usefixtures("twenty_steps")
@pytest.mark.parametrize("architecture", ["mlp", "cnn", "sklearn-logistic"])
def test_the_second_surrogate_learns_the_first_ones_labels(architecture, sets, digits_pool, monkeypatch):
    how = "rule(unlabelled=pseudo-labels)"
    monkeypatch.setattr(surrogates, "MIN_CONFIDENCE", 0.0)
    rest = [digits_pool.x[100:160], digits_pool.x[160:200]]
    copies = surrogates.fit(sets, architecture, 10, SEEDS, training_text=how, unqueried=rest)
    first = surrogates.fit(sets, architecture, 10, SEEDS)
    taught = [surrogates.with_pseudo_labels(*three) for three in zip(sets, first, rest, strict=True)]
    assert [len(each.x) for each in taught] == [100, 80]
    by_hand = surrogates.fit(taught, architecture, 10, SEEDS)
    for copy, other in zip(copies, by_hand, strict=True):
        assert (copy.probabilities(digits_pool.x[:50]) == other.probabilities(digits_pool.x[:50])).all()
