"""The training loop: which rows it sees, at which rate, and what it leaves behind."""

import math

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from online import online_surrogate
from torch.nn import functional

from bench.models import networks, training
from bench.models.determinism import single_thread, torch_seed
from bench.models.training import TrainingSchedule, batches

SHAPE = (1, 4, 4)


def network(seed=0, name="mlp"):
    with torch_seed(seed):
        return networks.build(name, SHAPE, 3)


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, *SHAPE), dtype=np.float32)
    return x, rng.dirichlet(np.ones(3), n).astype(np.float32)


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (2, 64), (1, 1)])
def test_every_row_is_seen_once_an_epoch(n, size):
    per_epoch = math.ceil(n / size)
    drawn = list(batches(n, size, 3 * per_epoch, seed=4))
    assert len(drawn) == 3 * per_epoch
    assert max(map(len, drawn)) == min(n, size)
    starts = range(0, len(drawn), per_epoch)
    epochs = [torch.cat(drawn[start : start + per_epoch]).tolist() for start in starts]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)


def test_epochs_are_shuffled_anew_and_seeds_differ():
    first, second = (rows.tolist() for rows in batches(40, 40, 2, seed=1))
    (other,) = (rows.tolist() for rows in batches(40, 40, 1, seed=2))
    assert first != second
    assert first != other


def test_batches_are_a_prefix_of_longer_ones():
    short, long = (list(batches(10, 4, steps, seed=1)) for steps in (5, 9))
    assert all(torch.equal(a, b) for a, b in zip(short, long[:5], strict=True))


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    list(batches(10, 4, 5, seed=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("n", "steps"), [(64, 20), (65, 40), (1, 20)])
def test_epochs_count_the_short_batch(n, steps):
    assert training.epochs(n, 64, 20) == steps


def test_the_rate_falls_along_half_a_cosine():
    schedule = TrainingSchedule(100, learning_rate=2.0)
    assert training.learning_rate_at(schedule, 1) == 2.0
    assert training.learning_rate_at(schedule, 51) == pytest.approx(1.0)
    assert 0 < training.learning_rate_at(schedule, 100) < 0.01
    assert training.learning_rate_at(TrainingSchedule(100, learning_rate=2.0, decay=False), 100) == 2.0


def test_a_schedule_as_text_names_every_hyperparameter():
    assert str(TrainingSchedule(5)) == "adam, 5 steps of 64, lr 0.001 cosine, weight decay 0"
    different = [
        TrainingSchedule(6),
        TrainingSchedule(5, 32),
        TrainingSchedule(5, 64, 2e-3),
        TrainingSchedule(5, weight_decay=1),
        TrainingSchedule(5, decay=False),
    ]
    assert len({str(schedule) for schedule in [TrainingSchedule(5), *different]}) == 6


def test_training_is_plain_adam_on_cross_entropy():
    x, y = data()
    schedule = TrainingSchedule(12, 16, 1e-2, weight_decay=1e-3)
    _, weights = training.train(network(), x, y, schedule, seed=3)
    twin = network()
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2, weight_decay=1e-3)
    for step, rows in enumerate(batches(len(x), 16, 12, seed=3)):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 12)) / 2
        optimizer.zero_grad()
        likely = functional.log_softmax(twin(torch.from_numpy(x[rows])), dim=1)
        (-(likely * torch.from_numpy(y[rows])).sum(dim=1).mean()).backward()
        optimizer.step()
    for name, value in twin.state_dict().items():
        assert torch.allclose(weights[name], value, atol=1e-4), name


def test_weights_after_half_and_all_of_the_steps_differ_and_are_copies():
    x, y = data()
    trained = network()
    half, full = training.train(trained, x, y, TrainingSchedule(10, 16), seed=0)
    start = training.snapshot(network())
    assert all(not torch.equal(half[name], full[name]) for name in full)
    assert all(not torch.equal(half[name], start[name]) for name in full)
    assert all(torch.equal(full[name], value) for name, value in trained.state_dict().items())
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    assert not torch.equal(full["blocks.0.1.weight"], trained.state_dict()["blocks.0.1.weight"])


def test_one_step_has_an_untrained_half():
    x, y = data()
    half, full = training.train(network(), x, y, TrainingSchedule(1), seed=0)
    start = training.snapshot(network())
    assert all(torch.equal(half[name], start[name]) for name in start)
    assert any(not torch.equal(full[name], start[name]) for name in start)


def test_a_trained_network_is_left_in_evaluation_mode():
    x, y = data()
    trained = network(name="cnn")
    training.train(trained, x, y, TrainingSchedule(2), seed=0)
    assert not any(module.training for module in trained.modules())


def test_training_lowers_the_loss():
    x, y = data()
    trained = network()

    def loss():
        with torch.no_grad():
            return float(functional.cross_entropy(trained(torch.from_numpy(x)), torch.from_numpy(y)))

    before = loss()
    training.train(trained, x, y, TrainingSchedule(200), seed=0)
    assert loss() < before - 0.1


def test_softmax_is_in_double_precision_and_does_not_overflow():
    likely = training.softmax(np.array([[1e4, 0, -1e4], [20, 0, 0]], dtype=np.float32))
    assert likely.dtype == np.float64
    assert np.allclose(likely.sum(axis=1), 1)
    assert likely[0, 0] == 1
    assert 0 < 1 - likely[1, 0] < 1e-8


