"""Recommendations from records, as a store has them."""

from dataclasses import replace

import numpy as np
import pytest
from records import INPUTS, INSIDE, META, NEAR, REPEATS, cell, evaluation, failed, hits

from bench.analysis.findings import Findings
from bench.analysis.recommendation import recommendations, selected
from bench.metrics.balance import fidelity_weights
from bench.records import AdaptationRecord, AttackDeclarations
from bench.run_facts import ReportOptions

SOFT, AUTO, LABELS = "copycat(use_probability=true)", "auto", "labels"
FULL = INSIDE | {"knowledge": "full"}
NONE, LABEL_ONLY, TOP, NOISE, REFUSE = (
    (),
    ("label_only",),
    ("top_k(k=1)",),
    ("gaussian_noise(scale=0.2)",),
    ("mahalanobis(action=refuse, fpr=0.05, space=deep)",),
)
ADAPTS = AdaptationRecord(differs=True)
LITTLE = {
    "honest.accuracy_lost": [0.0, -0.002, 0.004],
    "honest.balanced_accuracy_lost": [0.0, -0.002, 0.004],
    "honest.refused": [0.0, 0.0, 0.004],
    "honest.aurc_added": [0.0, -0.002, 0.004],
    "honest.brier_added": [0.0, -0.002, 0.004],
    "honest.changed": [0.0, 0.0, 0.004],
    "contract.again": [1.0, 1.0, 1.0],
}
LIMITS = ReportOptions(shortfall=0.03, confirm=3)


def judged(defense, *, one_hot=False, **changed):
    """A defense evaluation that measures what a page needs; ``changed``: other [value, low, high]."""
    claims = {
        name: changed.pop(name) for name in ("stochastic", "may_refuse", "keeps_label") if name in changed
    }
    record = evaluation(defense, one_hot=one_hot, **({"keeps_label": False} | claims))
    given = LITTLE | {f"honest.{name}": each for name, each in changed.items()}
    given = {name: each for name, each in given.items() if each is not None}
    metrics = {name: value for name, value in record.metrics.items() if name not in LITTLE}
    metrics |= {name: each[0] for name, each in given.items()}
    intervals = {name: each[1:] for name, each in given.items()}
    info = record.info.with_values(intervals=intervals, known_by={})
    return replace(record, metrics=metrics, info=info)


def attacked(
    defense, reached, *, threat=INSIDE, adapts=ADAPTS, confirmation=False, repeats=REPEATS, budget=200
):
    """Cells of the three attacks: what each of them reaches; ``auto`` is told of the defense."""
    found = []
    for attack, share in reached.items():
        told = threat | {"knowledge": "full"} if attack == AUTO else threat
        for repeat in range(repeats):
            record = cell(told, defense, attack, budget, repeat, share=share)
            offset = 100 if confirmation else 0
            record.arrays["agreement"] = hits(share, attack, repeat + offset)
            declared = AttackDeclarations(
                knowledge=["none", "full"] if attack in (AUTO, LABELS) else ["none"]
            )
            values = {"attack": declared.values(), "flags": []}
            if attack == AUTO and adapts and repeat == 0:
                values["adaptation"] = adapts.values()
            task = replace(record.task, repeats=repeats, confirmation=confirmation)
            info = record.info.with_values(**values)
            found.append(replace(record, key=f"{record.key} {confirmation}", task=task, info=info))
    return found


ALL = {SOFT: 0.9, AUTO: 0.9, LABELS: 0.85}
LESS = {SOFT: 0.6, AUTO: 0.65, LABELS: 0.6}
RECORDS = [
    judged(NONE),
    judged(TOP),
    judged(NOISE, stochastic=True),
    judged(LABEL_ONLY, one_hot=True, keeps_label=True),
    judged(REFUSE, may_refuse=True, refused=[0.05, 0.03, 0.07]),
    *attacked(NONE, ALL),
    *attacked(TOP, LESS),
    *attacked(NOISE, LESS),
    *attacked(LABEL_ONLY, {SOFT: 0.5, AUTO: 0.55, LABELS: 0.5}),
    *attacked(REFUSE, LESS),
]
CONFIRMED = [
    record
    for defense, reached in ((NONE, ALL), (TOP, LESS), (LABEL_ONLY, {SOFT: 0.5, AUTO: 0.55, LABELS: 0.5}))
    for record in attacked(defense, reached, confirmation=True, repeats=6)
]


