"""Answer statistics of noise are tested with the error of its draws, others are facts."""

import math

import numpy as np
import pytest
from evaluations import CLAIMS, evaluation, run

from bench.gate import render
from bench.gate.command import exit_code
from bench.gate.compare import compare
from bench.gate.rows import Decision, RowKind
from bench.gate.spread import Part, combined, of_retraining

NOISE = CLAIMS.with_values(stochastic=True)


def noisy(draws, *, name="honest.l1_max", claims=NOISE, value=None):
    """Noise with these draws of a statistic; ``value``: what is stored of all, by default the largest."""
    metrics = {name: max(draws) if value is None else value}
    return evaluation("gaussian_noise", metrics, claims=claims, drawn={name: list(draws)})


def statistics(before, after):
    comparison = compare(run(before), run(after))
    return comparison, {row.what: row for row in comparison.rows if row.kind is RowKind.contract}


def draws(mean, seed, spread=0.05):
    return mean + spread * np.random.default_rng(seed).standard_normal(20)


def test_the_largest_of_other_draws_has_not_changed():
    comparison, rows = statistics(noisy(draws(1.6, 1)), noisy(draws(1.6, 2)))
    assert rows["largest L1"].decision is not Decision.changed
    assert exit_code(comparison, strict=True) != 1


def test_less_noise_has_changed():
    comparison, rows = statistics(noisy(draws(1.6, 1)), noisy(draws(1.2, 2)))
    row = rows["largest L1"]
    assert row.decision is Decision.changed
    assert row.difference.value == pytest.approx(row.after - row.before)
    assert (exit_code(comparison), exit_code(comparison, strict=True)) == (0, 1)


def test_equal_draws_are_the_same():
    comparison, rows = statistics(noisy(draws(1.6, 1)), noisy(draws(1.6, 1)))
    assert {row.decision for row in rows.values()} == {Decision.same}
    assert exit_code(comparison, strict=True) == 0


def test_draws_that_hardly_vary_are_shown_to_be_the_same():
    _, rows = statistics(noisy(draws(1.6, 1, 0.001)), noisy(draws(1.6, 2, 0.001)))
    assert list(rows) == ["all answer statistics"]


def test_noise_without_single_draws_cannot_tell_a_change_and_says_why():
    older = noisy([1.6], value=1.6)
    older = evaluation("gaussian_noise", older.metrics, claims=NOISE)
    comparison, rows = statistics(older, noisy(draws(1.3, 2), value=1.42))
    row = rows["largest L1"]
    assert row.decision is Decision.cannot_tell
    assert "the baseline does not have its values by draw" in row.note
    assert exit_code(comparison) == 0
    assert statistics(older, noisy(draws(1.3, 2), value=1.605))[1].keys() == {"all answer statistics"}


def test_a_defense_without_noise_is_compared_as_it_is():
    before, after = (evaluation("top_k", {"contract.support": value}) for value in (3.0, 3.02))
    comparison, rows = statistics(before, after)
    assert rows["entries that are not zero"].decision is Decision.changed
    assert exit_code(comparison, strict=True) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_draws_that_are_no_numbers_are_none(value):
    odd = noisy([1.6, value, 1.5], value=1.6)
    comparison, rows = statistics(odd, noisy(draws(1.2, 2), value=1.4))
    assert rows["largest L1"].decision is Decision.cannot_tell
    assert render.as_json(comparison)


def test_each_side_is_one_draw_from_retrained_victims():
    both = combined(of_retraining([0.0, 2.0], [0.0, 4.0]))
    assert both.size**2 == pytest.approx(2 + 8)
    one = combined(of_retraining([], [0.0, 4.0]))
    assert one.size**2 == pytest.approx(16)
    assert one.freedom == 1
    assert of_retraining([], []) == []


def test_freedom_of_a_sum_lies_between_that_of_its_parts_and_their_sum():
    assert combined([Part(1.0, 9), Part(1.0, 9)]).freedom == pytest.approx(18)
    assert combined([Part(1.0, 9), Part(1e-9, 9)]).freedom == pytest.approx(9)
    assert combined([Part(0.0, 0), Part(1.0, 9)]).freedom == pytest.approx(9)
    assert combined([]).size == 0


def test_whether_a_batch_changes_answers_does_not_depend_on_the_victim():
    before, after = (evaluation("top_k", {"contract.alone": value}) for value in (1.0, 0.5))
    comparison = compare(run(before), run(after, fingerprint="xyz"))
    rows = {row.what: row.decision for row in comparison.rows}
    assert rows["answered alone as in a batch"] is Decision.changed
