"""Intervals and the best attack: by hand where possible, else by simulation.

Simulations have fixed seeds, so they cannot flicker; the stated error is the chance that another
seed would fail a correct implementation.
"""

import math

import numpy as np
import pytest
from scipy import special, stats

from bench.metrics.intervals import (
    Interval,
    best_attack,
    bounds,
    difference_bounds,
    error_parts,
    mean_interval,
    paired_difference,
    share_interval,
    unpaired_difference,
    value_interval,
)


def simulated_agreement(rng, repeats, inputs, repeat_spread, shift=0.0):
    """Return agreement on inputs that are nearly all easy or hard, by repeats that differ in skill."""
    easy = rng.random(inputs) < 0.8
    ability = np.where(easy, rng.normal(5.0, 1.2, inputs), rng.normal(-0.7, 1.0, inputs))
    skill = rng.normal(0.0, 1.0, (repeats, 1)) * repeat_spread + shift
    return rng.random((repeats, inputs)) < special.expit(ability + skill)


def true_mean(repeat_spread, shift=0.0):
    """Return the mean of `simulated_agreement` by Gauss-Hermite quadrature over both normal parts."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def part(centre, spread):
        return weights @ special.expit(centre + math.hypot(spread, repeat_spread) * nodes + shift)

    return 0.8 * part(5.0, 1.2) + 0.2 * part(-0.7, 1.0)


def steps(fraction, repeats=5, inputs=1000):
    """Return agreement in which every repeat agrees on the same first ``fraction`` of the inputs."""
    return np.tile(np.arange(inputs) < round(fraction * inputs), (repeats, 1))


def contains(interval, truth):
    return interval.low <= truth <= interval.high


class TestMeanInterval:
    def test_equal_repeats_give_wilson_with_as_many_trials_as_inputs(self):
        interval = mean_interval(steps(0.9, repeats=5, inputs=1000))
        z2 = special.stdtrit(999, 0.975) ** 2 * 1000 / 999
        centre, root = 0.9 + z2 / 2000, math.sqrt(z2 * 0.09 / 1000 + z2**2 / 4e6)
        assert interval.value == pytest.approx(0.9)
        assert interval.low == pytest.approx((centre - root) / (1 + z2 / 1000))
        assert interval.high == pytest.approx((centre + root) / (1 + z2 / 1000))

    def test_when_repeats_alone_vary_it_is_students_t_over_repeats(self):
        per_repeat = np.array([0.2, 0.3, 0.7])
        interval = mean_interval(np.tile(per_repeat[:, None], (1, 50)))
        half = special.stdtrit(2, 0.975) * per_repeat.std(ddof=1) / math.sqrt(3)
        assert interval.low == pytest.approx(0.4 - half)
        assert interval.high == pytest.approx(0.4 + half)

    @pytest.mark.parametrize("repeats", [1, 5])
    def test_full_agreement_gives_a_bound_and_not_a_point(self, repeats):
        assert mean_interval(np.ones((repeats, 447))) == Interval(1.0, pytest.approx(0.025 ** (1 / 447)), 1.0)
        assert mean_interval(np.zeros((repeats, 447))).high == pytest.approx(1 - 0.025 ** (1 / 447))

    def test_a_single_miss_is_no_more_certain_than_none(self):
        agreement = np.ones((10, 447))
        agreement[3, 5] = 0
        assert mean_interval(agreement).low < mean_interval(np.ones((10, 447))).low

    def test_one_repeat_gives_wilson_over_inputs(self):
        assert mean_interval(steps(0.3, repeats=1)) == mean_interval(steps(0.3, repeats=4))

    def test_limits_stay_between_nought_and_one(self):
        agreement = np.ones((3, 40))
        agreement[0, :20] = 0
        interval = mean_interval(agreement)
        assert 0 <= interval.low < interval.value < interval.high <= 1

    def test_a_single_input_says_next_to_nothing(self):
        interval = mean_interval(np.array([[1], [0], [1]]))
        assert interval.low < 0.1
        assert interval.high > 0.9

    def test_no_inputs_give_nan(self):
        assert all(math.isnan(number) for number in vars(mean_interval(np.empty((5, 0)))).values())

    def test_one_sided_limits_move_with_their_own_level(self):
        agreement = simulated_agreement(np.random.default_rng(0), 5, 300, 0.2)
        low, high = bounds(agreement, 0.025, 0.025)
        assert (low, high) == (mean_interval(agreement).low, mean_interval(agreement).high)
        assert bounds(agreement, 0.001, 0.025)[0] < low
        assert bounds(agreement, 0.001, 0.025)[1] == high

    @pytest.mark.parametrize("repeats", [3, 5, 10])
    @pytest.mark.parametrize("repeat_spread", [0.0, 0.1, 0.4])
    def test_it_covers_the_true_mean_about_as_often_as_it_says(self, repeats, repeat_spread):
        # At a true coverage of 94 % fewer than 90 % of 400 has probability .001; over 99 % less than 1e-5.
        rng, truth = np.random.default_rng([1, repeats, round(10 * repeat_spread)]), true_mean(repeat_spread)
        covered = [
            contains(mean_interval(simulated_agreement(rng, repeats, 447, repeat_spread)), truth)
            for _ in range(400)
        ]
        assert 0.90 <= np.mean(covered) <= 0.99


class TestSmallIntervals:
    def test_values_get_students_t(self):
        interval = value_interval([1.0, 2.0, 3.0, math.nan])
        assert interval.value == 2.0
        assert interval.high == pytest.approx(2 + 4.302652729911275 / math.sqrt(3))
        assert interval.low == pytest.approx(2 - 4.302652729911275 / math.sqrt(3))

    def test_one_value_has_no_limits_and_none_no_value(self):
        one = value_interval([4.0])
        assert one.value == 4.0
        assert math.isnan(one.low)
        assert math.isnan(one.high)
        assert math.isnan(value_interval([math.nan]).value)

    def test_shares_get_clopper_and_pearson(self):
        assert share_interval(0, 20) == Interval(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
        assert share_interval(20, 20) == Interval(1.0, pytest.approx(0.025 ** (1 / 20)), 1.0)
        # Textbook values.
        assert share_interval(1, 10) == Interval(
            0.1, pytest.approx(0.00253, abs=1e-5), pytest.approx(0.44502, abs=1e-5)
        )
        assert math.isnan(share_interval(0, 0).value)

    @pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 9), (30, 447), (999, 1_000)])
    def test_shares_get_scipys_exact_interval(self, successes, n):
        # SciPy searches for its limits by bisection, which takes milliseconds and gives seven digits.
        expected = stats.binomtest(successes, n).proportion_ci(0.9, method="exact")
        found = share_interval(successes, n, 0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


class TestDifferences:
    def test_pairs_on_shared_streams_are_narrower_than_strangers(self):
        rng = np.random.default_rng(2)
        first = simulated_agreement(rng, 5, 447, 0.2)
        second = first & (rng.random(first.shape) < 0.97)
        paired, unpaired = paired_difference(first, second), unpaired_difference(first, second)
        assert paired.value == pytest.approx(unpaired.value)
        assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
        assert paired.low > 0 > unpaired.low

    def test_equal_rows_differ_by_nought_within_what_the_inputs_rule_out(self):
        agreement = steps(0.9, inputs=447)
        reach = pytest.approx(1 - 0.025 ** (1 / 447))
        assert paired_difference(agreement, agreement) == Interval(0.0, -(1 - 0.025 ** (1 / 447)), reach)

    def test_differences_may_be_negative(self):
        interval = paired_difference(np.zeros((3, 50)), np.ones((3, 50)))
        assert interval.value == -1.0
        assert interval.low == -1.0
        assert -1 < interval.high < -0.8

    def test_the_unpaired_interval_adds_variances(self):
        a, b = steps(0.7, inputs=400), steps(0.6, repeats=3, inputs=900)
        first, second, difference = mean_interval(a), mean_interval(b), unpaired_difference(a, b)
        assert difference.value == pytest.approx(0.1)
        distance = math.hypot(first.value - first.low, second.high - second.value)
        assert difference.value - difference.low == pytest.approx(distance)

    def test_paired_intervals_cover_the_true_difference(self):
        # At a true coverage of 94 % fewer than 89 % of 300 has probability .0006.
        rng, truth = np.random.default_rng(3), true_mean(0.2) - true_mean(0.2, -0.4)
        covered = 0
        for _ in range(300):
            easy = rng.random(447) < 0.8
            ability = np.where(easy, rng.normal(5.0, 1.2, 447), rng.normal(-0.7, 1.0, 447))
            chance, skill = rng.random((5, 447)), rng.normal(0.0, 0.2, (5, 1))
            first = chance < special.expit(ability + skill)
            second = chance < special.expit(ability + skill - 0.4)
            covered += contains(paired_difference(first, second), truth)
        assert covered / 300 >= 0.89


class TestDifferenceBounds:
    @pytest.mark.parametrize("repeats", [1, 2, 5])
    @pytest.mark.parametrize(("first", "second"), [(0.5, 0.3), (0.5, 0.5), (3.0, -3.0)])
    def test_at_equal_levels_they_are_the_limits_of_the_paired_difference(self, repeats, first, second):
        rng = np.random.default_rng([repeats, round(10 * first)])
        a, b = (
            simulated_agreement(rng, repeats, 300, 0.3, shift).astype(np.uint8) for shift in (first, second)
        )
        interval = paired_difference(a, b)
        assert difference_bounds(a, b, 0.025, 0.025) == pytest.approx((interval.low, interval.high))
        # Tables of other types take the long way.
        assert difference_bounds(a, b, 0.025, 0.025) == pytest.approx(
            difference_bounds(a.astype(float), b.astype(float), 0.025, 0.025)
        )

    @pytest.mark.parametrize("changed", [0, 1, 4, 5, 299, 300])
    def test_few_differences_have_limits_too(self, changed):
        a, b = np.ones((5, 300), dtype=np.uint8), np.ones((5, 300), dtype=np.uint8)
        b[:, :changed] = 0
        interval = paired_difference(a, b)
        assert difference_bounds(a, b, 0.025, 0.025) == pytest.approx((interval.low, interval.high))

    def test_each_end_has_its_own_level(self):
        a, b = (simulated_agreement(np.random.default_rng(s), 5, 300, 0.3).astype(np.uint8) for s in (1, 2))
        wide, narrow = difference_bounds(a, b, 0.001, 0.025), difference_bounds(a, b, 0.025, 0.001)
        assert wide[0] < narrow[0] < narrow[1]
        assert wide[1] < narrow[1]

    def test_equal_weighted_tables_have_limits_that_the_heaviest_input_sets(self):
        weighted = np.tile(np.repeat([0.5, 4.0], [260, 40]), (5, 1))
        low, high = difference_bounds(weighted, weighted, 0.025, 0.025)
        assert (low, high) == pytest.approx((-4 * (1 - 0.025 ** (1 / 300)), 4 * (1 - 0.025 ** (1 / 300))))

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="equal shapes"):
            difference_bounds(steps(0.9, 5), steps(0.9, 4), 0.025, 0.025)

    def test_error_parts_foretell_the_variance_with_more_repeats(self):
        # Differences of two attacks on the same inputs; the mean of 20 estimates has an error of some 10 %.
        rng = np.random.default_rng(5)
        few, many, seen = [], [], []
        for _ in range(60):
            a, b = (simulated_agreement(rng, 25, 400, 0.3, shift) for shift in (0.3, 0.0))
            few.append(sum(error_parts(a[:5], b[:5], 20)))
            many.append(sum(error_parts(a[:20], b[:20], 20)))
            seen.append(a[5:].mean() - b[5:].mean())
        assert np.mean(few) == pytest.approx(np.mean(many), rel=0.15)
        assert np.mean(few) == pytest.approx(np.var(seen, ddof=1), rel=0.5)


class TestBestAttack:
    def test_it_is_the_highest_mean_and_ties_go_to_the_first_name(self):
        result = best_attack({"zebra": steps(0.8), "yak": steps(0.8), "ant": steps(0.5)})
        assert (result.attack, result.candidates, result.interval.value) == ("yak", 3, 0.8)

    def test_a_single_attack_has_its_own_interval(self):
        agreement = simulated_agreement(np.random.default_rng(4), 5, 447, 0.2)
        assert best_attack({"one": agreement}).interval == mean_interval(agreement)

    def test_the_upper_limit_may_come_from_an_attack_that_is_not_the_best(self):
        unsure = np.repeat([[1.0], [0.2], [0.9]], 1000, axis=1)
        result = best_attack({"sure": steps(0.8), "unsure": unsure})
        assert result.attack == "sure"
        assert result.interval.high == mean_interval(unsure).high

    def test_it_covers_the_truth_where_the_luckiest_of_many_equals_does_not(self):
        # Attackers fail independently, so that luck decides. The union bound covers far more than 95 %;
        # at a true 98 % fewer than 95 % of 200 has probability .005.
        rng, covered, naive = np.random.default_rng(5), 0, 0
        for _ in range(200):
            agreement = {f"attacker {k}": rng.random((5, 100)) < 0.7 for k in range(12)}
            result = best_attack(agreement)
            covered += contains(result.interval, 0.7)
            naive += contains(mean_interval(agreement[result.attack]), 0.7)
        assert covered / 200 >= 0.95
        assert naive / 200 < 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval(np.ones(5)), "repeats, inputs"),
        (lambda: mean_interval(np.full((2, 2), np.nan)), "finite"),
        (lambda: mean_interval(np.ones((2, 2)), confidence=95), "Confidence"),
        (lambda: share_interval(3, 2), "between 0 and n"),
        (lambda: paired_difference(np.ones((2, 3)), np.ones((3, 3))), "equal shapes"),
        (lambda: best_attack({}), "at least one"),
        (lambda: best_attack({"a": np.empty((5, 0))}), "No data for a"),
    ],
)
def test_bad_input_is_rejected_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