def answers(records=RECORDS, options=LIMITS):
    (found,) = recommendations(Findings.of_run(records, META), options)
    return found


def rows(records=RECORDS, options=LIMITS):
    return {row.defense: row for row in answers(records, options).strongest.rows}


def test_before_the_confirmation_run_the_eligible_defense_is_selected():
    findings = Findings.of_run(RECORDS, META)
    (chosen,) = selected(findings, LIMITS)
    assert chosen.defenses == (TOP,)
    assert chosen.budget == 200
    assert chosen.threat.knowledge == "full"
    assert rows()[TOP].conclusion == "candidate"
    assert answers().strongest.recommended is None
    assert not answers().strongest.confirmed


def test_after_it_the_defense_is_recommended_with_figures_of_fresh_repeats_alone():
    found = answers([*RECORDS, *CONFIRMED]).strongest
    assert found.recommended.defense == TOP
    assert found.fresh_repeats == 6
    assert found.selection_repeats == REPEATS
    reduction = found.recommended.reduction
    assert reduction.fresh
    chosen = AUTO if reduction.undefended_attack == "auto" else SOFT
    assert reduction.undefended == pytest.approx(
        np.mean([hits(0.9, chosen, repeat + 100).mean() for repeat in range(6)])
    )
    assert found.undefended.value == pytest.approx(reduction.undefended)
    assert found.undefended_attack == reduction.undefended_attack
    assert found.compared == 4
    assert found.attacks == 3
    assert found.adaptive == 1
    assert dict(found.others) == {"labels": LABEL_ONLY, "ranking": TOP}
    assert found.rows[0].conclusion == "undefended"


def test_each_defense_says_why_it_is_not_recommended():
    found = rows([*RECORDS, *CONFIRMED])
    assert found[NOISE].conclusion == "no adaptive attacker"
    assert "average was not run" in found[NOISE].failed[0].detail
    assert found[LABEL_ONLY].conclusion == "not usable"
    assert found[LABEL_ONLY].eligible_for == ("labels",)
    assert found[REFUSE].conclusion == "not usable"
    assert {each.name for each in found[REFUSE].failed} == {"rejected", "adaptive"}
    assert "evade was not run" in found[REFUSE].criterion("adaptive").detail


def test_without_options_for_a_confirmation_its_repeats_do_not_count():
    found = answers([*RECORDS, *CONFIRMED], LIMITS.model_copy(update={"confirm": 0})).strongest
    assert found.recommended is None
    assert found.fresh_repeats == 0


def test_fresh_repeats_are_left_out_of_all_other_findings():
    plain, both = (Findings.of_run(records, META) for records in (RECORDS, [*RECORDS, *CONFIRMED]))
    assert plain.fresh is None
    assert set(both.attack_results) == set(plain.attack_results)
    for condition, results in plain.attack_results.items():
        for name, result in results.items():
            assert both.attack_results[condition][name].repeats == result.repeats
            assert (both.attack_results[condition][name].agreement == result.agreement).all()
    assert {record.task.confirmation for record in both.fresh.records if record.kind == "cell"} == {True}
    assert both.fresh.evaluations == plain.evaluations


def without(*keep, of=TOP):
    """The records without the cells of a defense that ``keep`` does not name."""
    return [r for r in RECORDS if r.kind != "cell" or r.cell.defense != of or r.cell.attack in keep]


def test_a_plugin_whose_own_attack_does_not_adapt_is_not_recommended():
    """It names an attack of its own as the one that knows it, and that is all that was run against it."""
    trusting = judged(TOP)
    trusting = replace(trusting, info=trusting.info.with_values(known_by={"top_k": ["copycat"]}))
    records = [trusting if r.kind == "audit" and r.task.defense == TOP else r for r in without(SOFT, LABELS)]
    found = rows([*records, *CONFIRMED])[TOP]
    assert found.conclusion == "no adaptive attacker"
    assert "auto was not run" in found.failed[0].detail
    assert answers([*records, *CONFIRMED]).strongest.recommended is None


