"""An attacker who simulates a defense with auxiliary data makes such data of the own inputs."""

import numpy as np
import pytest

from attacks.base import Known, Shadow
from bench.inputs import InputSpace
from bench.models.simulation import SimulatedDefenses

SPACE = InputSpace((1, 4, 4))


def shadow(seed):
    rng = np.random.default_rng(0)
    x, y = rng.random((80, 1, 4, 4), dtype=np.float32), rng.integers(0, 3, 80)

    def predictor(inputs):
        sums = inputs.reshape(len(inputs), -1)[:, :3].astype(np.float64) + 0.1
        return sums / sums.sum(axis=1, keepdims=True)

    return Shadow(predictor, x, y, x, y, seed)


@pytest.fixture(autouse=True)
def brief_training(monkeypatch):
    monkeypatch.setattr("defenses.networks.training.FEWEST", 30)


@pytest.mark.parametrize("name", ["adaptive_misinformation", "diverse_ensemble"])
@pytest.mark.parametrize("auxiliary", ["default", "noise", "kmnist"])
def test_it_is_simulated_without_the_defenders_data(name, auxiliary):
    known = [Known(name, {"auxiliary": auxiliary})]
    x = np.random.default_rng(1).random((20, 1, 4, 4), dtype=np.float32)
    rows = np.random.default_rng(2).dirichlet(np.ones(3), 20)
    one, same, other = (
        SimulatedDefenses(known, shadow(seed), SPACE, 3).answer(x, rows) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-9)
