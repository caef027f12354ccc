import math
import re
from dataclasses import replace

import numpy as np
import pytest
from made_study import INPUTS, MATRIX, STUDY, load, made, study_of

from bench.analysis.claim_rule import prediction_interval
from bench.analysis.study_results import evaluate
from bench.analysis.study_units import difference, number, published
from bench.cli.session import Session
from bench.errors import UsageError
from bench.metrics import intervals
from bench.plan.matrix import Matrix
from bench.plan.study import PublishedValue, Study, Where, axis_values, matching_calls
from bench.plan.study_validation import validated
from bench.records import Info, task_of

BOX = "membership_black_box(members=2000, target=victim, model=lr)"
NORMAL = 1.959964


@pytest.fixture
def run(tmp_path):
    """The bound study with a record of every task."""
    matrix, tasks = load(tmp_path)
    return validated(matrix, tasks), [made(task) for task in tasks]


def rows(study, records, **more):
    return evaluate(study, records, **more)


def test_a_prediction_is_where_a_further_repeat_lies(run):
    study, records = run
    value = rows(study, records)["mse-none"]
    found = prediction_interval([100 * each for each in value.by_repeat.values()], extra=1.0)
    assert value.prediction == f"{found.low:.1f} to {found.high:.1f}"
    assert found.high - found.value > 100 * (value.interval.high - value.interval.value)
    once = replace(value, by_repeat={0: 0.5})
    assert once.prediction == "(too few repeats)"


def changed(records, test, **fields):
    """The records with some fields of those that pass the test changed."""
    return [
        replace(record, **fields) if record.kind == "cell" and test(record.spec) else record
        for record in records
    ]


def mse(spec):
    return "mse" in spec["training"] and spec["splits"] == "official" and not spec["defense"]


# --- the table [study] and how rows find their cells


def test_a_matrix_without_a_study_has_none(tmp_path):
    matrix, tasks = load(tmp_path, MATRIX)
    assert matrix.study is None
    assert validated(matrix, tasks) is None


def test_a_bound_study_spells_attacks_defenses_and_training_out(tmp_path):
    rows = study_of(tmp_path).rows
    assert rows["mse-none"].where.training == "rule(loss=mse-log-softmax, epochs=10)"
    assert rows["honest"].where.defense == ["rounded(decimals=1)", "mahalanobis"]
    text = STUDY.replace('"rounded", "mahalanobis"', '"rounded", "mahalanobis(action=refuse)"')
    spelled = study_of(tmp_path, MATRIX + text).rows["caught"].where.defense
    assert spelled == ["rounded", "mahalanobis(fpr=0.05, action=refuse, layers=all)"]


def test_a_study_survives_the_store(tmp_path):
    import json

    study = study_of(tmp_path)
    assert Study.model_validate(json.loads(json.dumps(study.model_dump()))) == study


def test_a_run_of_a_study_remembers_it_bound(tmp_path):
    load(tmp_path)
    words = {"store": None, "out": None, "repeats": None, "data_root": tmp_path}
    session = Session.of(str(tmp_path / "made.toml"), only=[], victim=None, **words)
    assert session.study.rows["mse-none"].where.training == "rule(loss=mse-log-softmax, epochs=10)"
    # What --only leaves out is no mistake of the study's.
    assert Session.of(str(tmp_path / "made.toml"), only=["pool=usps"], victim=None, **words).study
    with pytest.raises(UsageError, match="leave --victim out"):
        Session.of(str(tmp_path / "made.toml"), only=[], victim="mine.py:factory", **words)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("copycat(use_probability=true)", {"copycat(use_probability=true)"}),
        ("copycat", {"copycat(use_probability=true)", "copycat(use_probability=false)"}),
        ("rule", {"rule"}),
        ("rule(epochs=10)", {"rule(loss=mse-log-softmax, epochs=10)", "rule(epochs=10)"} - {"rule(loss"}),
        ("copycat(use_probability=1.5)", set()),
    ],
)
def test_a_call_means_its_equal_or_all_that_it_leaves_open(wanted, found):
    known = ["copycat(use_probability=true)", "copycat(use_probability=false)", "rule"]
    known += ["rule(loss=mse-log-softmax, epochs=10)", "rule(decay=false)"]
    assert matching_calls(wanted, known) == found & set(known)


def test_the_axes_of_a_record_are_those_of_the_matrix(tmp_path):
    _, tasks = load(tmp_path)
    spec = next(task.spec() for task in tasks if task.kind == "cell" and task.victim.splits == "official")
    found = axis_values(spec)
    assert (found["victim"], found["splits"], found["data"]) == ("lenet", "official", "mnist")
    assert set(Where.model_fields) == set(found)


