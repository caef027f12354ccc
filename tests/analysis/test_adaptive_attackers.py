import math
from dataclasses import replace

import numpy as np
import pytest
from records import INSIDE, cell, evaluation

from bench.analysis.adaptive_attackers import AttackRun, Behaviour, adaptive_criterion, lacking, needs
from bench.analysis.confirmed_reduction import AttackTable
from bench.analysis.findings import Findings
from bench.analysis.rule_inputs import RuleInputs, restoration
from bench.metrics.intervals import Interval
from bench.records import AttackDeclarations
from bench.run_facts import ReportOptions

INPUTS = 2000


def table(name, hits=0.95, repeats=5):
    row = (np.arange(INPUTS) < hits * INPUTS).astype(np.uint8)
    return AttackTable(name, name, tuple(range(repeats)), np.tile(row, (repeats, 1)))


def informed(plugin, hits=0.95, **changed):
    """A finished attack that knows the defense, and is proven to use it."""
    values = {"can_use_knowledge": True, "informed": True, "adapts": True} | changed
    return AttackRun(plugin, table(plugin, hits), **values)


def uninformed(plugin, hits=0.95, **changed):
    return AttackRun(plugin, table(f"{plugin} (non-adaptive)", hits), **changed)


MET = [informed("auto"), uninformed("labels"), uninformed("copycat")]


def restore(*values, **changed):
    """An attack that simulated the defense, and whose restored answers are nearer by .3 in L1."""
    return informed(
        "restore", *values, simulates=True, **({"restoration": Interval(0.3, 0.1, 0.5)} | changed)
    )


def verdict(runs, behaviour=None, known_by=()):
    return adaptive_criterion(runs, needs(behaviour or Behaviour(), known_by), 0.01, INPUTS)


def test_auto_and_labels_are_enough_for_a_defense_that_answers_the_same_and_rejects_nothing():
    found = verdict(MET)
    assert found.verdict == "affordable"
    assert found.loss.value == 0


@pytest.mark.parametrize(
    ("behaviour", "plugin"),
    [
        (Behaviour(varies=True), "average"),
        (Behaviour(rejects=True), "evade"),
        (Behaviour(counts=True), "evade from several accounts"),
    ],
)
def test_what_a_defense_does_decides_which_attack_it_has_to_meet(behaviour, plugin):
    found = verdict(MET, behaviour)
    assert found.verdict == "too dear"
    assert found.detail == f"not evaluated against an adaptive attacker: {plugin} was not run"
    met = informed(plugin.split()[0], accounts="accounts" in plugin)
    assert verdict([*MET, met], behaviour).verdict == "affordable"


def test_a_limit_per_client_has_to_meet_an_attacker_with_several_accounts():
    behaviour = Behaviour(counts=True, rejects=True)
    assert verdict([*MET, informed("evade")], behaviour).verdict == "too dear"
    assert verdict([*MET, informed("evade", accounts=True)], behaviour).verdict == "affordable"


@pytest.mark.parametrize(
    ("auto", "reason"),
    [
        (uninformed("auto", can_use_knowledge=True), "auto was not run with full knowledge of the defense"),
        (informed("auto", finished=False), "auto lacks repeats"),
        (informed("auto", ranked=False), "auto is near chance without defense"),
        (informed("auto", adapts=None), "auto does not record whether it adapts: run again"),
        (informed("auto", adapts=False), "auto does nothing else when told of the defense"),
        (informed("auto", carried_over=True), "auto was not run"),
        (informed("auto", adapts=False, small=True), "auto has too few queries to adapt"),
    ],
)
def test_an_attack_counts_only_if_it_is_finished_ranked_informed_and_proven_to_adapt(auto, reason):
    found = verdict([auto, *MET[1:]])
    assert found.verdict == "too dear"
    assert found.detail == f"not evaluated against an adaptive attacker: {reason}"


def test_the_attack_on_labels_needs_no_knowledge_and_may_be_carried_over():
    told = uninformed("labels", can_use_knowledge=True, carried_over=True)
    assert verdict([MET[0], told]).verdict == "affordable"


