from dataclasses import replace

import numpy as np
import pytest

from attacks.base import Streams, Target
from attacks.evade import distances
from bench.errors import UsageError
from bench.registry import attacks

TARGET = Target(10, linear=False)
GATE = ("mahalanobis(fpr=0.05, action=refuse, layers=all)",)


@pytest.fixture(scope="module")
def mixed(workbench, digits_spec, digits_pool):
    """Half genuine digits, half noise, shuffled."""
    noise = workbench.pool(digits_spec, "noise", 0).x[: len(digits_pool.x)]
    order = np.random.default_rng(0).permutation(2 * len(noise))
    x = np.concatenate([digits_pool.x, noise])[order]
    genuine = (np.arange(2 * len(noise)) < len(noise))[order]
    return replace(digits_pool, x=x, y=np.zeros(len(x), dtype=np.int64)), genuine


def buy(workbench, spec, pool, text, budget, defense=(), streams=None):
    api = workbench.api(spec, defense, 0, 0, budget=budget)
    bought = attacks.build(text).acquire(api, pool, None, streams or Streams(1, 2))
    return bought, api.bill


def test_it_sends_what_looks_honest(workbench, digits_spec, mixed):
    pool, genuine = mixed
    bought, _ = buy(workbench, digits_spec, pool, "evade(own=60)", 200)
    honest = {row.tobytes() for row in pool.x[genuine]}
    assert sum(row.tobytes() in honest for row in bought.x) >= 195


def test_the_gate_that_stops_a_naive_thief_lets_it_pass(workbench, digits_spec, mixed):
    pool, _ = mixed
    _, naive = buy(workbench, digits_spec, pool, "copycat(use_probability=true)", 200, GATE)
    _, knowing = buy(workbench, digits_spec, pool, "evade(own=60)", 200, GATE)
    assert naive.refused > 80
    assert knowing.refused < 40


def test_a_smaller_budget_is_the_beginning_of_a_larger_one(workbench, digits_spec, mixed):
    small, _ = buy(workbench, digits_spec, mixed[0], "evade(own=60)", 50)
    large, _ = buy(workbench, digits_spec, mixed[0], "evade(own=60)", 120)
    assert (small.x == large.x[:50]).all()


def test_labels_alone_are_one_hot(workbench, digits_spec, mixed):
    bought, _ = buy(workbench, digits_spec, mixed[0], "evade(own=60, use_probability=false)", 40)
    assert set(np.unique(bought.y)) == {0, 1}
    assert (bought.y.sum(axis=1) == 1).all()


def test_it_needs_the_inputs_that_it_is_said_to_own(digits_pool):
    attack = attacks.build("evade(own=100)")
    assert attack.applicable(replace(digits_pool, reference=digits_pool.x), TARGET) == ""
    assert "own=100" in attack.applicable(replace(digits_pool, reference=digits_pool.x[:99]), TARGET)
    assert "own=100" in attack.applicable(replace(digits_pool, reference=None), TARGET)


def test_too_few_to_fit_a_gate_on_are_refused():
    with pytest.raises(UsageError, match=r"own=19; integer in \[20, inf\)"):
        attacks.build("evade(own=19)")


def test_distances_know_the_directions_in_which_honest_inputs_vary():
    rng = np.random.default_rng(3)
    genuine = (rng.normal(0, [1.0, 0.01], (200, 2))).astype(np.float32).reshape(200, 1, 1, 2)
    along, across = np.array([[[[1.0, 0.0]]], [[[0.0, 1.0]]]], dtype=np.float32)
    near, far = distances(genuine, np.stack([along, across]))
    assert 20 * near < far


def test_inputs_that_never_vary_keep_a_distance():
    same = np.zeros((30, 1, 2, 2), dtype=np.float32)
    near, far = distances(same, np.stack([same[0] + np.float32(0.1), same[0] + np.float32(0.9)]))
    assert 0 < near < far
