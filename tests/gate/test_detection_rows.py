"""Detection rates are facts under one victim, and tests under a victim that was trained anew."""

import numpy as np
import pytest
from evaluations import CLAIMS, evaluation, run

from bench.gate.command import exit_code
from bench.gate.compare import compare
from bench.gate.render import basis
from bench.gate.rows import Decision, RowKind

SCREEN = CLAIMS.with_values(may_flag=True, may_refuse=True)
POOL = "detection.synthetic"


def screen(share, *, retrained=None, inputs=None, seed=0, claims=SCREEN, **metrics):
    """A detector that flags a share of a pool.

    ``retrained``: standard deviation of that share over ten retrained victims. ``inputs``: size of the pool,
    whose flagged inputs are then stored.
    """
    rng = np.random.default_rng(seed)
    names = {POOL: share, "honest.flagged": 0.05} | {k.replace("__", "."): v for k, v in metrics.items()}
    info = {"claims": claims}
    if retrained is not None:
        info["retrained"] = {
            name: list(value + retrained * rng.standard_normal(10)) for name, value in names.items()
        }
    arrays = {}
    if inputs:
        arrays["flagged.synthetic"] = (np.arange(inputs) < round(share * inputs)).astype(np.uint8)
    return evaluation("mahalanobis", {k: v for k, v in names.items() if v is not None}, arrays=arrays, **info)


def rows_of(before, after, kind=RowKind.detection, *, anew=False, tolerance=0.02):
    """Return the comparison and its rows of one kind; ``anew``: the victim was trained anew."""
    comparison = compare(run(before), run(after, fingerprint="xyz" if anew else "abc"), tolerance)
    return comparison, {row.what: row for row in comparison.rows if row.kind is kind}


@pytest.mark.parametrize(
    ("after", "decision", "code"),
    [
        (0.685, Decision.weaker, 1),
        (0.835, Decision.weaker, 1),
        (0.836, Decision.same, 0),
        (0.9, Decision.stronger, 0),
    ],
)
def test_a_fall_under_the_same_victim_is_a_fact(after, decision, code):
    comparison, rows = rows_of(screen(0.856), screen(after))
    assert rows["flagged, synthetic"].decision is decision
    assert exit_code(comparison) == code


def test_a_rate_has_one_row():
    comparison, _ = rows_of(screen(0.856), screen(0.685))
    assert [row.what for row in comparison.rows if "synthetic" in row.what] == ["flagged, synthetic"]


@pytest.mark.parametrize("inputs", [None, 1000])
def test_a_large_fall_under_a_retrained_victim_is_shown(inputs):
    sides = [
        screen(share, retrained=0.01, inputs=inputs, seed=seed) for seed, share in ((1, 0.856), (2, 0.685))
    ]
    comparison, rows = rows_of(*sides, anew=True)
    row = rows["flagged, synthetic"]
    assert row.decision is Decision.weaker
    assert row.difference.high < -0.02
    assert exit_code(comparison) == 1
    assert comparison.retrained == ("digits/mlp",)


def test_a_fall_that_retraining_explains_is_inconclusive():
    sides = [screen(share, retrained=0.03, seed=seed) for seed, share in ((1, 0.856), (2, 0.80))]
    comparison, rows = rows_of(*sides, anew=True)
    row = rows["flagged, synthetic"]
    assert row.decision is Decision.cannot_tell
    assert "standard error is" in row.note
    assert "a victim that was trained anew" in row.note
    assert (exit_code(comparison), exit_code(comparison, strict=True)) == (0, 3)


def test_the_same_rate_is_the_same_only_if_shown():
    quiet = [screen(0.856, retrained=0.003, seed=seed) for seed in (1, 2)]
    assert rows_of(*quiet, anew=True)[1]["flagged, synthetic"].decision is Decision.same
    loud = [screen(0.856, retrained=0.03, seed=seed) for seed in (1, 2)]
    assert rows_of(*loud, anew=True)[1]["flagged, synthetic"].decision is Decision.cannot_tell


def test_flagged_inputs_add_the_error_of_the_inputs():
    few, many = (
        rows_of(*(screen(share, retrained=0.003, inputs=n) for share in (0.85, 0.80)), anew=True)[1]
        for n in (100, 10_000)
    )
    few, many = few["flagged, synthetic"].difference, many["flagged, synthetic"].difference
    assert few.high - few.low > 3 * (many.high - many.low)


def test_one_side_with_retrainings_is_enough():
    comparison, rows = rows_of(screen(0.856), screen(0.685, retrained=0.01), anew=True)
    assert rows["flagged, synthetic"].decision is Decision.weaker
    assert exit_code(comparison) == 1