def test_an_attack_that_a_defense_names_has_to_be_run_unless_it_does_not_apply():
    naming = judged(TOP)
    naming = replace(naming, info=naming.info.with_values(known_by={"top_k": ["recover"]}))
    records = [naming if r.kind == "audit" and r.task.defense == TOP else r for r in RECORDS]
    assert rows(records)[TOP].criterion("adaptive").detail.endswith("recover was not run")
    (given,) = attacked(TOP, {"recover": 0.5}, repeats=1)
    missing = replace(given, status="not_applicable", arrays={}, metrics={})
    assert rows([*records, missing])[TOP].conclusion == "candidate"


@pytest.mark.parametrize(
    ("adapts", "reason"),
    [(None, "does not record whether it adapts"), (AdaptationRecord(differs=False), "does nothing else")],
)
def test_an_attack_without_proof_that_it_adapts_is_no_adaptive_attacker(adapts, reason):
    others = [r for r in RECORDS if r.kind != "cell" or r.cell.defense != TOP]
    found = rows([*others, *attacked(TOP, LESS, adapts=adapts)])[TOP]
    assert found.conclusion == "no adaptive attacker"
    assert reason in found.failed[0].detail


def test_a_reason_why_there_is_nothing_to_adapt_to_is_proof():
    others = [r for r in RECORDS if r.kind != "cell" or r.cell.defense != TOP]
    clear = AdaptationRecord(differs=False, reason="nothing is to be inverted")
    assert rows([*others, *attacked(TOP, LESS, adapts=clear)])[TOP].conclusion == "candidate"


def test_a_defense_is_not_confirmed_by_what_is_carried_over_to_it_alone():
    """``label_only`` was repeated, this one was not: the attacks that get most of it are not among those."""
    kept = [
        judged(NOISE, keeps_label=True) if r.kind == "audit" and r.task.defense == NOISE else r
        for r in RECORDS
    ]
    found = rows([*kept, *CONFIRMED])
    assert found[LABEL_ONLY].reduction.fresh
    assert not found[NOISE].reduction.fresh
    assert found[NOISE].reduction.interval.value == pytest.approx(rows(kept)[NOISE].reduction.interval.value)
    again = attacked(NOISE, LESS, confirmation=True, repeats=6)
    assert rows([*kept, *CONFIRMED, *again])[NOISE].reduction.fresh
    assert not rows([*kept, *CONFIRMED, *(r for r in again if r.cell.attack != AUTO)])[NOISE].reduction.fresh


def test_a_defense_is_not_confirmed_without_fresh_repeats_of_what_is_carried_over_to_it():
    kept = [
        judged(TOP, keeps_label=True) if r.kind == "audit" and r.task.defense == TOP else r for r in RECORDS
    ]
    assert rows([*kept, *CONFIRMED])[TOP].reduction.fresh
    lacking = [r for r in CONFIRMED if r.cell.defense != LABEL_ONLY or r.cell.attack != AUTO]
    assert not rows([*kept, *lacking])[TOP].reduction.fresh


def test_whether_it_holds_at_the_largest_budget_is_not_said_of_fewer_attacks():
    alone = [*attacked(NONE, {SOFT: 0.9}, budget=400), *attacked(TOP, {SOFT: 0.5}, budget=400)]
    others = attacked(LABEL_ONLY, {AUTO: 0.6}, budget=400)
    few = answers([*RECORDS, *CONFIRMED, *alone, *others]).strongest
    assert few.recommended.defense == TOP
    assert few.recommended.largest is None
    assert few.holds_at_largest is None
    every = [*attacked(NONE, ALL, budget=400), *attacked(TOP, LESS, budget=400)]
    assert answers([*RECORDS, *CONFIRMED, *every]).strongest.holds_at_largest is True


def test_results_on_labels_carried_over_count_as_having_met_that_attack():
    kept = judged(TOP, keeps_label=True)
    records = [kept if r.kind == "audit" and r.task.defense == TOP else r for r in without(SOFT, AUTO)]
    assert rows(records)[TOP].conclusion == "candidate"
    assert rows(without(SOFT, AUTO))[TOP].conclusion == "no adaptive attacker"


