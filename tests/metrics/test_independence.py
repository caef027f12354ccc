"""Tests of fresh noise: false alarms and power, by simulation.

A correct implementation exceeds a bound on false alarms here with a chance below 1e-4: 400 simulations at 5 %
have at most 40 alarms, at .05/30 at most 6.
"""

import numpy as np
import pytest
from simulated_noise import NOISES, clipped, differences, streams

from bench.metrics import independence
from bench.metrics.independence import agreement_in_streams, agreement_of_draws, repeated


@pytest.fixture
def few_exchanges(monkeypatch):
    monkeypatch.setattr(independence, "EXCHANGES", 1999)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("label_kept", "rounded")]


@pytest.mark.usefixtures("few_exchanges")
@pytest.mark.parametrize("name", ["clipped", "rare", *SLOW])
def test_fresh_noise_of_any_kind_raises_no_more_alarms_than_allowed(name):
    chances = np.array(
        [agreement_of_draws(differences(np.random.default_rng(n), NOISES[name]), n)[1] for n in range(400)]
    )
    assert (chances <= 0.05).sum() <= 40
    assert (chances <= 0.05 / 30).sum() <= 6
    assert 0.4 < chances.mean() < 0.7


@pytest.mark.usefixtures("few_exchanges")
@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("clipped", 16),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("clipped", 48), ("rounded", 48))),
    ],
)
def test_fresh_noise_in_streams_raises_no_more_alarms_than_allowed(name, queries):
    made = (streams(np.random.default_rng(n), NOISES[name], queries=queries) for n in range(400))
    chances = np.array([agreement_in_streams(each, n)[1] for n, each in enumerate(made)])
    assert (chances <= 0.05).sum() <= 40
    assert (chances <= 0.05 / 30).sum() <= 6
    assert 0.4 < chances.mean() < 0.65


def test_a_hundredth_of_the_variance_that_the_input_decides_is_found_with_447_inputs():
    """The noise is .1 keyed and .995 fresh; a run misses it with a chance of about .1, all 4 with 1e-4."""
    found = [
        agreement_of_draws(differences(np.random.default_rng(n), clipped, 447, 32, 0.1), n) for n in range(4)
    ]
    assert min(chance for _, chance in found) <= 0.05 / 30
    for agreement, _ in found:
        assert 0 < agreement < 0.03


@pytest.mark.parametrize("name", NOISES)
def test_the_agreement_is_1_for_noise_that_the_input_decides_alone(name):
    agreement, chance = agreement_of_draws(differences(np.random.default_rng(3), NOISES[name], rho=1.0), 0)
    assert agreement == pytest.approx(1, abs=0.35)
    assert chance <= 0.001


def test_noise_with_a_period_is_found():
    agreement, chance = agreement_in_streams(streams(np.random.default_rng(3), clipped, 0.7), 0)
    assert agreement > 0.2
    assert chance <= 0.001


def test_noise_that_is_the_same_for_a_whole_client_is_found():
    agreement, chance = agreement_in_streams(streams(np.random.default_rng(3), clipped, 0.7, period=1), 0)
    assert agreement > 0.2
    assert chance <= 0.001


def test_without_any_noise_nothing_agrees():
    assert agreement_of_draws(np.zeros((4, 9, 3)), 0) == (0, 1)
    assert agreement_in_streams(np.full((2, 9, 3), 1 / 3), 0) == (0, 1)


def test_rejected_answers_are_left_out():
    parts = differences(np.random.default_rng(5), clipped, rho=0.9)
    parts[2:, ::3] = np.nan
    assert agreement_of_draws(parts, 0)[1] <= 0.001
    assert agreement_of_draws(np.full((4, 9, 3), np.nan), 0) == (0, 1)
    rows = streams(np.random.default_rng(5), clipped, 0.9)
    rows[:, 7] = np.nan
    assert agreement_in_streams(rows, 0)[1] <= 0.001
    assert agreement_in_streams(rows * np.nan, 0) == (0, 1)


def test_answers_that_are_labels_or_uniform_are_not_counted_as_repeated():
    noisy = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    labels, uniform = np.eye(3)[[0, 0, 1]], np.full((2, 3), 1 / 3)
    rejected = np.full((2, 3), np.nan)
    assert repeated(np.concatenate([noisy, labels, uniform, rejected])) == 0
    assert repeated(np.concatenate([noisy, labels, noisy[:2], rejected])) == 4
    assert repeated(rejected) == repeated(labels) == 0
