"""A claim that the baseline keeps is one that the candidate has to make and keep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluations import CELL, CLAIMS, KEPT, evaluation, run

from bench.gate import render
from bench.gate.baseline import export
from bench.gate.claim_rows import PROMISES, SHOWN_BY
from bench.gate.command import exit_code, gate
from bench.gate.compare import compare
from bench.gate.rows import Decision, RowKind
from bench.records import IndependenceRecord, PredicateRecord, Record, task_of
from bench.runner import defense_evaluation
from defenses.base import Claims
from defenses.predicates import of_claims

HOLDS = PredicateRecord(worst=0.0, broken=0, answers=1000)
BREAKS = PredicateRecord(worst=1e-4, broken=12, answers=1000)
NOISE = CLAIMS.with_values(stochastic=True)
ASPECTS = ("queries", "repeats", "clients", "inputs")


def claims(before, after):
    """Return the comparison and its rows on claims."""
    comparison = compare(run(before), run(after))
    return comparison, [row for row in comparison.rows if row.kind is RowKind.claim]


def predicates(before, after):
    sides = [evaluation("label_only", predicates=KEPT | each) for each in (before, after)]
    comparison, (row,) = claims(*sides)
    return comparison, row


def test_a_predicate_that_the_candidate_breaks_is_a_regression():
    comparison, row = predicates({"one-hot": HOLDS}, {"one-hot": BREAKS})
    assert (row.what, row.decision) == ("one-hot", Decision.broken)
    assert row.note == "by 12 of 1,000 answers, by up to 0.0001"
    assert (row.before, row.after) == (0.0, 1e-4)
    assert exit_code(comparison) == 1
    assert render.headline(comparison) == "Regression: 1 broken claim."


def test_a_predicate_that_is_no_longer_claimed_is_broken():
    comparison, row = predicates({"one-hot": HOLDS}, {})
    assert (row.decision, row.note) == (Decision.broken, "no longer claimed")
    assert exit_code(comparison) == 1


def test_a_wider_tolerance_does_not_hide_a_broken_predicate():
    wide = PredicateRecord(worst=1e-4, broken=0, answers=1000, tolerance=1e-3)
    _, row = predicates({"one-hot": HOLDS}, {"one-hot": wide})
    assert row.decision is Decision.broken
    assert "tolerance was 0 before" in row.note


def test_what_a_stack_and_its_member_both_claim_has_one_row():
    _, row = predicates(
        {"one-hot": HOLDS, "label_only: one-hot": HOLDS}, {"one-hot": BREAKS, "label_only: one-hot": BREAKS}
    )
    assert row.what == "one-hot"


def test_kept_predicates_are_one_row():
    comparison, row = predicates({"one-hot": HOLDS}, {"one-hot": HOLDS})
    assert (row.what, row.decision, row.note) == ("all predicates", Decision.same, "2 predicates")
    assert exit_code(comparison, strict=True) == 0


@pytest.mark.parametrize(
    ("before", "after", "decision"),
    [
        ({"one-hot": BREAKS}, {"one-hot": BREAKS}, Decision.cannot_tell),
        ({"one-hot": BREAKS}, {}, Decision.cannot_tell),
        ({"one-hot": BREAKS}, {"one-hot": HOLDS}, Decision.stronger),
        ({}, {"one-hot": BREAKS}, Decision.cannot_tell),
        (
            {"one-hot": HOLDS},
            {"one-hot": PredicateRecord(worst=0, broken=0, answers=0)},
            Decision.cannot_tell,
        ),
    ],
)
def test_what_the_baseline_did_not_keep_is_not_gated(before, after, decision):
    comparison, row = predicates(before, after)
    assert row.decision is decision
    assert exit_code(comparison) == 0


@pytest.mark.parametrize(
    ("before", "after", "dropped"),
    [
        ({"keeps_label": True}, {"keeps_label": False}, ["the label is kept"]),
        ({"one_hot": True}, {"one_hot": False}, ["answers are one-hot"]),
        ({"may_refuse": False}, {"may_refuse": True}, ["no query is rejected"]),
        ({"stochastic": False}, {"stochastic": True}, ["answers do not depend on the seed"]),
        ({"stochastic": True}, {"stochastic": False}, []),
        ({"may_flag": True, "ties": True}, {"may_flag": False, "ties": False}, []),
        ({"one_hot": None}, {"one_hot": False}, []),
        ({"one_hot": False, "keeps_label": False}, {"one_hot": True, "keeps_label": True}, []),
    ],
)
@pytest.mark.parametrize("older", [True, False])
def test_a_promise_that_is_dropped_is_a_broken_claim(before, after, dropped, older):
    """``older``: the baseline has no predicates, which would show the same."""
    sides = [
        evaluation("a", claims=CLAIMS.with_values(**each), predicates={} if older and first else KEPT)
        for first, each in ((True, before), (False, after))
    ]
    comparison, rows = claims(*sides)
    assert [row.what for row in rows if row.decision is Decision.broken] == dropped
    assert exit_code(comparison) == (1 if dropped else 0)


def test_a_dropped_promise_that_answers_keep_is_not_broken():
    before = evaluation("a", predicates={})
    after = evaluation(
        "a",
        claims=CLAIMS.with_values(keeps_label=False),
        predicates=KEPT | {"the victim's top-1": HOLDS},
    )
    assert exit_code(claims(before, after)[0]) == 0


def test_a_dropped_promise_has_one_row():
    shown = {"the victim's top-1": HOLDS}
    before = evaluation("a", predicates=KEPT | shown)
    after = evaluation("a", claims=CLAIMS.with_values(keeps_label=False))
    _, rows = claims(before, after)
    assert [(row.what, row.decision) for row in rows] == [("the victim's top-1", Decision.broken)]


@pytest.mark.parametrize("number", [1, 3])
def test_an_older_baseline_cannot_tell_and_says_what_it_lacks(number):
    defenses = ["a", "b", "c"][:number]
    before = run(*(evaluation(each, predicates={}) for each in defenses))
    after = run(*(evaluation(each, predicates=KEPT) for each in defenses))
    rows = [row for row in compare(before, after).rows if row.kind is RowKind.claim]
    assert [(row.condition, row.decision) for row in rows] == [("digits/mlp", Decision.cannot_tell)]
    assert "does not say which predicates" in rows[0].note
    assert exit_code(compare(before, after)) == 0
    assert exit_code(compare(before, after), strict=True) == 3
    assert exit_code(compare(after, before)) == 3


def noise(chances, *, equal=0, claims=NOISE):
    found = {
        name: IndependenceRecord(agreement=0.01, chance=chance, inputs=447, equal=equal)
        for name, chance in chances.items()
    }
    return evaluation("gaussian_noise", claims=claims, independence=found)


def test_noise_that_depends_on_what_it_must_not_is_a_broken_claim():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    comparison, rows = claims(noise(fresh), noise(fresh | {"repeats": 1e-4}))
    found = {row.what: row.decision for row in rows}
    assert found["noise is independent across repeats"] is Decision.broken
    assert found["noise is independent across clients"] is Decision.same
    assert exit_code(comparison) == 1
    assert exit_code(claims(noise(fresh), noise(fresh))[0], strict=True) == 0


def test_a_p_value_that_one_of_many_tests_may_have_is_no_alarm():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    assert exit_code(claims(noise(fresh), noise(fresh | {"repeats": 0.02}))[0], strict=True) == 0


def test_a_baseline_whose_noise_depends_itself_cannot_tell():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    worse = fresh | {"repeats": 1e-4}
    comparison, rows = claims(noise(worse), noise(worse))
    assert [row.what for row in rows if row.decision is Decision.cannot_tell] == [
        "noise is independent across repeats"
    ]
    assert exit_code(comparison) == 0


def test_a_small_p_value_of_the_baseline_does_not_stop_later_comparisons():
    """One of many tests has a p-value of 2 % by chance, and a run of the same code has it again."""
    chances = dict.fromkeys(ASPECTS, 0.5) | {"repeats": 0.02}
    assert exit_code(claims(noise(chances), noise(chances))[0], strict=True) == 0
    assert exit_code(claims(noise(chances), noise(chances | {"repeats": 1e-4}))[0]) == 1


def test_continuous_noise_that_repeats_answers_is_a_broken_claim():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    assert exit_code(claims(noise(fresh), noise(fresh, equal=3))[0]) == 1
    assert exit_code(claims(noise(fresh, equal=None), noise(fresh, equal=None))[0]) == 0
    assert exit_code(claims(noise(fresh, equal=3), noise(fresh, equal=3))[0]) == 0
    assert exit_code(claims(noise(fresh), noise(fresh, equal=None))[0]) == 1


def test_noise_that_is_gone_is_a_broken_claim():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    comparison, rows = claims(noise(fresh), noise({}, claims=CLAIMS))
    assert [row.note for row in rows if row.decision is Decision.broken] == ["answers have no noise any more"]
    assert exit_code(comparison) == 1


def test_noise_that_is_keyed_by_the_input_as_claimed_is_a_changed_answer():
    fresh = dict.fromkeys(ASPECTS, 0.5)
    comparison, rows = claims(noise(fresh), noise({}, claims=NOISE.with_values(consistent_noise=True)))
    assert Decision.changed in {row.decision for row in rows}
    assert exit_code(comparison) == 0
    assert exit_code(comparison, strict=True) == 1


def test_a_baseline_without_tests_of_noise_cannot_tell():
    _, rows = claims(noise({}), noise(dict.fromkeys(ASPECTS, 0.5)))
    row = next(row for row in rows if row.decision is Decision.cannot_tell)
    assert "no tests of the independence of noise" in row.note


def test_a_task_that_fails_because_answers_break_a_claim_is_a_regression():
    before = run(evaluation("a"), evaluation("none"))
    failed = evaluation("a", status="failed", broken_claim="one_hot")
    comparison = compare(before, run(failed, evaluation("none")))
    (row,) = comparison.of(Decision.broken)
    assert row.kind is RowKind.claim
    assert row.what.startswith("one_hot")
    assert exit_code(comparison) == 1
    assert exit_code(compare(before, run(evaluation("a", status="failed"), evaluation("none")))) == 3


def test_a_broken_claim_of_all_evaluations_is_a_decision_and_no_usage_error(tmp_path, capsys):
    """Then the runs share no answer statistics, without which they would not be compared."""
    cell = task_of("cell", CELL)
    attacked = Record("", cell, "ok", {"extraction.fidelity": 1.0}, {"agreement": np.ones(9, np.uint8)})
    export(run(attacked, evaluation("a")), tmp_path / "a.json")
    export(run(attacked, evaluation("a", status="failed", broken_claim="ties")), tmp_path / "b.json")
    assert gate(tmp_path / "a.json", tmp_path / "b.json", tolerance=2, json=tmp_path / "c.json") == 1
    printed = capsys.readouterr().out
    assert printed.startswith("Regression: 1 broken claim.\nFind the change")
    worst = render.JsonComparison.model_validate_json((tmp_path / "c.json").read_bytes()).rows[0]
    assert (worst.family, worst.verdict) == (RowKind.claim, Decision.broken)


def test_promises_are_shown_by_the_predicates_that_evaluations_write():
    allowed = Claims(ties=True, may_refuse=True, may_flag=True, keeps_label=False, distribution=False)
    for name, shown in SHOWN_BY.items():
        if name == "stochastic":
            # It needs a second answer, which the evaluation itself compares.
            assert repr(*shown).replace("'", '"') in Path(defense_evaluation.__file__).read_text()
            continue
        claims = replace(allowed, **{name: name in PROMISES})
        assert shown == tuple(each.name for each in of_claims(claims)), name