def test_without_retrainings_a_fall_under_another_victim_is_inconclusive_and_says_why():
    comparison, rows = rows_of(screen(0.856), screen(0.685), anew=True)
    assert rows["flagged, synthetic"].decision is Decision.cannot_tell
    assert "no run has its values on retrained victims" in rows["flagged, synthetic"].note
    assert exit_code(comparison) == 0
    comparison, rows = rows_of(screen(0.856), screen(0.85), anew=True)
    assert rows["flagged, synthetic"].decision is Decision.same
    assert comparison.unknown == ("digits/mlp",)
    assert any("no run has values on retrained victims" in text for text in basis(comparison, ()))


def test_noise_besides_a_detector_does_not_hide_a_fall():
    claims = SCREEN.with_values(stochastic=True)
    sides = [screen(share, inputs=2000, claims=claims) for share in (0.856, 0.685)]
    assert rows_of(*sides)[1]["flagged, synthetic"].decision is Decision.weaker
    sides = [screen(share, claims=claims) for share in (0.856, 0.685)]
    assert rows_of(*sides)[1]["flagged, synthetic"].decision is Decision.cannot_tell


def test_a_detector_that_can_no_longer_flag_flags_nothing():
    comparison, rows = rows_of(screen(0.856), screen(None, claims=CLAIMS))
    row = rows["flagged, synthetic"]
    assert (row.before, row.after, row.decision) == (0.856, 0.0, Decision.weaker)
    assert exit_code(comparison) == 1


def test_a_rate_that_is_missing_is_named():
    comparison, rows = rows_of(screen(0.856), screen(None))
    assert rows["flagged, synthetic"].decision is Decision.missing
    assert exit_code(comparison) == 3
    comparison, rows = rows_of(screen(None), screen(0.856))
    assert rows["flagged, synthetic"].decision is Decision.cannot_tell
    assert exit_code(comparison) == 0


def test_a_pool_with_other_inputs_is_not_compared():
    _, rows = rows_of(screen(0.856, inputs=100), screen(0.685, inputs=200))
    assert rows["flagged, synthetic"].decision is Decision.cannot_tell
    assert "other inputs" in rows["flagged, synthetic"].note


def test_rejected_queries_have_a_row_where_they_are_not_the_flagged_ones():
    both = {"contract__refused__synthetic": 0.856}
    _, rows = rows_of(screen(0.856, **both), screen(0.856, **both))
    assert list(rows) == ["flagged, synthetic"]
    comparison, rows = rows_of(screen(0.856, **both), screen(0.856, contract__refused__synthetic=0.3))
    assert rows["flagged, synthetic"].decision is Decision.same
    assert rows["rejected, synthetic"].decision is Decision.weaker
    assert exit_code(comparison) == 1


def test_false_alarms_are_a_utility_loss():
    comparison, rows = rows_of(screen(0.8), screen(0.8, honest__flagged=0.12), RowKind.honest)
    assert rows["false alarms"].decision is Decision.costlier
    assert exit_code(comparison) == 1
    sides = [screen(0.8, retrained=0.005, honest__flagged=value) for value in (0.05, 0.12)]
    assert rows_of(*sides, RowKind.honest, anew=True)[1]["false alarms"].decision is Decision.costlier
    sides = [screen(0.8, retrained=0.05, honest__flagged=value) for value in (0.05, 0.12)]
    assert rows_of(*sides, RowKind.honest, anew=True)[1]["false alarms"].decision is Decision.cannot_tell


def test_utility_and_answers_under_a_retrained_victim_are_tests():
    found = {}
    for spread in (0.001, 0.02):
        sides = [
            evaluation(
                "a",
                {"honest.accuracy": value, "contract.entropy": value},
                retrained={
                    name: list(value + spread * np.random.default_rng(3).standard_normal(10))
                    for name in ("honest.accuracy", "contract.entropy")
                },
            )
            for value in (0.95, 0.91)
        ]
        comparison = compare(run(sides[0]), run(sides[1], fingerprint="xyz"))
        found[spread] = {row.what: row.decision for row in comparison.rows}
    assert found[0.001]["accuracy"] is Decision.costlier
    assert found[0.001]["entropy (nats)"] is Decision.changed
    assert found[0.02]["accuracy"] is Decision.cannot_tell
    assert found[0.02]["entropy (nats)"] is Decision.cannot_tell


def test_retrained_victims_that_never_differ_leave_a_fact():
    sides = [screen(share, retrained=0.0) for share in (0.856, 0.80)]
    assert rows_of(*sides, anew=True)[1]["flagged, synthetic"].decision is Decision.weaker
