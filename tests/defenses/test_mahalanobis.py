"""The Mahalanobis gate: honest false positives near the target, strangers caught, actions as named."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from sklearn.exceptions import NotFittedError

import defenses.mahalanobis as module
from bench.data.data_files import load_pool_source, load_splits
from bench.errors import VictimError
from bench.inputs import Column, InputSpace
from defenses.base import Batch, Calibration
from defenses.mahalanobis import Mahalanobis

SHAPE = (1, 5, 5)
CLASSES = 3
CENTRES = np.random.default_rng(0).uniform(0.3, 0.7, (CLASSES, *SHAPE))
WEIGHTS = [
    np.random.default_rng(1).normal(size=size).astype(np.float32) for size in ((25, 12), (12, CLASSES))
]


def read_features(inputs):
    # Not a BLAS product, whose last bits depend on the number of rows: whitening magnifies them.
    hidden = np.maximum(np.einsum("nd,dk->nk", inputs.reshape(len(inputs), -1) - 0.5, WEIGHTS[0]), 0)
    return [hidden, np.einsum("nd,dk->nk", hidden, WEIGHTS[1])]


def probabilities(inputs):
    """A victim that is surer the nearer an input lies to a class centre."""
    distances = ((inputs[:, None] - CENTRES) ** 2).sum(axis=(2, 3, 4))
    weights = np.exp(-20 * (distances - distances.min(axis=1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


def honest(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    return (CENTRES[labels] + rng.normal(0, 0.08, (n, *SHAPE))).clip(0, 1).astype(np.float32), labels


def strange(n, seed):
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def calibration(held_out=1000, seed=0, read=read_features):
    train, labels = honest(1500, 2 * seed + 1)
    inputs, truth = honest(held_out, 2 * seed + 2)
    return Calibration(train, labels, inputs, truth, probabilities(inputs), read, seed)


def batch(inputs, read=read_features, seed=3):
    raw = probabilities(inputs)
    return Batch(inputs, raw, raw.copy(), seed=seed, read_features=read)


def gate(held_out=1000, seed=0, read=read_features, **parameters):
    defense = Mahalanobis(**parameters)
    defense.fit(calibration(held_out, seed, read))
    return defense


@pytest.mark.parametrize("layers", ["all", "input", "penultimate"])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2, 0.5])
def test_fresh_benign_queries_are_flagged_at_about_the_target_rate(layers, fpr):
    n, fresh = 1000, 4000
    defense = gate(n, fpr=fpr, layers=layers)
    flagged = int(defense.judge(batch(honest(fresh, 99)[0])).sum())
    # Split conformal: given its calibration split, the gate's rate is Beta(a, n + 1 - a) distributed.
    expected = round(defense.flagged_ * n) + (2 if layers == "all" else 1)
    assert expected / (n + 1) <= fpr
    assert expected / (n + 1) >= 0.8 * fpr
    low, high = betabinom(fresh, expected, n + 1 - expected).interval(0.9999)
    assert low <= flagged <= high


def test_the_rate_stays_under_the_target_on_average_over_calibration_splits():
    fresh = batch(honest(2000, 99)[0])
    rates = [gate(150, seed, fpr=0.05).judge(fresh).mean() for seed in range(1, 21)]
    # 20 gates with sd about .017 each: the mean has sd .004, and the gates aim at .04.
    assert 0.025 < np.mean(rates) < 0.055


@pytest.mark.parametrize("layers", ["all", "input"])
def test_strangers_are_caught(layers):
    assert gate(layers=layers).judge(batch(strange(1000, 5))).mean() > 0.99


def test_doubt_alone_is_enough_to_be_flagged():
    defense = gate(fpr=0.05)
    inputs = honest(50, 99)[0]
    sure = batch(inputs)
    calm = ~defense.judge(sure)
    unsure = replace(sure, raw=np.full_like(sure.raw, 1 / CLASSES))
    assert calm.sum() > 30
    assert defense.judge(unsure).all()


@pytest.mark.parametrize("layers", ["all", "input", "penultimate"])
def test_scores_of_the_calibration_split_are_kept_and_equal_those_of_a_query(layers):
    defense, data = gate(300, layers=layers), calibration(300)
    again = batch(data.inputs.copy())
    kept = defense.scores(again)
    defense._calibrated = data.probabilities, b"another"
    assert defense.scores(again).tobytes() == kept.tobytes()


@pytest.mark.parametrize("layers", ["input", "penultimate"])
def test_the_controls_ignore_the_probabilities(layers):
    defense = gate(layers=layers)
    queries = batch(honest(200, 99)[0])
    unsure = replace(queries, raw=np.full_like(queries.raw, 1 / CLASSES))
    assert (defense.judge(queries) == defense.judge(unsure)).all()


def test_the_pixel_control_never_reads_features():
    def forbidden(_):
        raise AssertionError

    defense = gate(layers="input", read=forbidden)
    assert not defense.fallback_
    defense.judge(batch(honest(10, 99)[0], forbidden))


def test_the_penultimate_control_reads_the_layer_before_the_logits_alone():
    def logits_differ(inputs):
        hidden, logits = read_features(inputs)
        return [hidden, logits + 100]

    defense = gate(layers="penultimate")
    inputs = np.concatenate([honest(100, 99)[0], strange(100, 5)])
    assert (defense.scores(batch(inputs)) == defense.scores(batch(inputs, logits_differ))).all()


def test_flagged_queries_get_fresh_distributions_under_noise():
    defense = gate(action="noise")
    queries = batch(strange(300, 5))
    answers = defense.answer(queries)
    noisy = answers.probabilities[answers.flagged]
    assert len(noisy) > 290
    assert not answers.refused.any()
    np.testing.assert_allclose(noisy.sum(axis=1), 1)
    assert len({row.tobytes() for row in noisy}) == len(noisy)
    # Dirichlet(1) is uniform on the simplex: every class has mean 1/3, sd sqrt(1/18 / 300) = .014.
    assert abs(noisy.mean(axis=0) - 1 / CLASSES).max() < 0.06
    again = defense.answer(replace(queries, number=1000)).probabilities
    assert not (again[answers.flagged] == noisy).any()


def test_flagged_queries_get_the_label_alone_under_label_only():
    queries = batch(strange(50, 5))
    answers = gate(action="label_only").answer(queries)
    flagged = answers.probabilities[answers.flagged]
    assert set(np.unique(flagged)) == {0, 1}
    assert (answers.probabilities.argmax(axis=1) == queries.raw.argmax(axis=1)).all()


def test_flagged_queries_get_nothing_under_refuse():
    answers = gate(action="refuse").answer(batch(strange(50, 5)))
    assert (answers.refused == answers.flagged).all()
    assert np.isnan(answers.probabilities[answers.refused]).all()


@pytest.mark.parametrize("action", ["noise", "label_only", "refuse"])
def test_queries_judged_benign_get_the_answers_so_far_unchanged(action):
    queries = batch(honest(500, 99)[0])
    rounded = replace(queries, probabilities=queries.raw.round(1))
    answers = gate(action=action).answer(rounded)
    clear = ~answers.flagged
    assert clear.sum() > 400
    assert (answers.probabilities[clear] == rounded.probabilities[clear]).all()


def test_a_victim_without_features_falls_back_to_pixels_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        defense = gate(read=None)
    assert defense.fallback_
    assert "no features" in caplog.text
    assert defense.judge(batch(strange(500, 5), None)).mean() > 0.99
    assert not gate().fallback_


def test_a_gate_fitted_with_features_refuses_to_judge_without():
    with pytest.raises(VictimError, match="features"):
        gate().judge(batch(honest(3, 99)[0], None))


def test_judging_before_fitting_says_what_to_do():
    with pytest.raises(NotFittedError, match="call fit"):
        Mahalanobis().judge(batch(honest(3, 99)[0]))


def test_too_few_calibration_rows_for_the_target_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        gate(100, fpr=0.01)
    assert "100 calibration rows are too few for fpr=0.01" in caplog.text


def test_the_same_data_and_seed_make_the_same_gate():
    inputs = np.concatenate([honest(300, 99)[0], strange(100, 5)])
    one, other = gate(), gate()
    assert one.thresholds_.tobytes() == other.thresholds_.tobytes()
    assert one.scores(batch(inputs)).tobytes() == other.scores(batch(inputs)).tobytes()


@pytest.mark.parametrize("widest", [1024, 8])
def test_a_batch_is_judged_as_its_rows_one_by_one(monkeypatch, widest):
    monkeypatch.setattr(module, "WIDEST", widest)
    module._sketch.cache_clear()
    defense = gate()
    inputs = np.concatenate([honest(300, 99)[0], strange(30, 5)])
    whole = defense.scores(batch(inputs))
    rows = np.concatenate([defense.scores(batch(row[None])) for row in inputs])
    module._sketch.cache_clear()
    np.testing.assert_allclose(rows, whole, atol=1e-9)
    near = (abs(whole - defense.thresholds_) <= 1e-6).any(axis=1)
    decisions = (rows > defense.thresholds_).any(axis=1)
    assert (decisions == defense.judge(batch(inputs)))[~near].all()


def test_layers_too_wide_to_keep_are_sketched_and_still_catch_strangers(monkeypatch):
    monkeypatch.setattr(module, "WIDEST", 16)
    module._sketch.cache_clear()
    defense = gate()
    caught = defense.judge(batch(strange(1000, 5))).mean()
    alarms = defense.judge(batch(honest(4000, 99)[0])).mean()
    module._sketch.cache_clear()
    assert caught > 0.95
    assert alarms < 0.08


def test_dead_features_and_classes_without_rows_do_no_harm():
    def with_dead(inputs):
        return [np.zeros((len(inputs), 7), np.float32), *read_features(inputs)]

    data = calibration(read=with_dead)
    kept = data.train_labels != 1
    defense = Mahalanobis()
    defense.fit(replace(data, train_inputs=data.train_inputs[kept], train_labels=data.train_labels[kept]))
    scores = defense.scores(batch(strange(50, 5), with_dead))
    assert np.isfinite(scores).all()


def test_a_query_whose_score_is_not_a_number_is_flagged():
    inputs = honest(4, 99)[0]
    inputs[2] = np.nan
    queries = replace(batch(honest(4, 99)[0]), inputs=inputs)
    assert gate().judge(queries)[2]


# --- real images


class SmallNet(torch.nn.Module):
    """LeNet's shape in small: trained within seconds, and a feature reader beside it."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
                nn.Sequential(nn.Linear(256, 84), nn.ReLU()),
                nn.Linear(84, 10),
            ]
        )

    def forward(self, x):
        return self.outputs(x)[-1]

    def outputs(self, x):
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x.flatten(1))
        return seen


