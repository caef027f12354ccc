"""Published claims joined with records that nobody measured; every verdict, values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_claims import ADAPTIVE, META, PLAIN, POISON, RECORDS, cells, claim, published, rows, vars_of, where
from records import evaluation

from bench.analysis.claim_rule import differences, prediction_interval, verdict
from bench.analysis.claim_table import ClaimRun, claim_table
from bench.analysis.confirmed_reduction import reduction
from bench.analysis.published_claims import PublishedClaims, published_claims
from bench.analysis.rule_inputs import RuleInputs, tables
from bench.errors import UsageError
from bench.metrics.intervals import Interval
from bench.plugins import defenses


def test_where_a_further_value_lies():
    # Mean 2, standard deviation 1, Student's t for 2 degrees of freedom 4.3027, root of 1 + 1/3.
    found = prediction_interval([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.302653 * math.sqrt(4 / 3), rel=1e-6)
    of_four = prediction_interval([1.0, 2.0, 3.0], others=4, extra=0.5)
    assert 2 - of_four.low == pytest.approx(4.302653 * math.sqrt(1 / 4 + 1 / 3) + 0.5, rel=1e-6)
    assert math.isnan(prediction_interval([1.0]).low)


def test_the_prediction_interval_holds_a_further_value_in_95_of_100_runs():
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(4000, 6))
    inside = [(i := prediction_interval(row[:5])).low <= row[5] <= i.high for row in drawn]
    assert 0.94 < np.mean(inside) < 0.96


def test_a_loss_within_the_prediction_interval_is_reproduced():
    (row, *_) = rows(claim())
    assert row.verdict == "reproduced"
    # Both sides have one right input more in odd repeats, so every repeat loses exactly .10.
    assert row.same_recipe.loss.value == pytest.approx(0.10)
    assert (row.same_recipe.predicted.low, row.same_recipe.predicted.high) == pytest.approx((0.09, 0.11))
    assert row.same_recipe.repeats == 5
    assert row.setting.accuracy == 0.96
    assert (row.utility.l1_mean, row.utility.l1_max) == (0.2, 0.8)


@pytest.mark.parametrize(("defended", "found"), [(79.1, "reproduced"), (78.9, "not reproduced")])
def test_one_percentage_point_is_left_for_another_victim(defended, found):
    assert rows(claim(defended=defended))[0].verdict == found


def test_a_loss_outside_is_not_reproduced_and_the_measured_level_is_the_cause():
    row = rows(claim(undefended=90.0, defended=60.0))[0]
    assert row.verdict == "not reproduced"
    assert "outside the prediction interval here, 9.0 to 11.0 pp" in row.reason
    assert "without the defense the surrogate reaches 90.1 % (88.7 to 91.5 in a further run)" in row.reason
    assert (
        "with it the surrogate reaches 80.1 % (78.7 to 81.5 in a further run), published are 60.0 %"
        in row.reason
    )


def test_a_control_that_gives_the_published_loss_is_the_cause():
    longer = "rule(epochs=9)"
    records = [
        *RECORDS,
        *cells(PLAIN, (), 0.90, training=longer),
        *cells(PLAIN, POISON, 0.60, training=longer),
    ]
    control = [{"label": "after nine epochs", "where": where(training=longer)}]
    row = rows(claim(defended=60.0, control=control), records=records)[0]
    assert row.verdict == "not reproduced"
    assert row.reason.endswith("after nine epochs, the loss is 30.0 pp, which agrees")
    assert "which agrees" not in rows(claim(defended=50.0, control=control), records=records)[0].reason


def test_a_control_on_another_pool_explains_nothing():
    # The recipe was run on the first pool, the control on the second alone: two things differ.
    longer, pools = "rule(epochs=9)", ["in-distribution", "noise"]
    other = [
        *cells(PLAIN, (), 0.90, training=longer, pool="noise"),
        *cells(PLAIN, POISON, 0.60, training=longer, pool="noise"),
    ]
    control = [{"label": "after nine epochs", "where": where(training=longer, pool=pools)}]
    made = claim(defended=60.0, control=control, where=where(pool=pools))
    assert "which agrees" not in rows(made, records=[*RECORDS, *other])[0].reason
    # On the same pool it does, also where the other one is there too.
    same = [
        *cells(PLAIN, (), 0.90, training=longer),
        *cells(PLAIN, POISON, 0.60, training=longer),
    ]
    assert rows(made, records=[*RECORDS, *other, *same])[0].reason.endswith("30.0 pp, which agrees")
    # A control whose pool is what was changed keeps it.
    control = [{"label": "with noise", "where": where(training=longer, pool="noise")}]
    made = claim(defended=60.0, control=control, where=where(pool=pools))
    assert rows(made, records=[*RECORDS, *other])[0].reason.endswith("30.0 pp, which agrees")


def test_the_recipe_is_that_of_an_attacker_with_the_claims_knowledge():
    told = [*cells(PLAIN, (), 0.90, knowledge="full"), *cells(PLAIN, POISON, 0.85, knowledge="full")]
    row = rows(claim(), records=[*RECORDS, *told])[0]
    assert row.same_recipe.loss.value == pytest.approx(0.10)
    row = rows(claim(knowledge="full"), records=[*RECORDS, *told])[0]
    assert row.same_recipe.loss.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pool": "emnist-letters"}, "pool in-distribution instead of emnist-letters"),
        ({"victim": "lenet"}, "victim mlp instead of lenet"),
        ({"surrogate": "lenet"}, "surrogate mlp instead of lenet"),
        ({"budget": 50_000}, "budget 200 instead of 50,000"),
        ({"data": "mnist"}, "data set digits instead of mnist"),
        ({"victim_accuracy": 97.1}, "victim's accuracy 96.0 % instead of 97.1 %"),
        ({"victim_accuracy": None, "pool": ""}, "pool and victim's accuracy not stated in what was read"),
        ({"attack": ""}, "attack not stated in what was read"),
        (
            {"at_most": True, "undefended": None, "defended": None, "loss": 10.0},
            "the largest of several results",
        ),
    ],
)
def test_another_recipe_is_not_comparable_even_where_the_loss_agrees(fields, reason):
    row = rows(claim(**fields))[0]
    assert row.verdict == "not comparable"
    assert reason in row.reason
    assert "The published loss is inside the prediction interval here" in row.reason


def test_accuracies_within_one_percentage_point_are_compared():
    assert rows(claim(victim_accuracy=97.0))[0].verdict == "reproduced"


def test_what_is_not_measured_has_no_verdict():
    nothing = rows(claim(), records=[evaluation(())])[0]
    assert (nothing.verdict, nothing.reason) == ("not run", "its cells were not run")
    assert nothing.same_recipe is None
    half = [record for record in RECORDS if record.kind == "audit" or record.spec["defense"]]
    assert rows(claim(), records=half)[0].verdict == "not run"
    once = [*cells(PLAIN, (), 0.9, repeats=1), *cells(PLAIN, POISON, 0.8, repeats=1)]
    assert rows(claim(), records=once)[0].verdict == "not run"


def test_a_claim_whose_number_nobody_read_has_none():
    unread = {"undefended": None, "defended": None, "victim_accuracy": None, "read": "not read"}
    assert rows(claim(**unread))[0].verdict == "no number"
    assert [row.claim for row in rows(claim(**unread, where=None))] == [""]
    without_recipe = claim(loss=40.0, undefended=None, defended=None, where=None, pool="", victim="")
    row = rows(without_recipe)[0]
    assert (row.verdict, row.reason) == ("not comparable", "victim and pool not stated in what was read")


def test_the_best_attacks_are_those_that_met_both_and_adaptation_is_an_interaction():
    # An attack that met the defense alone, and would be the best against it.
    stray = cells("labels", POISON, 0.99)
    row = rows(claim(), records=[*RECORDS, *stray])[0]
    best = row.competent
    assert (best.attacks, best.repeats) == (2, 5)
    assert best.undefended - best.defended == pytest.approx(best.loss.value) == pytest.approx(0.03)
    assert best.attack == best.undefended_attack == "auto"
    # Defended 88 - 80, undefended 91 - 90: knowledge adds 7 points.
    assert row.adaptation.adds.value == pytest.approx(0.07)
    assert row.adaptation.adds.low < 0.07 < row.adaptation.adds.high
    assert row.adaptation.adaptive == "auto"


def test_the_interval_of_the_best_attack_is_that_of_a_reports_summary():
    # Of two attacks that reach as much, one varies between repeats: its lower limit counts.
    varied = [
        each
        for repeat, share in enumerate((0.70, 0.95, 0.70, 0.95, 0.80))
        for each in cells("labels", POISON, share, repeats=repeat + 1)[repeat:]
    ]
    records = [*RECORDS, *varied, *cells("labels", (), 0.90)]
    loss = rows(claim(), records=records)[0].competent.loss
    assert (loss.value, loss.high) == pytest.approx((0.03, rows(claim())[0].competent.loss.high))
    run = ClaimRun("made", records, META)
    threat = next(each for each, _ in run.threats if each.knowledge == "full")
    inputs = RuleInputs(run.findings, threat, 200, META.report, adaptive=True)
    summary = reduction(inputs.undefended, tables(run.findings, threat, POISON, 200)).interval
    assert (loss.low, loss.value, loss.high) == pytest.approx((summary.low, summary.value, summary.high))
    assert loss.low < rows(claim())[0].competent.loss.low - 0.05


def test_of_attacks_that_are_equal_with_the_defense_the_better_one_without_it_counts():
    # Behind labels alone both learn the same; the first by name is 10 points worse without the defense.
    records = [
        *cells("copycat(use_probability=false)", (), 0.80),
        *cells("copycat(use_probability=false)", POISON, 0.70),
        *cells(PLAIN, (), 0.90),
        *cells(PLAIN, POISON, 0.70),
        *cells(ADAPTIVE, (), 0.90, knowledge="full"),
        *cells(ADAPTIVE, POISON, 0.72, knowledge="full"),
    ]
    found = rows(records=records)[0].adaptation
    assert found.non_adaptive.startswith("copycat on probabilities")
    assert found.adds.value == pytest.approx(0.02)


def test_a_claim_has_a_row_for_each_place_whatever_the_order_of_runs():
    other = [moved(record, data="usps") for record in RECORDS]
    anywhere = claim(where=where(data=["usps", "digits"]))
    runs = [ClaimRun("a", RECORDS, META), ClaimRun("b", other, META), ClaimRun("c", RECORDS, META)]
    tables = [claim_table(published(anywhere), order) for order in (runs, runs[::-1])]
    found = [row for row in tables[0].rows if row.claim]
    assert [(row.setting.run, row.verdict) for row in found] == [
        ("b", "not comparable"),  # the first data set that it names
        ("a", "reproduced"),
        ("c", "reproduced"),
    ]
    assert found[0].reason.startswith("data set usps instead of digits")
    assert tables[0] == tables[1]


def moved(record, data):
    task = replace(record.task, victim=replace(record.task.victim, data=data))
    return type(record)(**{**vars_of(record), "task": task, "key": f"{record.key} {data}"})


def test_what_had_to_be_chosen_is_not_comparable():
    row = rows(claim(guessed=["the L1 limit", "the seeds"]))[0]
    assert row.verdict == "not comparable"
    assert row.reason.startswith("the L1 limit and the seeds not stated in what was read and chosen here")
    assert "without the defense the surrogate reaches 90.1 % (" in row.reason


def test_a_trainer_that_is_better_anyway_adds_nothing():
    records = [
        *cells(PLAIN, (), 0.80),
        *cells(PLAIN, POISON, 0.70),
        *cells(ADAPTIVE, (), 0.90, knowledge="full"),
        *cells(ADAPTIVE, POISON, 0.80, knowledge="full"),
    ]
    assert rows(claim(), records=records)[0].adaptation.adds.value == pytest.approx(0)


def test_a_defense_of_ours_has_measured_values_alone():
    ours = {"name": "rounded", "default": POISON[0]}
    none = PublishedClaims.model_validate({"version": 1, "defense": [ours]})
    table = claim_table(none, [ClaimRun("made", RECORDS, META)])
    (row,) = table.rows
    assert (row.claim, row.verdict, row.same_recipe) == ("", "no claim", None)
    assert row.competent.loss.value == pytest.approx(0.03)
    assert [source.run for source in table.sources] == ["made"]
    assert table.sources[0].commit == "a" * 40


def test_the_strongest_affordable_strength_is_the_one_with_the_largest_l1():
    weak, strong, dear = ("rounded(decimals=3)",), ("rounded(decimals=2)",), ("rounded(decimals=1)",)
    records = [*cells(PLAIN, (), 0.9), evaluation(())]
    for defense, l1, lost in ((weak, 0.1, -0.05), (strong, 0.3, -0.05), (dear, 0.6, 0.2)):
        records += [*cells(PLAIN, defense, 0.8), evaluation(defense, l1=l1, lost=lost, keeps_label=False)]
        name = "honest.balanced_accuracy_lost"
        records[-1].metrics[name] = lost
        records[-1].info.intervals[name] = [lost - 0.01, lost + 0.01]
        records[-1].info.intervals["honest.accuracy_lost"] = [lost - 0.01, lost + 0.01]
    found = {row.defense: row.strength for row in rows(records=records, default=weak[0])}
    assert found == {weak[0]: "default", strong[0]: "affordable"}
    alone = [record for record in records if record.spec["defense"] in ([], list(dear))]
    (row,) = rows(records=alone, default=dear[0])
    assert row.strength == "default, none affordable"
    both = {row.defense: row.strength for row in rows(records=records, default=strong[0])}
    assert both == {strong[0]: "default, affordable"}


def test_users_can_afford_a_strength_whatever_the_attacker_knows():
    # The affordable strength met one pool alone; the other pool has the default.
    weak, dear = ("rounded(decimals=3)",), ("rounded(decimals=1)",)
    records = [
        evaluation(()),
        evaluation(weak, l1=0.1),
        evaluation(dear, l1=0.6, lost=0.2, keeps_label=False),
    ]
    for each in records[1:]:
        lost = each.metrics["honest.accuracy_lost"]
        each.metrics["honest.balanced_accuracy_lost"] = lost
        for name in ("honest.accuracy_lost", "honest.balanced_accuracy_lost"):
            each.info.intervals[name] = [lost - 0.01, lost + 0.009]
    for pool in ("in-distribution", "noise"):
        records += [*cells(PLAIN, (), 0.9, pool=pool), *cells(PLAIN, dear, 0.8, pool=pool)]
    records += cells(PLAIN, weak, 0.85)
    found = {
        (row.setting.pool, row.defense): (row.strength, row.affordable_elsewhere)
        for row in rows(records=records, default=dear[0])
    }
    assert found == {
        ("in-distribution", weak[0]): ("affordable", ""),
        ("in-distribution", dear[0]): ("default", ""),
        ("noise", dear[0]): ("default", weak[0]),
    }


def test_a_replication_has_rows_for_claims_alone():
    study = META.with_values(study={"title": "made"})
    assert [row.claim for row in rows(claim(), meta=study)] == ["made"]


def test_cells_of_a_confirmation_run_are_left_out_of_the_recipe():
    again = [
        type(record)(
            **{
                **vars_of(record),
                "key": f"again {record.key}",
                "task": type(record.task)(**{**vars(record.task), "confirmation": True}),
            }
        )
        for record in cells(PLAIN, POISON, 0.1)
    ]
    assert rows(claim(), records=[*RECORDS, *again])[0].verdict == "reproduced"


def test_a_where_that_selects_several_groups_is_an_error():
    records = [*RECORDS, *cells("copycat(use_probability=false)", POISON, 0.8)]
    with pytest.raises(UsageError, match="selects 2 groups"):
        rows(claim(where=where(attack="copycat")), records=records)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"read": "not read"}, "was not read may not be quoted"),
        ({"loss": 3.0}, "not both"),
        ({"defended": None}, "give undefended and defended"),
        ({"where": {"data": "digits"}}, "where has to name victim"),
        ({"where": None, "without": where()}, "without needs where"),
        ({"read": "from memory"}, "read"),
    ],
)
def test_a_claim_says_where_its_numbers_come_from(fields, message):
    with pytest.raises(ValueError, match=message):
        published(claim(**fields))


def test_claims_have_a_paper_and_names_of_their_own():
    with pytest.raises(ValueError, match="needs a paper"):
        published(claim(), paper="")
    with pytest.raises(ValueError, match="made is there twice"):
        published(claim(), claim())


def test_every_shipped_defense_is_in_the_table():
    listed = published_claims().defense
    assert set(defenses.names()) - {"none"} <= {each.name for each in listed}
    for each in listed:
        assert each.default.partition("(")[0] == each.name


def test_shipped_claims_name_plugins_and_parameters_that_exist():
    for defense, each in published_claims().claims():
        if defense.name in defenses.names():
            wheres = [each.where, each.without, *(control.where for control in each.control)]
            for text in [defense.default, *(w.defense for w in wheres if w is not None)]:
                assert defenses.canonical(text)


def test_what_differs_is_said_in_one_clause_each():
    theirs = {"data set": "mnist", "pool": "", "budget": None, "victim's accuracy": 0.99}
    ours = {"data set": "mnist", "pool": "usps", "budget": 5, "victim's accuracy": None}
    assert differences(theirs, ours) == [
        "victim's accuracy unknown instead of 99.0 %",
        "pool and budget not stated in what was read",
    ]
    assert verdict(0.1, Interval(0.1, 0.0, 0.2), []) == (
        "reproduced",
        "the published loss is inside the prediction interval here, 0.0 to 20.0 pp",
    )