def test_what_is_carried_over_was_not_run():
    """Neither an attack that has nothing to invert here, nor one that the defense names."""
    detector = Behaviour(rejects=True, unchanged=True)
    evading = [informed("evade"), uninformed("labels")]
    assert verdict([*evading, informed("auto", adapts=False)], detector).verdict == "affordable"
    carried = verdict([*evading, informed("auto", carried_over=True)], detector)
    assert carried.detail.endswith("auto was not run")
    named = verdict([*MET, informed("mine", carried_over=True)], known_by=["mine"])
    assert named.detail.endswith("mine was not run")
    # Nor does an attack that simulates the defense stand in for it.
    assert verdict([informed("auto", carried_over=True), *MET[1:], restore()]).verdict == "too dear"


def test_attacks_that_a_defense_names_add_to_the_others_and_replace_none():
    # The plugin names an attack that learns nothing from the defense, and meets that alone.
    own = [uninformed("copycat"), uninformed("labels")]
    found = verdict(own, known_by=["copycat"])
    assert found.verdict == "too dear"
    assert "auto was not run" in found.detail
    untold = [*own, informed("auto", adapts=False)]
    assert verdict(untold, known_by=["copycat"]).verdict == "too dear"
    assert verdict(MET, known_by=["mine"]).detail.endswith("mine was not run")
    assert verdict([*MET, informed("mine", adapts=False)], known_by=["mine"]).verdict == "affordable"


def test_an_attack_that_simulates_a_defense_stands_in_where_no_inverse_was_written():
    unmoved = [informed("auto", adapts=False), *MET[1:]]
    assert verdict([*unmoved, restore()]).verdict == "affordable"
    unfit = ({"adapts": False}, {"finished": False}, {"ranked": False}, {"informed": False}, {"small": True})
    for changed in unfit:
        again = verdict([*unmoved, restore(**changed)])
        assert again.detail.endswith("auto does nothing else when told of the defense")
    assert verdict([*unmoved, informed("mine")]).verdict == "too dear"
    # It replaces no attack that was not run, or that lacks something else.
    assert "auto was not run" in verdict([*MET[1:], restore()]).detail
    early = [informed("auto", adapts=False, small=True), *MET[1:], restore()]
    assert verdict(early).verdict == "too dear"
    # What it leaves is compared with the others as that of any adaptive attack.
    assert verdict([*unmoved, restore(0.8)]).verdict == "too dear"


@pytest.mark.parametrize(
    ("restoration", "clause"),
    [
        (None, "restore has no restored answers on record"),
        (Interval(-0.2, -0.3, -0.1), "restore did not undo it"),
        (Interval(0.0, 0.0, 0.0), "restore did not undo it"),
        (Interval(0.1, -0.1, 0.3), "restore is not shown to undo it"),
        (Interval(0.1, math.nan, math.nan), "restore is not shown to undo it"),
    ],
)
def test_an_attack_that_simulates_a_defense_and_restores_nothing_stands_in_for_none(restoration, clause):
    unmoved = [informed("auto", adapts=False), *MET[1:]]
    found = verdict([*unmoved, restore(restoration=restoration)])
    assert found.verdict == "too dear"
    assert found.detail.endswith(f"auto does nothing else when told of the defense, and {clause}")
    # Another one that does so stands in.
    assert verdict([*unmoved, restore(restoration=restoration), restore()]).verdict == "affordable"
    # Where auto adapts by itself, nothing has to stand in for it.
    assert verdict([*MET, restore(restoration=restoration)]).verdict == "affordable"


def restored(repeat, obtained, after):
    known = {"extraction.l1_answers": obtained, "extraction.l1_restored": after}
    made = cell(INSIDE, ("top_k(k=3)",), "restore", 200, repeat, share=0.8)
    return replace(made, metrics={name: value for name, value in known.items() if value != "missing"})


