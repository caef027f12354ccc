import numpy as np
import pytest

from bench.seeds import derive, legacy_numpy, random_state


def test_a_seed_depends_on_every_part_and_on_their_order():
    seeds = {
        derive("a", 1),
        derive("a", 2),
        derive("b", 1),
        derive(1, "a"),
        derive("a", "1"),
        derive("a", 1, None),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process():
    assert derive("order", "digits/mlp", "noise", 3) == 1878511991146433292


def test_the_global_generator_is_restored():
    before = np.random.get_state()[1].copy()
    with legacy_numpy(5):
        inside = np.random.random()
    assert np.array_equal(before, np.random.get_state()[1])
    assert inside == random_state(5).random_sample()


def test_the_global_generator_is_restored_after_an_error():
    before = np.random.get_state()[1].copy()
    with pytest.raises(KeyError), legacy_numpy(5):
        raise KeyError
    assert np.array_equal(before, np.random.get_state()[1])
