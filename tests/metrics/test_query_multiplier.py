"""The query multiplier: by hand where possible, else by simulation with fixed seeds."""

import math

import numpy as np
import pytest
from scipy import special

from bench.metrics.query_multiplier import query_multiplier

BUDGETS = (100, 300, 900, 2700)


def steps(fraction, repeats=5, inputs=1000):
    """Return agreement in which every repeat agrees on the same first ``fraction`` of the inputs."""
    return np.tile(np.arange(inputs) < round(fraction * inputs), (repeats, 1))


def curve(shift=0.0, budgets=BUDGETS, **attacks):
    """Return noise-free curves that rise by .1 for each tripling of the budget, at ``shift`` triplings."""
    offsets = attacks or {"main": 0.0}
    return {
        budget: {
            name: steps(0.4 + 0.1 * (math.log(budget / 100, 3) - shift) + offset)
            for name, offset in offsets.items()
        }
        for budget in budgets
    }


class TestQueryMultiplier:
    def test_a_curve_shifted_threefold_gives_three(self):
        result = query_multiplier(curve(shift=1), curve(), 300, seed=1)
        # Nested agreement: every resample shifts both curves alike.
        assert (result.value, result.low, result.high) == pytest.approx((3.0, 3.0, 3.0))
        assert not result.below
        assert not result.above

    def test_between_budgets_it_is_linear_in_the_log(self):
        result = query_multiplier(curve(shift=0.5), curve(), 300, seed=1)
        assert result.value == pytest.approx(math.sqrt(3), abs=1e-6)

    def test_no_defense_gives_one(self):
        rng = np.random.default_rng(6)
        agreement = {b: {"a": rng.random((5, 300)) < 0.4 + 0.1 * i} for i, b in enumerate(BUDGETS)}
        for reference in BUDGETS:
            result = query_multiplier(agreement, agreement, reference, seed=1)
            assert result.value == pytest.approx(1.0)
            assert result.low <= 1.0 <= result.high
            assert not result.below
            assert not result.above

    def test_a_fidelity_never_reached_is_a_lower_bound(self):
        result = query_multiplier(curve(shift=3), curve(), 900, seed=1)
        assert result.above
        assert not result.below
        assert result.value == pytest.approx(2700 / 900)
        assert result.high == math.inf
        assert result.low <= result.value

    def test_a_fidelity_reached_at_the_smallest_budget_is_an_upper_bound(self):
        result = query_multiplier(curve(shift=-2), curve(), 300, seed=1)
        assert result.below
        assert not result.above
        assert result.value == pytest.approx(100 / 300)
        assert result.low == 0.0

    def test_on_a_flat_stretch_the_first_budget_counts(self):
        flat = {
            100: {"a": steps(0.4)},
            300: {"a": steps(0.6)},
            900: {"a": steps(0.6)},
            2700: {"a": steps(0.7)},
        }
        late = {
            100: {"a": steps(0.4)},
            300: {"a": steps(0.5)},
            900: {"a": steps(0.6)},
            2700: {"a": steps(0.6)},
        }
        assert query_multiplier(late, flat, 900, seed=1).value == pytest.approx(3.0)

    def test_a_dip_is_levelled_by_isotonic_regression(self):
        dip = {
            100: {"a": steps(0.4)},
            300: {"a": steps(0.62)},
            900: {"a": steps(0.58)},
            2700: {"a": steps(0.7)},
        }
        result = query_multiplier(curve(), dip, 900, seed=1)
        # F* = .6, which the undefended curve first reaches at 300 and the other one at 900.
        assert result.value == pytest.approx(3.0)

    def test_the_envelope_takes_the_best_attack_at_each_budget(self):
        result = query_multiplier(curve(weak=-0.2, main=0.0), curve(main=-0.1, strong=0.1), 300, seed=1)
        assert result.value == pytest.approx(3.0)

    def test_budgets_of_the_two_curves_may_differ(self):
        result = query_multiplier(curve(shift=1, budgets=(90, 8100)), curve(), 300, seed=1)
        assert result.value == pytest.approx(3.0, rel=0.02)

    def test_the_seed_decides_and_the_global_generator_is_left_alone(self):
        rng = np.random.default_rng(7)
        noisy = {b: {"a": rng.random((5, 300)) < 0.4 + 0.1 * i} for i, b in enumerate(BUDGETS)}
        defended = {b: {"a": rng.random((5, 300)) < 0.35 + 0.1 * i} for i, b in enumerate(BUDGETS)}
        before = np.random.get_state()[1].copy()
        first = query_multiplier(defended, noisy, 300, seed=1)
        assert first == query_multiplier(defended, noisy, 300, seed=1)
        assert first != query_multiplier(defended, noisy, 300, seed=2)
        assert np.array_equal(before, np.random.get_state()[1])

    @pytest.mark.parametrize("repeats", [1, 5])
    def test_its_interval_covers_a_true_threefold(self, repeats):
        # At a true coverage of 93 % fewer than 80 % of 60 has probability .0006.
        rng, covered = np.random.default_rng([8, repeats]), 0
        for _ in range(60):
            ability, skill = rng.normal(0.0, 3.0, 400), rng.normal(0.0, 0.1, (repeats, 1))

            def cell(triplings, shared=ability + skill):
                return rng.random(shared.shape) < special.expit(shared + 0.8 * triplings)

            plain = {b: {"p": cell(i), "q": cell(i - 0.2)} for i, b in enumerate(BUDGETS)}
            guarded = {b: {"p": cell(i - 1), "q": cell(i - 1.2)} for i, b in enumerate(BUDGETS)}
            result = query_multiplier(guarded, plain, 300, seed=1, resamples=100)
            covered += result.low <= 3.0 <= result.high
        assert covered / 60 >= 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: query_multiplier({}, curve(), 300, seed=1), "at least one budget"),
        (lambda: query_multiplier({100: {}}, curve(), 300, seed=1), "at least one attack"),
        (lambda: query_multiplier({0: {"a": steps(0.5)}}, curve(), 300, seed=1), "positive"),
        (lambda: query_multiplier(curve(), curve(), 301, seed=1), "not among"),
        (lambda: query_multiplier({100: {"a": steps(0.5, repeats=4)}}, curve(), 300, seed=1), "one shape"),
        (lambda: query_multiplier(curve(), curve(), 300, seed=1, resamples=0), "resample"),
    ],
)
def test_bad_input_is_rejected_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
