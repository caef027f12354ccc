"""Evasion: what looks honest is sent first, by what the thief owns and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from attacks import evade
from attacks.base import Pool, Streams, Target
from attacks.copycat import Copycat
from attacks.evade import Evade, distances
from bench.errors import UsageError
from bench.registry import attacks

STREAMS = Streams(order=11, choices=12)
TARGET = Target(10, linear=False)
REFUSE = ("mahalanobis(action=refuse)",)


@pytest.fixture(scope="module")
def pool(workbench, digits_spec, digits_pool):
    """Sixty digits and sixty images of noise, in turns; all other digits of the split can be owned."""
    noise = workbench.pool(digits_spec, "noise", 0)
    x = np.stack([digits_pool.x[:60], noise.x[:60]], axis=1).reshape(120, 1, 8, 8)
    y = np.zeros(120, np.int64)
    return Pool("mixed", x, y, "near", same_classes=False, reference=digits_pool.x[60:])


@pytest.fixture
def buy(workbench, digits_spec, pool):
    def purchase(attack, stack=(), budget=60, pool=pool, streams=STREAMS):
        api = workbench.api(digits_spec, stack, 0, 0, budget=budget)
        return attack.acquire(api, pool, None, streams), api.bill

    return purchase


def rows_of(x):
    return [row.tobytes() for row in x]


@pytest.mark.parametrize("owned", [30, 200])
def test_distances_are_mahalanobis_under_the_shrunk_covariance(owned):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(48, 48))
    honest, x = (rng.normal(size=(number, 48)) @ mix + 3 for number in (owned, 7))
    middle = honest.mean(axis=0)
    precision = np.linalg.inv(ledoit_wolf(honest - middle, assume_centered=True)[0])
    expected = np.sqrt(np.einsum("nd,de,ne->n", x - middle, precision, x - middle))
    found = distances(honest.reshape(owned, 3, 4, 4), x.reshape(7, 3, 4, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_distances_to_inputs_that_never_vary_are_euclidean():
    honest, x = np.full((20, 1, 2, 2), 0.5), np.zeros((3, 1, 2, 2))
    np.testing.assert_allclose(distances(honest, x), 1)


def test_a_direction_in_which_honest_inputs_vary_counts_less():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(500, 1, 1, 2)) * [1, 0.1]
    along, across = distances(honest, np.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2))
    assert across > 5 * along


def test_no_input_is_no_distance():
    assert distances(np.zeros((20, 1, 2, 2)), np.zeros((0, 1, 2, 2))).shape == (0,)


@pytest.mark.parametrize("own", [20, 100])
def test_what_looks_honest_is_sent_first(own, buy, pool):
    bought, _ = buy(Evade(own=own))
    honest = set(rows_of(pool.x[::2]))
    assert sum(row in honest for row in rows_of(bought.x)) >= 58


def test_a_gate_that_stops_a_random_half_stops_next_to_none(buy):
    _, random = buy(Copycat(), REFUSE)
    _, evading = buy(Evade(), REFUSE)
    assert random.flagged > 20
    assert evading.flagged < 3


def test_a_smaller_budget_sends_the_first_of_a_larger_one(buy):
    large, _ = buy(Evade(), budget=120)
    small, _ = buy(Evade(), budget=25)
    assert rows_of(small.x) == rows_of(large.x)[:25]
    assert sorted(rows_of(large.x)) != rows_of(large.x)
    assert len(set(rows_of(large.x))) == 120


def test_the_thief_owns_as_many_honest_inputs_as_it_says_and_more_of_them_include_fewer(
    buy, pool, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        evade, "distances", lambda owned, x: seen.append(rows_of(owned)) or distances(owned, x)
    )
    for attack, streams in (
        (Evade(own=20), STREAMS),
        (Evade(own=50), STREAMS),
        (Evade(own=50), Streams(11, 1)),
    ):
        buy(attack, streams=streams)
    few, many, others = seen
    assert [len(set(owned)) for owned in seen] == [20, 50, 50]
    assert few == many[:20]
    assert set(many) != set(others)
    assert set(many) | set(others) <= set(rows_of(pool.reference))


def test_it_learns_labels_or_whole_answers(buy, digits_victim):
    labels, _ = buy(Evade())
    whole, _ = buy(Evade(use_probability=True))
    truth = digits_victim.probabilities(whole.x)
    assert rows_of(labels.x) == rows_of(whole.x)
    assert (whole.y == truth.astype(np.float32)).all()
    assert (labels.y == np.eye(10, dtype=np.float32)[truth.argmax(axis=1)]).all()
    assert labels.y.dtype == np.float32


@pytest.mark.parametrize("use_probability", [True, False])
def test_refused_queries_teach_nothing(use_probability, buy):
    bought, bill = buy(Evade(use_probability=use_probability), REFUSE, budget=120)
    assert bill.refused > 20
    assert len(bought.x) == len(bought.y) == bill.answered
    assert np.isfinite(bought.y).all()


def test_it_needs_inputs_to_own(pool):
    nothing, few = replace(pool, reference=None), replace(pool, reference=pool.reference[:99])
    assert Evade().applicable(pool, TARGET) == ""
    assert "own=100" in Evade().applicable(few, TARGET)
    assert "99 inputs" in Evade().applicable(few, TARGET)
    assert Evade(own=99).applicable(few, TARGET) == ""
    assert "0 inputs" in Evade().applicable(nothing, TARGET)


def test_whoever_owns_nothing_sends_at_random(buy, pool):
    blind, _ = buy(Evade(), pool=replace(pool, reference=None))
    random, _ = buy(Copycat(), pool=pool)
    assert blind.digest() == random.digest()


def test_inputs_at_one_distance_come_in_the_seeded_order(buy, pool):
    alike = np.zeros((64, 1, 8, 8), np.float32)
    alike.reshape(64, 64)[np.diag_indices(64)] = 1  # one pixel each, all as far from black
    black = replace(pool, x=alike, reference=np.zeros((20, 1, 8, 8), np.float32))
    tied, _ = buy(Evade(own=20), pool=black)
    random, _ = buy(Copycat(), pool=black)
    assert rows_of(tied.x) == rows_of(random.x)


def test_owning_next_to_nothing_is_an_error_that_names_the_range():
    with pytest.raises(UsageError, match=r"own=19; integer in \[20, inf\)"):
        attacks.build("evade(own=19)")


def test_it_knows_of_the_gate():
    assert Evade.knowledge == ("family", "full")
