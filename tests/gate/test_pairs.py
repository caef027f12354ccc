"""Repeats of two runs are compared in pairs where they belong together, and the test of that is valid."""

import numpy as np
import pytest

from bench.gate.baseline import Baseline
from bench.gate.runs import Pairing, Run, pairing, same_streams, same_surrogates
from bench.metrics.matched_repeats import chance_of_match
from bench.metrics.pooled_difference import contrast
from bench.records import Record, task_of
from bench.run_facts import Meta

INPUTS = 447


def tables(rng, repeats, shared, *, level=0.93, inputs=INPUTS):
    """Two agreement tables; ``shared``: the part of each repeat's own variation that both runs have."""
    hard = rng.normal(size=inputs)
    own = rng.normal(size=(3, repeats, inputs))
    sides = [hard + np.sqrt(shared) * own[0] + np.sqrt(1 - shared) * own[1 + side] for side in (0, 1)]
    return tuple((side < np.quantile(sides[0], level)).astype(np.uint8) for side in sides)


def side(agreement, seeds=None):
    """A run with one undefended attack."""
    records = []
    for repeat, row in zip(seeds or range(len(agreement)), agreement, strict=True):
        spec = {"victim": "digits/mlp", "victim_seed": 0, "data": "digits", "splits": "disjoint", "seed": 0}
        spec |= {"defense": [], "pool": "in-distribution", "access": "in-distribution", "knowledge": "none"}
        spec |= {"surrogate": "mlp", "shows": "probabilities", "attack": "labels", "training": "rule"}
        spec |= {"budget": 200, "repeat": repeat, "repeats": 20}
        arrays = {"agreement": row}
        records.append(
            Record("", task_of("cell", spec), "ok", {"extraction.fidelity": float(row.mean())}, arrays)
        )
    return Run(Baseline(Meta(), records, []))


def test_the_chance_of_a_match_is_uniform_where_repeats_are_independent():
    rng = np.random.default_rng(0)
    chances = np.array([chance_of_match([tables(rng, 7, 0.0, inputs=60)]) for _ in range(400)])
    # Each share is binomial; 4.5 standard errors are exceeded with a chance below 1e-5.
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert abs((chances <= alpha).mean() - alpha) < 4.5 * np.sqrt(alpha * (1 - alpha) / len(chances))


@pytest.mark.parametrize("repeats", [5, 20])
def test_repeats_with_the_same_seeds_and_other_rounding_are_found(repeats):
    rng = np.random.default_rng(1)
    assert all(chance_of_match([tables(rng, repeats, 0.5)]) <= 0.01 for _ in range(20))


def test_a_dependence_in_other_tables_counts_and_repeats_of_one_table_do_not_alone():
    rng = np.random.default_rng(2)
    loose, tight = tables(rng, 20, 0.0), tables(rng, 20, 0.8)
    assert chance_of_match([loose, tight]) <= 0.01
    assert chance_of_match([(tight[0], tight[1][::-1])]) > 0.01
    assert chance_of_match([]) == 1.0
    assert chance_of_match([tuple(table[:1] for table in tight)]) == 1.0


def test_runs_with_the_same_seeds_are_compared_in_pairs_and_others_are_not():
    rng = np.random.default_rng(3)
    one, rounded = tables(rng, 20, 0.8)
    other = tables(rng, 20, 0.0)[1]
    assert same_surrogates(side(one), side(one))
    assert same_streams(side(one), side(one))
    assert not same_surrogates(side(one), side(rounded))
    assert same_streams(side(one), side(rounded))
    assert not same_streams(side(one), side(other))
    found = [pairing(side(one), side(each)) for each in (one, rounded, other)]
    assert found == [Pairing.equal, Pairing.rounding, Pairing.broken]
    assert not same_streams(side(one), side(rounded[::-1]))
    # Repeats that one run lacks are left out.
    assert same_streams(side(one), side(rounded[3:], range(3, 20)))
    empty = Run(Baseline(Meta(), [], []))
    assert not same_streams(empty, empty)


def test_pairs_are_as_wide_as_two_samples_where_repeats_are_independent_and_narrower_where_not():
    rng = np.random.default_rng(4)

    def errors(shared, *, paired):
        found = []
        for _ in range(60):
            old, new = tables(rng, 20, shared)
            each = contrast(new, old, paired=paired)
            found.append(each.weight * each.spread + each.inputs)
        return np.mean(found)

    assert errors(0.0, paired=True) == pytest.approx(errors(0.0, paired=False), rel=0.15)
    assert errors(0.9, paired=True) < 0.7 * errors(0.9, paired=False)