def wrong(tmp_path, old, new):
    assert old in STUDY
    with pytest.raises(UsageError) as caught:
        study_of(tmp_path, MATRIX + STUDY.replace(old, new))
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('pool = ["emnist-digits", "usps"]', 'pool = "uspss"', r"where.pool = 'uspss'.*'usps'"),
        (
            'pool = ["emnist-digits", "usps"]',
            'pool = ["emnist-digit", "usps"]',
            "where.pool = 'emnist-digit'",
        ),
        ('attack = "membership_black_box", pool = "in', 'pool = "in', "differ in attack"),
        (
            'training = "rule"\nsplits = "disjoint"',
            'splits = "disjoint"',
            r"differ in training \(rule, rule\(",
        ),
        ('training = "rule"\nsplits = "disjoint"', 'training = "rule"', r"splits \(disjoint, official\)"),
        ('training = "rule"\nsplits = "disjoint"', 'training = "rule(lr=1)"', "where.training: .*'lr'"),
        ('training = "rule"\nsplits = "disjoint"', 'training = "rule"\nbudget = 300', "budget = '300'.*3000"),
        (
            'defense = ["none"]',
            'defense = ["rounded"]',
            r"where.defense = 'rounded': .*rounded\(decimals=1\) \+",
        ),
        (
            'attack = "membership_black_box", pool = "in',
            'attack = "membership_box", pool = "in',
            "membership_box",
        ),
        (
            'attack = "membership_black_box", pool = "in',
            'attack = "x(", pool = "in',
            "where.attack: cannot read",
        ),
        ('pool = "in-distribution"', 'pool = "in-distribution", splits = "official"', "official.*disjoint"),
        ('metric = "membership.auc"', 'metric = "extraction.fidelity"', r"membership\.…, seconds\."),
        ('metric = "detection.usps"', 'metric = "detection.noise"', "no detector is measured on that pool"),
        (
            'metric = "detection.usps"',
            'metric = "honest.ood_auroc.noise"',
            "no confidence is known on that pool",
        ),
        ('splits = "official" }\n', 'splits = "official", pool = "usps" }\n', "where.pool = 'usps'"),
        ('id = "soft-none"', 'id = "drop"', "row 'drop': id = 'drop' is taken twice"),
        ('relative_drop = ["mse-none", "mse-labels"]', 'relative_drop = ["mse-none", "x"]', "no row 'x'"),
        (
            'relative_drop = ["mse-none", "mse-labels"]',
            'relative_drop = ["mse-none", "points"]',
            "derived itself",
        ),
        (
            'relative_drop = ["mse-none", "mse-labels"]',
            'relative_drop = ["honest", "f1"]',
            "one of defense evaluations",
        ),
        ('difference = ["mse-none", "mse-labels"]', 'metric = "extraction.f1"', "give metric and where"),
        ('metric = "membership.auc"', 'confusion = true\nmetric = "membership.auc"', "confusion = true"),
        ("{mse-none.interval}", "{mse-non}", "verdict: no row 'mse-non'; did you mean 'mse-none'"),
        ("{mse-none.interval}", "{mse-none.value}", r"write \{mse-none\}, \{mse-none.interval\}, \{"),
        ("{mse-none.interval}", "{honest.prediction}", "is no percentage with a value for each repeat"),
        ("{mse-none.interval}", "{soft-none.published}", "that row has no published number"),
        ('competent = "soft-none"', 'competent = "soft"', "headline.competent: no row 'soft'"),
        ('headline = { published = "mse-none"', 'headline = { published = "points"', "no published number"),
    ],
)
def test_a_wrong_row_is_an_error_that_names_study_key_and_what_is_allowed(tmp_path, old, new, said):
    text = wrong(tmp_path, old, new)
    assert "made.toml: study 'A made study'" in text
    assert re.search(said, text), text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('unit = "s"', 'unit = "m"', "study.table.0.row.6.unit = 'm'"),
        ('id = "drop"', 'id = "a drop"', "study.table.0.row.3.id = 'a drop'"),
        ('label = "training"', 'lable = "training"', "study.table.0.row.6"),
        ("budget = 3000", "budget = 3000\nbudgets = 1", "budgets"),
    ],
)
def test_a_value_that_no_study_can_have_is_rejected_when_the_file_is_read(tmp_path, old, new, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        load(tmp_path, (MATRIX + STUDY).replace(old, new))


def test_a_pool_that_is_optional_and_not_here_is_no_error(tmp_path):
    study = study_of(tmp_path, MATRIX + STUDY.replace('["emnist-digits", "usps"]', '"emnist-digits"'))
    assert study.rows["other"].where.pool == "emnist-digits"
    caught = STUDY.replace("detection.usps", "detection.emnist-digits")
    assert study_of(tmp_path, MATRIX + caught).rows["caught"].metric == "detection.emnist-digits"


# --- what was measured


def test_fidelity_and_accuracy_have_the_intervals_over_repeats_and_inputs(run):
    study, records = run
    values = rows(study, records)
    own = [record for record in records if record.kind == "cell" and mse(record.spec)]
    own = [record for record in own if "true" in record.spec["attack"]]
    assert len(own) == 5
    hits = np.stack([record.arrays["agreement"] for record in own])
    assert values["mse-none"].interval == intervals.mean_interval(hits)
    assert hits.shape == (5, INPUTS)
    disjoint = [
        r for r in records if r.kind == "cell" and r.spec["training"] == "rule" and r.spec["pool"] == "test"
    ]
    disjoint = [r for r in disjoint if r.spec["splits"] == "disjoint" and not r.spec["defense"]]
    correct = [r.arrays["correct"] for r in disjoint if r.spec["attack"] == "copycat(use_probability=true)"]
    assert values["soft-none"].interval == intervals.mean_interval(np.stack(correct))


def test_other_metrics_have_student_intervals_inside_their_bounds(run):
    study, records = run
    expected = intervals.value_interval([0.90 + 0.01 * repeat for repeat in range(5)])
    assert rows(study, records)["f1"].interval == expected
    for record in records:
        if "extraction.f1" in record.metrics:
            record.metrics["extraction.f1"] = 1.0 - 0.3 * (record.spec["repeat"] == 0)
    wide = rows(study, records)["f1"].interval
    assert wide.high == 1.0
    assert 0 < wide.low < wide.value


def test_membership_adds_repeats_and_judged_records_in_squares(run):
    study, records = run
    found = rows(study, records)["other"].interval
    luck = intervals.value_interval([0.7 + 0.004 * step for step in range(-2, 3)])
    half = math.hypot(luck.high - luck.value, NORMAL * 0.011)
    assert found.value == pytest.approx(0.7)
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert found.value - found.low == pytest.approx(half, rel=1e-6)


def test_an_audit_brings_its_own_interval(run):
    study, records = run
    value = rows(study, records)["honest"]
    found = (value.interval.value, value.interval.low, value.interval.high)
    assert found == pytest.approx((0.951, 0.931, 0.961))
    assert value.text == "95.1 % (93.1–96.1)"


def test_seconds_are_a_median_with_extremes_and_leave_shared_trainings_out(run):
    study, records = run
    value = rows(study, records)["seconds"]
    assert (value.interval.value, value.interval.low, value.interval.high) == pytest.approx((4.2, 4.0, 4.4))
    assert value.text == "4.20 s (4.00 to 4.40)"
    some = [replace(r, costs=r.costs.with_values(shared=r.repeat > 2)) for r in records]
    assert rows(study, some)["seconds"].interval.value == pytest.approx(4.1)
    every = [replace(r, costs=r.costs.with_values(shared=True)) for r in records]
    value = rows(study, every)["seconds"]
    assert (value.status, value.reason) == ("not measured", "every training came from the training cache")


def test_a_relative_drop_is_taken_repeat_by_repeat(run):
    study, records = run
    values = rows(study, records)
    a, b = values["mse-none"].by_repeat, values["mse-labels"].by_repeat
    expected = intervals.value_interval([(a[r] - b[r]) / a[r] for r in range(5)])
    assert values["drop"].interval == expected
    assert values["drop"].beside == pytest.approx(100 * expected.value - 24.8)


def test_a_difference_is_paired_over_repeats_and_inputs_on_one_test_split_only(run):
    study, records = run
    values = rows(study, records)
    hits = [
        np.stack([r.arrays["agreement"] for r in values[name].records]) for name in ("mse-none", "mse-labels")
    ]
    assert values["points"].interval == intervals.paired_difference(*hits)
    assert values["points"].short.endswith(" pp")
    apart = study.rows["points"].model_copy(update={"difference": ["mse-none", "soft-none"]})
    table = study.table[0].model_copy(update={"row": [*study.table[0].row[:4], apart]})
    other = study.model_copy(update={"table": [table]})
    values = rows(other, records)
    a, b = values["mse-none"].by_repeat, values["soft-none"].by_repeat
    assert values["points"].interval == intervals.value_interval([a[r] - b[r] for r in range(5)])


def test_a_single_repeat_has_no_interval(run):
    study, records = run
    values = rows(study, [r for r in records if r.spec.get("repeat", 0) == 0])
    for name in ("mse-none", "f1", "seconds", "other", "drop", "points"):
        assert math.isnan(values[name].interval.low), name
        assert values[name].text == values[name].short


def test_what_did_not_run_failed_or_makes_no_sense_is_said(run):
    study, records = run
    values = rows(study, [record for record in records if not (record.kind == "cell" and mse(record.spec))])
    assert (values["mse-none"].status, values["mse-none"].text) == ("not run", "not run")
    assert values["drop"].status == "not run"
    assert "MSE on log-softmax, no defense" in values["drop"].reason
    failing = changed(
        records, mse, status="failed", metrics={}, arrays={}, info=Info(), error="ValueError: no\nmore"
    )
    value = rows(study, failing)["mse-none"]
    assert (value.status, value.reason) == ("failed", "ValueError: no")
    skipped = changed(
        records, mse, status="not_applicable", metrics={}, arrays={}, info=Info(), error="too large"
    )
    value = rows(study, skipped)["mse-none"]
    assert (value.status, value.reason) == ("not applicable", "too large")


def test_repeats_that_are_there_count_when_others_failed(run):
    study, records = run
    some = changed(
        records,
        lambda s: mse(s) and s["repeat"] > 2,
        status="failed",
        metrics={},
        arrays={},
        info=Info(),
        error="x",
    )
    value = rows(study, some)["mse-none"]
    assert (value.status, sorted(value.by_repeat), value.planned) == ("ok", [0, 1, 2], 5)


def test_the_first_alternative_with_records_is_taken_and_named(run):
    study, records = run
    value = rows(study, records)["other"]
    assert {record.spec["pool"] for record in value.records} == {"usps"}
    assert value.note == "usps, since emnist-digits is not on this machine"
    assert rows(study, records, whole=False)["other"].note == "usps, since emnist-digits was not run"
    both = records + [
        replace(r, key=f"emnist {r.key}", task=task_of(r.kind, r.spec | {"pool": "emnist-digits"}))
        for r in records
        if r.spec.get("pool") == "usps"
    ]
    value = rows(study, both)["other"]
    assert {record.spec["pool"] for record in value.records} == {"emnist-digits"}
    assert value.note == ""


def test_an_alternative_that_is_planned_is_waited_for(run):
    study, records = run
    waited = [r for r in records if r.spec.get("pool") == "usps"]
    planned = [task_of(r.kind, r.spec | {"pool": "emnist-digits"}) for r in waited]
    value = rows(study, records, missing=planned)["other"]
    assert (value.status, value.note, value.planned) == ("not run", "", 5)


def test_a_pool_without_data_is_said_where_there_is_no_alternative(tmp_path):
    text = MATRIX + STUDY.replace('["emnist-digits", "usps"]', '"emnist-digits"')
    matrix, tasks = load(tmp_path, text)
    value = rows(validated(matrix, tasks), [made(task) for task in tasks])["other"]
    assert (value.status, value.reason) == ("not run", "emnist-digits is not on this machine")


def test_a_metric_that_no_cell_has_names_the_nearest(tmp_path):
    text = MATRIX + STUDY.replace('"extraction.f1"', '"extraction.fidelty"')
    matrix, tasks = load(tmp_path, text)
    value = rows(validated(matrix, tasks), [made(task) for task in tasks])["f1"]
    assert value.status == "not measured"
    assert "extraction.fidelity" in value.reason


def test_a_drop_from_nothing_is_not_measured(run):
    study, records = run
    for record in records:
        if record.kind == "cell" and mse(record.spec):
            record.arrays["agreement"] = np.zeros(INPUTS, np.uint8)
    assert rows(study, records)["drop"].status == "not measured"


@pytest.mark.parametrize(
    ("row", "value", "shown", "shown_difference", "printed"),
    [
        (PublishedValue(id="a", label="", published=89.66), 0.8874, "88.7", "-0.9 pp", "89.66 %"),
        (PublishedValue(id="a", label="", published=0.91, unit=""), 0.8874, "0.887", "-0.023", "0.91"),
        (PublishedValue(id="a", label="", published=300, unit="", digits=0), 300.0, "300", "0", "300"),
        (PublishedValue(id="a", label="", published=111.17, unit="s"), 4.104, "4.10", "-107 s", "111.17 s"),
        (PublishedValue(id="a", label="", published=1.0), 0.0099999, "1.0", "0.0 pp", "1.0 %"),
        (
            PublishedValue(id="a", label="", published=2, metric="membership.gap"),
            0.01,
            "1.0",
            "-1.0 pp",
            "2 pp",
        ),
        (PublishedValue(id="a", label="", published=1500, unit="s"), 1234.5, "1,234", "-266 s", "1500 s"),
    ],
)
def test_numbers_carry_the_digits_and_units_of_their_row(row, value, shown, shown_difference, printed):
    assert number(row, value) == shown
    assert difference(row, (100 if row.unit == "%" else 1) * value - row.published) == shown_difference
    assert published(row) == printed


def test_the_schema_of_a_matrix_still_rejects_unknown_keys():
    assert "study" in Matrix.model_fields
    with pytest.raises(ValueError, match="extra"):
        Study.model_validate({"title": "x", "sauce": "y"})