def test_logits_and_the_last_activation_are_the_networks():
    x, _ = data(300)
    model = network().eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    assert np.allclose(training.logits(model, x), expected, atol=1e-6)
    depths = training.activations(model, x)
    assert [depth.shape for depth in depths] == [(300, 128), (300, 64), (300, 3)]
    assert (depths[-1] == training.logits(model, x)).all()


def test_logits_of_a_row_are_the_same_alone_and_in_a_batch():
    x, _ = data(300)
    model = network(name="cnn").eval()
    whole = training.logits(model, x)
    assert all(
        (training.logits(model, x[row : row + 1])[0] == whole[row]).all() for row in (0, 7, 255, 256, 299)
    )


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_an_online_step_is_an_adam_step(name):
    x, y = data(4)
    online, twin = online_surrogate(network(name=name), 1e-2, SHAPE), network(name=name).train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for _ in range(3):
        online.step(x, y.astype(np.float64))
        optimizer.zero_grad()
        likely = functional.log_softmax(twin(torch.from_numpy(x)), dim=1)
        (-(likely * torch.from_numpy(y)).sum(dim=1).mean()).backward()
        optimizer.step()
        online.logits(x)
    with torch.inference_mode():
        expected = twin.eval()(torch.from_numpy(x)).numpy()
    assert np.allclose(online.logits(x), expected, atol=3e-3)
    assert not np.allclose(online.logits(x), training.logits(network(name=name).eval(), x), atol=1e-2)


def test_querying_an_online_surrogate_does_not_change_it():
    x, _ = data(4)
    online = online_surrogate(network(name="cnn"), 1e-2, SHAPE)
    assert (online.logits(x) == online.logits(x)).all()
    assert np.allclose(online.logits(x[:1]), online.logits(x)[:1], atol=1e-6)


def test_mse_log_softmax_is_pytorchs_mse_of_logs_with_the_constant():
    x, y = data()
    y[:10] = np.eye(3, dtype=np.float32)[0]
    schedule = TrainingSchedule(1, batch_size=50, learning_rate=0.1, loss="mse-log-softmax", constant=1e-3)
    outputs = network()(torch.from_numpy(x)).detach()
    expected = functional.mse_loss(
        torch.log_softmax(outputs, dim=1), torch.log(torch.from_numpy(y.astype(np.float64) + 1e-3)).float()
    )
    found = training.row_losses(
        outputs, torch.from_numpy(training.loss_targets(y, schedule)), schedule
    ).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_row_losses_are_pytorchs_cross_entropy():
    x, y = data()
    outputs, schedule = network()(torch.from_numpy(x)).detach(), TrainingSchedule(1)
    found = training.row_losses(
        outputs, torch.from_numpy(training.loss_targets(y, schedule)), schedule
    ).mean()
    expected = functional.cross_entropy(outputs, torch.from_numpy(y))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("loss", ["cross-entropy", "mse-log-softmax"])
def test_either_loss_brings_the_network_nearer_to_the_answers(loss):
    x, y = data()
    schedule = TrainingSchedule(300, batch_size=50, learning_rate=1e-2, loss=loss, constant=1e-9)
    net = network()
    before = training.softmax(training.logits(net, x))
    training.train(net, x, y, schedule, 0)
    after = training.softmax(training.logits(net, x))
    assert np.abs(after - y).sum() < 0.5 * np.abs(before - y).sum()


# --- beside ART's own training


def arts_fit(x, y, epochs):
    """Train by ART; return its weights and the batches that it drew, as rows of ``x``."""
    seen, rows = [], {row.tobytes(): place for place, row in enumerate(x)}

    class Seen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, batch):
            seen.append(torch.tensor([rows[row.numpy().tobytes()] for row in batch]))
            return self.network(batch)

    model = Seen()
    classifier = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        input_shape=x.shape[1:],
        nb_classes=3,
        device_type="cpu",
    )
    classifier.fit(x, y, batch_size=64, nb_epochs=epochs, verbose=False)
    return training.snapshot(model.network), seen


class PlainAdam:
    """Adam as ART's users have it: each tensor apart, nothing fused."""

    def __init__(self, parameters, _):
        self.gradients = [torch.zeros_like(each) for each in parameters]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def zero_gradients(self):
        self.optimizer.zero_grad(set_to_none=False)

    def step(self, _):
        self.optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_on_arts_batches_the_weights_are_those_of_art(fused, monkeypatch):
    x, y = data(320)
    with single_thread():
        theirs, seen = arts_fit(x, y, epochs=6)
        schedule = TrainingSchedule(len(seen), learning_rate=1e-3, decay=False)
        assert len(seen) == 30
        monkeypatch.setattr(training, "batches", lambda *_: iter(seen))
        if not fused:
            monkeypatch.setattr(training, "layers_of", lambda _: [])
            monkeypatch.setattr(training, "FlatAdam", PlainAdam)
        _, ours = training.train(network(), x, y, schedule, 0)
    for name, weights in theirs.items():
        if fused:
            assert torch.allclose(ours[name], weights, rtol=0, atol=1e-5), name
        else:
            assert torch.equal(ours[name], weights), name