def test_a_failed_cell_makes_figures_invalid_and_says_so():
    records = list(RECORDS)
    broken = next(i for i, r in enumerate(records) if r.kind == "cell" and r.cell.defense == TOP)
    records[broken] = failed(records[broken], "ValueError: no")
    found = rows(records)[TOP]
    assert found.conclusion == "invalid"
    assert found.criterion("valid").detail == "1 cell failed"
    fresh = [failed(r, "no") if r.cell.defense == TOP and r.repeat < 2 else r for r in CONFIRMED]
    found = rows([*RECORDS, *fresh])[TOP]
    assert found.criterion("valid").detail == "6 cells of the confirmation run failed"


@pytest.mark.parametrize(
    ("flag", "words"),
    [("nothing_learnt", "learnt nothing"), ("overlap", "overlap the victim's training data")],
)
def test_a_mark_on_the_best_attack_makes_figures_invalid(flag, words):
    records = [
        replace(r, info=r.info.with_values(flags=[flag]))
        if r.kind == "cell" and r.cell.defense == TOP and r.cell.attack == AUTO
        else r
        for r in RECORDS
    ]
    found = rows(records)[TOP]
    assert found.conclusion == "invalid"
    assert words in found.criterion("valid").detail


def test_a_weak_victim_makes_figures_invalid():
    records = [
        replace(r, metrics=r.metrics | {"honest.accuracy_undefended": 0.9}) if r.kind == "audit" else r
        for r in RECORDS
    ]
    found = rows(records)
    assert found[TOP].conclusion == "invalid"
    assert found[TOP].criterion("valid").detail == "the victim's accuracy is 90.0 %, 95.0 % is expected"


def test_without_a_defense_evaluation_nothing_is_shown():
    records = [r for r in RECORDS if r.kind == "cell" or r.task.defense != TOP]
    assert rows(records)[TOP].conclusion == "no adaptive attacker"
    assert rows(records)[TOP].criterion("accuracy").detail == "no defense evaluation was run"


def test_metrics_that_an_older_store_lacks_are_not_shown():
    old = [judged(TOP, balanced_accuracy_lost=None, brier_added=None, aurc_added=None, changed=None)]
    records = [r for r in RECORDS if r.kind == "cell" or r.task.defense != TOP]
    found = rows([*records, *old])[TOP]
    assert found.conclusion == "not shown"
    assert all("run again" in each.detail for each in found.failed)


def test_an_attacker_without_users_data_and_one_that_does_not_adapt_have_answers_of_their_own():
    far = attacked(NONE, ALL, threat=NEAR) + attacked(TOP, LESS, threat=NEAR)
    found = answers([*RECORDS, *far, *CONFIRMED])
    assert found.strongest.threat.access == "in-distribution"
    assert found.without_data.threat.access == "near"
    assert found.non_adaptive.threat.knowledge == "none"
    assert not found.without_data.confirmed
    by_defense = {row.defense: row for row in found.non_adaptive.rows}
    # Whether it met adaptive attackers is not asked there.
    assert by_defense[NOISE].conclusion == "candidate"
    assert answers().without_data is None


def test_without_knowledge_of_the_defense_anywhere_nothing_met_an_adaptive_attacker():
    records = [r for r in RECORDS if r.kind != "cell" or r.cell.attack != AUTO]
    found = answers(records)
    assert found.non_adaptive is None
    assert found.strongest.threat.knowledge == "none"
    assert {row.conclusion for row in found.strongest.rows} <= {
        "undefended",
        "no adaptive attacker",
        "not usable",
    }


def test_of_several_surrogates_the_one_that_reaches_most_is_asked_about():
    weaker = INSIDE | {"surrogate": "logistic"}
    low = {name: share - 0.3 for name, share in ALL.items()}
    records = attacked(NONE, low, threat=weaker) + attacked(TOP, low, threat=weaker)
    assert answers([*records, *RECORDS]).strongest.threat.surrogate == "mlp"


def test_without_the_reference_budget_the_largest_counts():
    def moved(record):
        if record.kind != "cell":
            return record
        return replace(record, task=replace(record.task, budget=300))

    assert answers([moved(record) for record in RECORDS]).strongest.budget == 300


def test_it_says_whether_the_reduction_holds_at_the_largest_budget():
    large = attacked(NONE, ALL, budget=800) + attacked(TOP, ALL, budget=800)
    found = answers([*RECORDS, *CONFIRMED, *large]).strongest
    assert found.recommended.largest.interval.value == pytest.approx(0, abs=0.05)
    assert found.holds_at_largest is False
    assert answers([*RECORDS, *CONFIRMED]).strongest.holds_at_largest is None