def test_what_was_restored_is_compared_with_what_was_obtained_in_the_same_repeat():
    # Differences .1, .2, .3: mean .2, standard deviation .1; 4.303 is the 97.5 % quantile of t, 2 degrees.
    values = [(0.5, 0.4), (0.9, 0.7), (0.4, 0.1)]
    found = restoration([restored(repeat, *pair) for repeat, pair in enumerate(values)])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_a_repeat_that_restored_nothing_counts_as_no_gain():
    one = [restored(0, 0.6, 0.3), restored(1, "missing", "missing")]
    assert restoration(one).value == pytest.approx(0.15)


def test_without_restored_answers_on_record_nothing_is_known():
    assert restoration([restored(0, "missing", "missing")]) is None
    assert restoration([restored(0, None, None)]) is None  # of a live target


@pytest.mark.parametrize(("after", "verdict"), [(0.1, "restores"), (0.8, "did not undo it")])
def test_the_rule_reads_it_from_the_records(after, verdict):
    defense = ("top_k(k=3)",)
    threat = INSIDE | {"knowledge": "full"}
    declared = AttackDeclarations(knowledge=["full"], simulates=True)
    made = [
        replace(
            cell(threat, defense, "restore", 200, repeat, share=0.8),
            metrics={"extraction.l1_answers": 0.5, "extraction.l1_restored": after + repeat / 1000},
        )
        for repeat in range(5)
    ]
    records = [
        replace(each, info=each.info.with_values(attack=declared, adaptation={"differs": True}))
        for each in made
    ]
    findings = Findings([evaluation(defense), *records], {"digits": 200})
    inputs = RuleInputs(findings, findings.threats[0], 200, ReportOptions(), adaptive=True)
    (run,) = inputs.runs[defense]
    assert run.stands_in == (verdict == "restores")
    assert run.stands_in or run.why_not_instead.endswith(verdict)


@pytest.mark.parametrize(
    ("behaviour", "plugin"), [(Behaviour(varies=True), "average"), (Behaviour(rejects=True), "evade")]
)
def test_an_attack_that_simulates_a_defense_stands_in_for_no_other_way_to_query(behaviour, plugin):
    runs = [*MET, restore()]
    found = verdict([*runs, informed(plugin, adapts=False)], behaviour)
    assert found.detail.endswith(f"{plugin} does nothing else when told of the defense")
    assert verdict([*runs, informed(plugin)], behaviour).verdict == "affordable"


DETECTOR = Behaviour(rejects=True, unchanged=True)


@pytest.mark.parametrize("behaviour", [DETECTOR, Behaviour(counts=True, unchanged=True)])
def test_an_attack_with_nothing_to_invert_need_not_adapt_where_one_that_evades_does(behaviour):
    unmoved, evade = [informed("auto", adapts=False), *MET[1:]], informed("evade", accounts=True)
    assert verdict([*unmoved, evade], behaviour).verdict == "affordable"
    # Of a defense that changes answers too, there is something to invert.
    changing = Behaviour(rejects=behaviour.rejects, counts=behaviour.counts)
    assert verdict([*unmoved, evade], changing).detail.endswith(
        "auto does nothing else when told of the defense"
    )
    # It still has to be run as itself, with knowledge, and the other one has to adapt.
    for auto in (
        uninformed("auto", can_use_knowledge=True),
        informed("auto", adapts=None),
        informed("auto", adapts=False, small=True),
        informed("auto", adapts=False, finished=False),
    ):
        assert verdict([auto, *MET[1:], evade], behaviour).verdict == "too dear"
    assert "auto was not run" in verdict([*MET[1:], evade], behaviour).detail
    still = verdict([*unmoved, informed("evade", accounts=True, adapts=False)], behaviour)
    assert "evade" in still.detail
    assert still.detail.endswith("does nothing else when told of the defense")


def test_a_defense_that_neither_changes_answers_nor_rejects_is_no_detector():
    unmoved = [informed("auto", adapts=False), *MET[1:]]
    assert verdict(unmoved, Behaviour(unchanged=True)).verdict == "too dear"


