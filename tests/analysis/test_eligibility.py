import math

import pytest
from records import evaluation

from bench.analysis.eligibility import (
    NOT_MEASURED,
    REQUIRED,
    WAYS,
    criterion,
    failed_criteria,
    inputs_without_change,
    needed_inputs,
    utility_criteria,
    ways_to_sell,
)
from bench.analysis.verdicts import Criterion
from bench.metrics.intervals import Interval, paired_difference, share_interval
from bench.records import PredicateRecord
from bench.run_facts import ReportOptions

OPTIONS = ReportOptions()
CHECKED = {
    name: PredicateRecord(worst=0.0, broken=0, answers=1000)
    for name in ("the victim's top-1", "one entry has the maximum", "no query rejected")
}
MEASURED = {
    "honest.accuracy_lost": [0.002, -0.002, 0.006],
    "honest.balanced_accuracy_lost": [0.002, -0.002, 0.006],
    "honest.refused": [0.002, 0.0, 0.006],
    "honest.aurc_added": [0.001, 0.0, 0.002],
    "honest.brier_added": [0.001, 0.0, 0.002],
    "honest.changed": [0.001, 0.0, 0.002],
}


def measured(defense=("top_k(k=3)",), *, predicates=(), kept=0.99, claims=(), **values):
    """A defense evaluation that measures little loss; ``values``: other [value, low, high], None: missing."""
    record = evaluation(defense, kept=kept, **dict(claims))
    given = MEASURED | {f"honest.{name}": each for name, each in values.items()}
    given = {name: each for name, each in given.items() if each is not None}
    metrics = {"honest.top1_kept": kept} | {name: each[0] for name, each in given.items()}
    info = record.info.with_values(
        intervals={name: each[1:] for name, each in given.items()},
        predicates={name: each.values() for name, each in dict(predicates).items()},
    )
    return type(record)(record.key, record.task, "ok", metrics, {}, info, record.costs)


def judged(record, inputs=2000, options=OPTIONS):
    return {each.name: each for each in utility_criteria(record, options, inputs)}


def complete(criteria):
    """The ways to sell with a defense that met adaptive attackers and has valid figures."""
    met = [Criterion("adaptive", "affordable"), Criterion("valid", "affordable")]
    return ways_to_sell([*criteria.values(), *met])


def test_a_loss_is_affordable_up_to_the_limit_too_dear_above_and_else_not_shown():
    assert criterion("accuracy", Interval(0.004, -0.002, 0.01), 0.01).verdict == "affordable"
    assert criterion("accuracy", Interval(0.03, 0.0101, 0.05), 0.01).verdict == "too dear"
    assert criterion("accuracy", Interval(0.004, -0.002, 0.0101), 0.01).verdict == "not shown"
    assert criterion("accuracy", Interval(0.02, 0.01, 0.03), 0.01).verdict == "not shown"


def test_368_inputs_show_one_percentage_point_where_nothing_changes_and_367_do_not():
    assert inputs_without_change(0.01) == 368
    for inputs, shown in ((367, False), (368, True)):
        loss = paired_difference([[1] * inputs], [[1] * inputs])
        found = criterion("accuracy", loss, 0.01, inputs)
        assert (found.verdict == "affordable") is shown
        assert found.needed == (None if shown else 368)
        rejected = criterion("rejected", share_interval(0, inputs), 0.01, inputs)
        assert (rejected.verdict == "affordable") is shown


def test_the_number_of_inputs_that_decides_follows_from_the_width_of_the_interval():
    # To halve the upper half of the interval takes four times the inputs.
    assert needed_inputs(Interval(0.005, -0.005, 0.015), 0.01, 500) == 2000
    assert needed_inputs(Interval(0.015, 0.005, 0.025), 0.01, 500) == 2000
    assert needed_inputs(Interval(0.01, 0.0, 0.02), 0.01, 500) is None
    # However narrow, a share needs what no change at all needs; a difference of scores does not.
    assert needed_inputs(Interval(0.0, -0.02, 0.0101), 0.01, 100) == 368
    assert needed_inputs(Interval(0.0, -0.02, 0.0101), 0.01, 100, share=False) == 103