def test_a_victim_without_cells_has_no_recommendation():
    assert recommendations(Findings.of_run([judged(NONE), judged(TOP)], META), LIMITS) == []
    assert selected(Findings.of_run([], META), LIMITS) == []


def imbalanced(records):
    """The same run on a victim that answers one label on nine test inputs in ten."""
    labels = (np.arange(INPUTS) % 10 == 0).astype(np.uint8)
    found = []
    for record in records:
        if record.kind == "audit":
            found.append(replace(record, arrays={"victim_label": labels}))
        else:
            info = record.info.with_values(confusion=[[0, 0], [0, 0]])
            value = float(np.mean([record.arrays["agreement"][labels == k].mean() for k in (0, 1)]))
            metrics = record.metrics | {"extraction.balanced_fidelity": value}
            found.append(replace(record, info=info, metrics=metrics))
    return found


def test_the_fidelity_of_an_imbalanced_victim_is_balanced_throughout():
    records = imbalanced([*RECORDS, *CONFIRMED])
    findings = Findings.of_run(records, META)
    (victim,) = {threat.victim for threat in findings.threats}
    assert findings.is_balanced(victim)
    assert not Findings.of_run(RECORDS, META).is_balanced(victim)
    found = answers(records).strongest
    cells = [r for r in records if r.kind == "cell" and r.cell.confirmation and r.cell.defense == NONE]
    chosen = AUTO if found.undefended_attack == "auto" else SOFT
    balanced = [r.metrics["extraction.balanced_fidelity"] for r in cells if r.cell.attack == chosen]
    assert found.undefended.value == pytest.approx(np.mean(balanced))
    row = found.rows[1]
    assert row.reduction.undefended - row.reduction.defended == pytest.approx(row.reduction.interval.value)


def test_near_chance_is_tested_on_the_mean_over_repeats_of_balanced_fidelity():
    def constant(values):
        cells = attacked(NONE, {SOFT: 0.9})
        made = [
            replace(
                each,
                metrics=each.metrics | {"extraction.balanced_fidelity": value},
                info=each.info.with_values(confusion=[[0, 0], [0, 0]], flags=["near_chance"]),
            )
            for each, value in zip(cells, values, strict=True)
        ]
        (results,) = Findings.of_run(made, META).attack_results.values()
        (result,) = results.values()
        return result

    # Two classes: below .55. One repeat below it is no reason to leave the attack out.
    assert constant([0.54, 0.58, 0.58, 0.58, 0.58]).ranked
    assert constant([0.54, 0.58, 0.58, 0.58, 0.58]).flags["near_chance"] == 0
    low = constant([0.54, 0.54, 0.54, 0.54, 0.58])
    assert not low.ranked
    assert low.flags["near_chance"] == REPEATS


@pytest.mark.parametrize("learnt", [False, True])
def test_a_constant_answer_is_near_chance_where_balanced_fidelity_leaves_out_rare_labels(learnt):
    labels = np.repeat(np.arange(6), [800, 160, 12, 10, 10, 8]).astype(np.uint8)
    agreement = labels == 0
    if learnt:
        agreement[800:840] = True  # a quarter of the second label
    balanced = float((agreement * fidelity_weights(labels)).mean())
    made = [
        replace(
            each,
            arrays=each.arrays | {"agreement": agreement.astype(np.uint8)},
            metrics=each.metrics | {"extraction.balanced_fidelity": balanced},
            info=each.info.with_values(confusion=np.zeros((6, 6), dtype=int).tolist()),
        )
        for each in attacked(NONE, {SOFT: 0.9})
    ]
    evaluated = replace(judged(NONE), arrays={"victim_label": labels})
    (results,) = Findings.of_run([evaluated, *made], META).attack_results.values()
    (result,) = results.values()
    # Two labels count, with .5 by chance: near it is below .55, not below .25, as six labels would have it.
    assert balanced == pytest.approx(0.625 if learnt else 0.5)
    assert result.ranked is learnt
    assert result.flags["near_chance"] == (0 if learnt else REPEATS)