def test_the_best_adaptive_attack_may_be_a_little_below_the_best_other_one():
    behind = verdict([informed("auto", 0.948), uninformed("labels"), uninformed("copycat", 0.95)])
    assert behind.verdict == "affordable"
    assert behind.loss.value == pytest.approx(0.002)
    far = verdict([informed("auto", 0.85), uninformed("labels"), uninformed("copycat", 0.95)])
    assert far.verdict == "too dear"
    unclear = verdict([informed("auto", 0.942), uninformed("labels"), uninformed("copycat", 0.95)])
    assert unclear.verdict == "not shown"
    assert unclear.needed > INPUTS


def test_an_attack_near_chance_is_not_the_best_of_the_others():
    lucky = uninformed("knockoff", 0.99, ranked=False)
    assert verdict([*MET, lucky]).verdict == "affordable"


def test_behaviour_is_measured_not_only_claimed():
    quiet = evaluation(("top_k(k=3)",))
    assert Behaviour.of(quiet) == Behaviour()
    for metric, value, seen in (
        ("contract.again", 0.97, Behaviour(varies=True)),
        ("honest.refused", 0.01, Behaviour(rejects=True)),
        ("honest.flagged", 0.01, Behaviour(rejects=True)),
        ("contract.refused.noise", 0.9, Behaviour(rejects=True)),
    ):
        quiet.metrics[metric], before = value, quiet.metrics.get(metric)
        assert Behaviour.of(quiet) == seen
        quiet.metrics[metric] = before
    assert Behaviour.of(evaluation(("top_k(k=3)",), stochastic=True)).varies
    assert not Behaviour.of(evaluation(("top_k(k=3)",), stochastic=True, consistent_noise=True)).varies
    assert Behaviour.of(evaluation(("top_k(k=3)",), counts_queries=True)).counts


def test_all_that_is_lacking_is_named():
    names = [str(each) for each in lacking([], needs(Behaviour(varies=True, rejects=True)))]
    assert names == [f"{plugin} was not run" for plugin in ("auto", "labels", "average", "evade")]


UNCHANGED, REJECTED = "unchanged where not flagged", "rejected where flagged"
SCREEN, TWICE = "mahalanobis", ("mahalanobis", "mahalanobis (2)")


def evaluated(stack, names, broken=(), l1=0.0):
    """An evaluation with these predicates, all held but for ``broken``, and this mean L1 of benign users."""
    found = evaluation(tuple(stack), l1=l1, may_refuse=True)
    held = {name: {"worst": 0.0, "broken": int(name in broken), "answers": 500} for name in names}
    return replace(found, info=found.info.with_values(predicates=held))


@pytest.mark.parametrize(
    ("stack", "names", "unchanged"),
    [
        ([SCREEN], [f"{SCREEN}: {UNCHANGED}", f"{SCREEN}: {REJECTED}"], True),
        (["rate_limit"], ["rate_limit: unchanged where not rejected"], True),
        # It answers flagged queries with something else.
        ([SCREEN], [f"{SCREEN}: {UNCHANGED}"], False),
        ([SCREEN], [f"other: {UNCHANGED}", f"other: {REJECTED}"], False),
        ([SCREEN, "rounded"], [f"{SCREEN}: {UNCHANGED}", f"{SCREEN}: {REJECTED}"], False),
        ([SCREEN, SCREEN], [f"{SCREEN}: {UNCHANGED}", f"{SCREEN}: {REJECTED}"], False),
        ([SCREEN, SCREEN], [f"{who}: {text}" for who in TWICE for text in (UNCHANGED, REJECTED)], True),
    ],
)
def test_answers_are_unchanged_where_every_member_of_a_stack_held_to_that(stack, names, unchanged):
    assert Behaviour.of(evaluated(stack, names)).unchanged == unchanged
    assert not any(Behaviour.of(evaluated(stack, names, broken=[name])).unchanged for name in names)
    # What a plugin's predicate computes may be wrong.
    assert not Behaviour.of(evaluated(stack, names, l1=0.01)).unchanged