def test_the_number_of_inputs_that_is_named_decides_where_the_estimate_stays():
    limit = 0.01
    first = criterion("changed", share_interval(3, 500), limit, 500)
    assert first.verdict == "not shown"
    more = first.needed
    # Clopper and Pearson's interval is not symmetric, so a little more or less than named may be needed.
    assert share_interval(round(0.006 * more * 0.5), round(more * 0.5)).high > limit
    assert share_interval(round(0.006 * more * 1.3), round(more * 1.3)).high <= limit


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_extreme_limits_have_verdicts(limit):
    assert criterion("rejected", share_interval(1, 50), limit, 50).verdict in (
        "affordable",
        "not shown",
        "too dear",
    )
    assert inputs_without_change(limit) in (0, 1)


@pytest.mark.parametrize(
    ("name", "metric", "dear"),
    [
        ("accuracy", "accuracy_lost", [0.8, 0.78, 0.82]),
        ("balanced accuracy", "balanced_accuracy_lost", [0.05, 0.02, 0.08]),
        ("rejected", "refused", [0.045, 0.03, 0.06]),
        ("ranking", "aurc_added", [0.05, 0.02, 0.08]),
        ("brier", "brier_added", [0.05, 0.03, 0.08]),
        ("changed", "changed", [0.05, 0.03, 0.08]),
    ],
)
def test_each_loss_alone_makes_a_defense_ineligible_for_what_needs_it(name, metric, dear):
    criteria = judged(measured(**{metric: dear}))
    assert criteria[name].verdict == "too dear"
    assert criteria[name].loss.value == dear[0]
    assert [each for each, one in criteria.items() if one.verdict != "affordable"] == [name]
    assert complete(criteria) == tuple(way for way in WAYS if name not in REQUIRED[way])


def test_with_little_loss_it_is_eligible_for_everything():
    assert complete(judged(measured())) == WAYS


@pytest.mark.parametrize("metric", ["balanced_accuracy_lost", "aurc_added", "brier_added", "changed"])
def test_a_metric_that_an_older_store_lacks_is_not_shown_and_says_to_run_again(metric):
    criteria = judged(measured(**{metric: None}))
    missing = [each for each in criteria.values() if each.verdict != "affordable"]
    assert [each.verdict for each in missing] == ["not shown"]
    assert missing[0].detail == NOT_MEASURED
    assert missing[0].needed is None


def test_a_metric_without_an_interval_is_not_shown():
    criteria = judged(measured(brier_added=[0.001, math.nan, math.nan]))
    assert criteria["brier"].verdict == "not shown"


def test_a_stack_that_keeps_every_label_and_was_checked_loses_nothing_however_few_inputs():
    few = [0.0, -0.04, 0.04]
    record = measured(predicates=CHECKED, kept=1.0, accuracy_lost=few, refused=[0, 0, 0.04])
    criteria = judged(record, inputs=90)
    assert criteria["accuracy"].loss == Interval(0.0, 0.0, 0.0)
    assert criteria["balanced accuracy"].verdict == criteria["rejected"].verdict == "affordable"


@pytest.mark.parametrize(
    "changed",
    [
        {"predicates": {}},
        {"predicates": {**CHECKED, "the victim's top-1": PredicateRecord(worst=1.0, broken=1, answers=9)}},
        {"kept": 0.999},
        {"claims": {"keeps_label": False}},
        {"claims": {"ties": True}},
        {"claims": {"may_refuse": True}},
    ],
    ids=["not checked", "broken", "seen to change", "not claimed", "ties", "may reject"],
)
def test_without_claim_or_check_the_measured_loss_counts(changed):
    few = [0.0, -0.04, 0.04]
    arguments = {"predicates": CHECKED, "kept": 1.0, "accuracy_lost": few} | changed
    assert judged(measured(**arguments), inputs=90)["accuracy"].verdict == "not shown"


def test_answers_without_confidence_are_eligible_where_labels_are_sold_alone():
    criteria = judged(measured(("label_only",), claims={"one_hot": True}))
    assert criteria["confidence"].verdict == "too dear"
    assert "brier" not in criteria
    assert complete(criteria) == ("labels",)


def test_an_older_record_of_label_only_has_no_confidence_either():
    assert complete(judged(measured(("label_only",)))) == ("labels",)


def test_with_two_classes_the_ranking_is_judged_by_auroc():
    criteria = judged(measured(auroc_lost=[0.2, 0.1, 0.3]))
    assert criteria["ranking"].loss.value == 0.2
    assert criteria["ranking"].verdict == "too dear"


def test_limits_are_options():
    strict = ReportOptions(accuracy=0.005, brier=0.001)
    failed = failed_criteria(tuple(judged(measured(), options=strict).values()), "probabilities")
    assert {each.name for each in failed} == {"accuracy", "balanced accuracy", "brier"}
