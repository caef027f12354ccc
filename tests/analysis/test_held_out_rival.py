"""An attack against rivals that other repeats chose: arithmetic by hand, promises by simulation."""

import itertools
import math

import numpy as np
import pytest

from bench.analysis.held_out_rival import HeldOut, averaged, halves, mean_interval, weights
from bench.analysis.multiple_tests import holm


def table(*by_repeat, inputs=10):
    """Agreement (repeats, inputs) with so many hits in each repeat."""
    return np.array([[1] * hits + [0] * (inputs - hits) for hits in by_repeat], np.uint8)


@pytest.mark.parametrize("repeats", [2, 3, 5, 10, 20, 21])
def test_every_repeat_compares_with_the_same_weight(repeats):
    choosing = halves(repeats)
    assert set(choosing.sum(axis=1)) == {repeats // 2, repeats - repeats // 2}
    comparing = (~choosing / (~choosing).sum(axis=1, keepdims=True)).sum(axis=0)
    assert comparing == pytest.approx(np.full(repeats, len(choosing) / repeats))


def test_halves_need_two_repeats():
    with pytest.raises(ValueError, match="at least 2 repeats, got 1"):
        halves(1)


def test_the_halves_of_five_repeats_are_all_pairs_and_all_triples():
    pairs = set(itertools.combinations(range(5), 2))
    triples = set(itertools.combinations(range(5), 3))
    assert {tuple(np.flatnonzero(row)) for row in halves(5)} == pairs | triples


def test_the_rival_is_chosen_on_the_half_that_does_not_compare():
    # a wins by the first repeat, b by the second: chosen on the one, each loses on the other.
    found = HeldOut.of(table(5, 5), {"a": table(8, 4), "b": table(4, 8)})
    assert found.shortfall == pytest.approx(0.4 - 0.5)
    assert found.chosen == {"a": 0.5, "b": 0.5}
    assert found.favourite == "a"


def test_by_hand_with_three_repeats():
    # Chosen by one repeat: a, b, b (a tie is the first name's); by two: (0, 1) tie: a, (0, 2) b, (1, 2) b.
    a, b, own = (0.9, 0.5, 0.4), (0.6, 0.8, 0.8), 0.5
    by_one = [(a[1] + a[2]) / 2, (b[0] + b[2]) / 2, (b[0] + b[1]) / 2]
    by_two = [a[2], b[1], b[0]]
    found = HeldOut.of(table(5, 5, 5), {"a": table(9, 5, 4), "b": table(6, 8, 8)})
    assert found.shortfall == pytest.approx(np.mean([*by_one, *by_two]) - own)
    # Without the last repeat: chosen by the first a, compared in the second; by the second b, in the first.
    assert found.deleted[2] == pytest.approx((a[1] + b[0]) / 2 - own)


def test_one_rival_is_a_paired_difference():
    found = HeldOut.of(table(5, 6, 7), {"a": table(7, 7, 8)})
    assert found.shortfall == pytest.approx(4 / 30)
    assert weights(np.array([[0.7, 0.7, 0.8]])) == pytest.approx(np.ones((1, 3)))


def test_tables_must_fit():
    with pytest.raises(ValueError, match="one shape"):
        HeldOut.of(table(5, 5), {"a": table(5, 5, 5)})
    with pytest.raises(ValueError, match="must be a rival"):
        HeldOut.of(table(5, 5), {})
    few = [HeldOut.of(table(*hits), {"a": table(*hits)}) for hits in ((5, 5), (5, 5, 5))]
    with pytest.raises(ValueError, match="share their repeats"):
        averaged(few)


def test_equal_tables_have_limits_all_the_same():
    interval = HeldOut.of(table(5, 5), {"a": table(5, 5)}).interval
    assert interval.low < 0 < interval.high
    assert math.isfinite(interval.low)


def drawn(generator, places, deficit, *, rivals=6, repeats=5, inputs=200, spread=0.05):
    """Places with rivals of one strength and an attack ``deficit`` below; all share inputs, not repeats."""
    hard = generator.normal(0.8, 0.1, inputs)
    found = []
    for _ in range(places):
        strength = generator.normal(0, spread, (rivals + 1, repeats, 1))
        strength[0] -= deficit
        agrees = generator.random((rivals + 1, repeats, inputs)) < np.clip(hard + strength, 0, 1)
        own, *others = agrees.astype(np.uint8)
        found.append((own, {f"rival {k}": other for k, other in enumerate(others)}))
    return found


def test_equal_attacks_have_no_shortfall_and_the_best_by_all_repeats_seems_to_be_ahead():
    found = drawn(np.random.default_rng(3), 200, 0.0)
    held_out = averaged([HeldOut.of(own, rivals) for own, rivals in found])
    in_sample = [max(each.mean() for each in rivals.values()) - own.mean() for own, rivals in found]
    # The mean of 200 has a standard deviation of .002, from 200 times 5 repeats of .05 and their answers.
    assert abs(held_out.shortfall) < 0.008
    assert np.mean(in_sample) > 0.02


def test_a_deficit_is_found():
    found = [HeldOut.of(own, rivals) for own, rivals in drawn(np.random.default_rng(5), 40, 0.05)]
    interval = mean_interval([("one", averaged(found), len(found))])
    assert interval.low > 0.03
    assert interval.low < 0.05 < interval.high


def test_a_large_deficit_at_one_place_is_found_among_many():
    generator = np.random.default_rng(7)
    made = [*drawn(generator, 20, 0.0, spread=0.01), *drawn(generator, 1, 0.2, spread=0.01)]
    chances = [HeldOut.of(own, rivals).chance_of_at_most(0.03) for own, rivals in made]
    assert holm(chances) == [False] * 20 + [True]


def test_a_p_value_is_the_tail_whose_limit_is_the_hypothesis():
    own, rivals = drawn(np.random.default_rng(9), 1, 0.1)[0]
    found = HeldOut.of(own, rivals)
    chance = found.chance_of_at_most(0.03)
    assert found.bounds(chance)[0] == pytest.approx(0.03, abs=1e-6)
    assert found.chance_of_at_most(0.5) == 1.0


def test_with_repeats_that_decide_for_others_the_interval_is_wider():
    # Two rivals that swap the lead: which one a repeat meets depends on the others.
    generator = np.random.default_rng(11)
    own, rivals = drawn(generator, 1, 0.0, rivals=2, spread=0.2)[0]
    found = HeldOut.of(own, rivals)
    naive = HeldOut(found.own, found.rival, np.full(5, found.shortfall), found.chosen)
    assert found.interval.high - found.interval.low >= naive.interval.high - naive.interval.low


def test_data_sets_add_in_squares_and_groups_of_one_add_up():
    own, rivals = drawn(np.random.default_rng(13), 1, 0.0)[0]
    one = HeldOut.of(own, rivals)
    half = one.interval.high - one.interval.value
    apart, together = (mean_interval([(a, one, 1), (b, one, 1)]) for a, b in (("v", "w"), ("v", "v")))
    assert apart.high - apart.value == pytest.approx(half / math.sqrt(2))
    assert together.high - together.value == pytest.approx(half)
    assert mean_interval([("v", one, 3)]).high == pytest.approx(one.interval.high)
    assert math.isnan(mean_interval([]).value)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.01, 0.1])
def test_holm_keeps_five_percent_where_every_place_is_just_at_the_limit(spread):
    # True error at most .05: of 300 runs 15 on average, 26 or more with probability .005.
    generator, false = np.random.default_rng(17), 0
    for _ in range(300):
        chances = [
            HeldOut.of(*each).chance_of_at_most(0.03) for each in drawn(generator, 10, 0.03, spread=spread)
        ]
        false += any(holm(chances))
    assert false < 26


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.01, 0.1])
@pytest.mark.parametrize("repeats", [3, 5])
def test_the_interval_of_the_mean_covers_the_truth(spread, repeats):
    # Nominal 95 %: of 300 runs 15 miss on average, 26 or more with probability .005.
    generator, missed = np.random.default_rng(19), 0
    for _ in range(300):
        made = drawn(generator, 4, 0.02, spread=spread, repeats=repeats)
        found = mean_interval([("v", averaged([HeldOut.of(*each) for each in made]), 4)])
        missed += not found.low <= 0.02 <= found.high
    assert missed < 26