def train(inputs, labels):
    """Return a net trained for two epochs on one thread, the global generators restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = SmallNet()
            optimiser = torch.optim.Adam(net.parameters(), 2e-3)
            x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
            for rows in torch.cat([torch.randperm(len(x)), torch.randperm(len(x))]).split(64):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimiser.step()
    finally:
        torch.set_num_threads(threads)
    return net.eval()


@pytest.fixture(scope="module")
def real(data_root):
    """A small net on 10,000 MNIST images, 5,000 others for calibration, and traffic never seen."""
    strangers = {name: load_pool_source(name, data_root).x[:1000] for name in ("fashion-mnist", "kmnist")}
    mnist = load_splits("mnist", 0, data_root)
    train_split = mnist.train.x[:10_000], mnist.train.y[:10_000]
    held_out = mnist.calibration.x[:5000], mnist.calibration.y[:5000]
    net = train(*train_split)

    @torch.no_grad()
    def read(inputs):
        return [layer.numpy() for layer in net.outputs(torch.from_numpy(np.ascontiguousarray(inputs)))]

    @torch.no_grad()
    def answers(inputs):
        return torch.softmax(net(torch.from_numpy(inputs)).double(), dim=1).numpy()

    traffic = {
        "honest": mnist.test.x[:5000],
        "noise": np.random.default_rng(0).random((1000, 1, 28, 28), dtype=np.float32),
    } | strangers

    def share_flagged(fpr):
        defense = Mahalanobis(fpr=fpr)
        defense.fit(Calibration(*train_split, *held_out, answers(held_out[0]), read))
        return {
            name: float(defense.judge(Batch(x, answers(x), answers(x), read_features=read)).mean())
            for name, x in traffic.items()
        }

    return share_flagged


@pytest.mark.slow
def test_on_mnist_at_five_per_cent_noise_fashion_and_kmnist_are_caught(real):
    share = real(0.05)
    assert share["honest"] <= 0.06
    assert share["noise"] >= 0.99
    assert share["fashion-mnist"] >= 0.97
    assert share["kmnist"] >= 0.97


@pytest.mark.slow
def test_on_mnist_at_one_per_cent_benign_queries_pass_and_noise_does_not(real):
    share = real(0.01)
    assert share["honest"] <= 0.015
    assert share["noise"] >= 0.99


def table_gate(factor):
    """A detector for a table of two columns that are nearly equal, and a category; one in another unit."""
    space = InputSpace.of_columns(
        [
            Column("a", "number", 0, factor, missing=True),
            Column("b", "number", 0, 1),
            Column.of_categories("c", ["x", "y"]),
        ]
    )
    rng = np.random.default_rng(0)
    common = rng.random((900, 1))
    columns = np.clip([common[:, 0], common[:, 0] + rng.normal(0, 0.01, 900)], 0, 1)
    x = np.stack([columns[0] * factor, columns[1], rng.integers(0, 2, 900)], axis=1).astype(np.float32)
    x[::10, 0] = np.nan
    labels, sure = (x[:, 1] > 0.5).astype(np.int64), np.full((900, 2), [0.9, 0.1])
    defense = Mahalanobis(fpr=0.1, layers="input")
    defense.fit(Calibration(x[:600], labels[:600], x[600:], labels[600:], sure[600:], space=space))
    return defense, x


def test_a_table_is_judged_by_how_its_columns_belong_together_whatever_their_units():
    judged = {}
    for factor in (1, 1e6):
        defense, x = table_gate(factor)
        strange = x.copy()
        strange[:, 1] = 1 - strange[:, 1]  # each value as usual, but not the two together
        apart = np.abs(strange[:, 1] - 0.5) > 0.2
        queries = np.concatenate([x[600:], strange[apart & ~np.isnan(x[:, 0])]])
        sure = np.full((len(queries), 2), [0.9, 0.1])
        judged[factor] = defense.judge(Batch(queries, sure, sure.copy()))
        assert judged[factor][:300].mean() < 0.15
        assert judged[factor][300:].all()
    assert (judged[1] == judged[1e6]).mean() > 0.99
