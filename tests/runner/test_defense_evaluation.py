"""Defense evaluations: the utility loss of each defense for benign users, on the digits victim."""

import math

import numpy as np
import pytest

from bench.errors import PluginError
from bench.metrics.definitions import shown_in
from bench.metrics.detection import position
from bench.runner import defense_evaluation as evaluations
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import DetectorScores, Measurements, evaluate_defense
from bench.tasks import DefenseEvaluation
from defenses.base import Claims

STACKS = {
    "none": (),
    "label_only": ("label_only",),
    "gaussian_noise": ("gaussian_noise(scale=0.1)",),
    "mahalanobis": ("mahalanobis(fpr=0.05, action=refuse, layers=all)",),
    "by_cost": ("reverse_sigmoid(gamma=0.1, l1=0.3)", "mahalanobis(action=label_only, layers=all, l1=0.02)"),
}
POOLS = ("noise", "in-distribution")
MOST = {
    "honest.l1_mean": 2,
    "honest.l1_max": 2,
    "honest.nll": 28,
    "contract.support": 10,
    "contract.entropy": math.log(10),
}
USE = {f"honest.{name}" for name in ("l1_mean", "l1_max", "nll", "ece", "aurc")}
SHARES = {
    f"honest.{name}"
    for name in (
        *("top1_kept", "accuracy", "accuracy_undefended"),
        *("refused", "flagged", "client_refused", "client_flagged"),
    )
}


@pytest.fixture(scope="module")
def audit_of(context, digits_spec):
    made = {}

    def run(name):
        if name not in made:
            made[name] = evaluate_defense(DefenseEvaluation(digits_spec, STACKS[name], POOLS, 3, 0), context)
        return made[name]

    return run


@pytest.mark.parametrize("name", STACKS)
def test_values_are_in_range_and_inside_their_intervals(name, audit_of):
    found = audit_of(name)
    assert set(found.metrics) >= SHARES | USE
    for key, value in found.metrics.items():
        if key.endswith("queries_until"):
            assert value is None or value >= 1
            continue
        assert math.isfinite(value), key
        least = -1 if key.startswith(("honest.accuracy_lost", "honest.ood_auroc_lost")) else 0
        assert least <= value <= MOST.get(key, 1) + 1e-9, key
        if key != "honest.l1_max" and not key.startswith("contract."):
            low, high = found.info.intervals[key]
            assert low <= value <= high, key


def test_confidence_tells_noise_from_digits_as_the_answers_served_allow(audit_of, context, digits_spec):
    victim = context.victim(digits_spec)
    noise = context.pool(digits_spec, "noise", 0)
    sure, of_noise = (victim.probabilities(x).max(axis=1) for x in (victim.splits.test.x, noise.x))
    truth = ((sure[:, None] > of_noise).mean() + (sure[:, None] >= of_noise).mean()) / 2
    name, lost = "honest.ood_auroc.noise", "honest.ood_auroc_lost.noise"
    assert audit_of("none").metrics[name] == pytest.approx(truth)
    assert lost not in audit_of("none").metrics
    labels = audit_of("label_only").metrics
    assert labels[name] == 0.5
    assert labels[lost] == pytest.approx(truth - 0.5)
    # A detector that rejects noise tells it better than any confidence.
    assert audit_of("mahalanobis").metrics[lost] < 0
    # Inputs like the users' are not out of distribution.
    assert not [key for key in labels if "ood" in key and key.endswith("in-distribution")]


@pytest.mark.parametrize("name", STACKS)
def test_without_a_defense_there_is_no_utility_loss(name, audit_of, digits_victim):
    found = audit_of(name).metrics
    assert found["honest.accuracy_undefended"] == pytest.approx(digits_victim.accuracy())
    if name == "none":
        assert found["honest.top1_kept"] == 1
        assert found["honest.l1_mean"] == found["honest.l1_max"] == 0
        assert found["honest.accuracy"] == found["honest.accuracy_undefended"]
        assert found["honest.refused"] == found["honest.client_flagged"] == 0


def test_label_only_keeps_the_label_and_loses_the_order_of_confidences(audit_of):
    found, none = audit_of("label_only").metrics, audit_of("none").metrics
    error = 1 - found["honest.accuracy"]
    assert found["honest.top1_kept"] == 1
    assert found["honest.accuracy"] == none["honest.accuracy"]
    assert found["honest.aurc"] == pytest.approx(error)
    assert found["honest.aurc"] > 2 * none["honest.aurc"]
    assert found["honest.ece"] == pytest.approx(error)
    assert found["honest.nll"] == pytest.approx(error * -math.log(1e-12))
    assert 0 < found["honest.l1_mean"] < 0.3


def test_answer_statistics_need_no_training(audit_of):
    labels, noise, gate = (audit_of(name) for name in ("label_only", "gaussian_noise", "mahalanobis"))
    assert labels.metrics["contract.support"] == 1
    assert labels.metrics["contract.entropy"] == 0
    assert labels.metrics["contract.alone"] == labels.metrics["contract.again"] == 1
    assert noise.metrics["contract.alone"] == 1  # the same seeds, query by query
    assert noise.metrics["contract.again"] < 0.1
    assert gate.metrics["contract.refused.noise"] == gate.metrics["detection.noise"] > 0.9
    assert labels.info.drawn == {}
    for name, values in noise.info.drawn.items():
        assert len(values) == 3
        if name == "honest.l1_max":
            assert max(values) == noise.metrics[name]
        else:
            assert np.mean(values) == pytest.approx(noise.metrics[name], rel=0.1)
    assert len(set(noise.info.drawn["honest.nll"])) == 3
    gated = {metric.name for table in ("gate difference", "gate fact") for metric in shown_in(table)}
    gated -= {"detection.*", "contract.refused.*", "contract.latency"}
    assert gated <= set(noise.info.drawn)


def test_what_a_detector_flags_is_kept_bit_by_bit(audit_of):
    found = audit_of("mahalanobis")
    assert set(found.arrays) == {"victim_label", "flagged.test", *(f"flagged.{pool}" for pool in POOLS)}
    for name, marks in found.arrays.items():
        assert marks.dtype == np.uint8
        if name == "victim_label":
            continue
        assert marks.mean() == pytest.approx(found.metrics["detection." + name.removeprefix("flagged.")])
    assert set(audit_of("label_only").arrays) == {"victim_label"}


def test_an_answer_that_depends_on_its_batch_is_a_broken_promise(monkeypatch, context, digits_spec):
    def the_first_winner_in_every_row(_, preds):
        return np.eye(preds.shape[1])[np.broadcast_to(np.argmax(preds, axis=1)[:1], len(preds))]

    monkeypatch.setattr("defenses.label_only.LabelOnly.__call__", the_first_winner_in_every_row)
    monkeypatch.setattr("defenses.label_only.LabelOnly.claims", Claims(keeps_label=False))
    evaluation = DefenseEvaluation(digits_spec, STACKS["label_only"], (), 1, 0)
    with pytest.raises(PluginError, match=r"label_only.* answers a query alone differently than in a batch"):
        evaluate_defense(evaluation, WorkerContext(context.data_root, None))


def test_noise_costs_labels_and_distance(audit_of):
    found = audit_of("gaussian_noise").metrics
    assert found["honest.top1_kept"] < 1
    assert found["honest.l1_mean"] > 0.1
    assert found["honest.refused"] == found["honest.flagged"] == 0


def test_rejected_queries_count_as_wrong_and_have_no_distance(audit_of, context, digits_spec, digits_victim):
    found = audit_of("mahalanobis").metrics
    test = digits_victim.splits.test
    refused = context.api(digits_spec, STACKS["mahalanobis"], 0, 0).query(test.x, "one").refused
    right = digits_victim.probabilities(test.x).argmax(axis=1) == test.y
    assert found["honest.refused"] == found["honest.flagged"] == pytest.approx(refused.mean())
    assert found["honest.top1_kept"] == pytest.approx(1 - refused.mean())
    assert found["honest.accuracy"] == pytest.approx((right & ~refused).mean())
    assert found["honest.l1_max"] == 0


def test_a_client_is_a_hundred_queries_and_a_shorter_last_one_is_left_out(audit_of, context, digits_spec):
    found = audit_of("mahalanobis").metrics
    x = context.victim(digits_spec).splits.test.x
    refused = context.api(digits_spec, STACKS["mahalanobis"], 0, 0).query(x, "one").refused
    clients = [refused[start : start + 100].any() for start in (0, 100, 200, 300)]
    assert found["honest.client_refused"] == found["honest.client_flagged"] == np.mean(clients)


def test_a_detector_is_measured_on_the_test_split_and_on_every_pool(audit_of):
    found = audit_of("mahalanobis").metrics
    for pool in ("test", *POOLS):
        assert {f"detection.{pool}", f"detection.{pool}.client", f"detection.{pool}.queries_until"} <= set(
            found
        )
    assert found["detection.noise"] > 0.9
    assert found["detection.noise.client"] == 1
    assert found["detection.noise.queries_until"] == 1
    assert found["detection.test"] == found["honest.flagged"] < 0.15
    assert found["detection.in-distribution"] < 0.15


def test_the_auroc_of_detector_scores_needs_no_threshold(audit_of):
    found = audit_of("mahalanobis").metrics
    assert found["detection.noise.auroc"] > 0.99
    assert 0.4 < found["detection.in-distribution.auroc"] < 0.6
    assert "detection.test.auroc" not in found


@pytest.mark.parametrize("name", ["mahalanobis", "by_cost"])
def test_a_query_is_flagged_where_its_position_is_above_that_of_a_threshold(
    name, context, digits_spec, digits_victim
):
    """A detector that is given by its utility loss is a detector, too."""
    stack = context.stack(digits_spec, STACKS[name], 0)
    x = digits_victim.splits.test.x
    flagged = context.api(digits_spec, STACKS[name], 0, 0).query(x, "one").flagged
    assert 0 < flagged.sum() < len(x)
    ((detector, reference),) = DetectorScores.of(stack, context.calibration(digits_spec, 0)).detectors
    limits = [position(np.array([t]), r)[0] for t, r in zip(detector.thresholds_, reference.T, strict=True)]
    found = DetectorScores.of(stack, context.calibration(digits_spec, 0)).positions(digits_victim, x)
    assert found[flagged].min() > min(limits)
    assert found[~flagged].max() <= max(limits)


@pytest.mark.parametrize("name", ["none", "label_only", "gaussian_noise"])
def test_a_defense_that_flags_nothing_has_no_detection_metrics(name, audit_of):
    assert not [key for key in audit_of(name).metrics if key.startswith("detection")]


def test_claims_and_latency_are_kept(audit_of):
    found = audit_of("mahalanobis")
    assert found.info.claims.may_refuse is True
    assert found.info.claims.stochastic is False
    assert set(found.costs.latency_us) == {"1", "256"}


def test_the_parameter_found_for_a_utility_loss_is_kept_with_its_metrics(audit_of):
    sigmoid, gate = STACKS["by_cost"]
    resolved = audit_of("by_cost").info.resolved
    assert set(resolved) == {sigmoid, gate}
    assert resolved[sigmoid].startswith("reverse_sigmoid(beta=0.0")
    assert resolved[gate].startswith("mahalanobis(fpr=0.")
    assert audit_of("by_cost").metrics["honest.l1_mean"] == pytest.approx(0.3, abs=0.05)
    assert audit_of("mahalanobis").info.resolved == {}


def test_a_detector_given_by_its_utility_loss_has_an_auroc(audit_of):
    assert audit_of("by_cost").metrics["detection.noise.auroc"] > 0.99


@pytest.mark.parametrize("name", ["gaussian_noise", "mahalanobis"])
def test_the_same_evaluation_twice_is_equal(name, audit_of, context, digits_spec):
    another = WorkerContext(context.data_root, None)
    again = evaluate_defense(DefenseEvaluation(digits_spec, STACKS[name], POOLS, 3, 0), another)
    assert again.metrics == audit_of(name).metrics
    assert again.info == audit_of(name).info


def test_a_deterministic_defense_is_measured_once_and_asked_again(context, digits_spec, monkeypatch):
    asked = []
    query = evaluations._query

    def count(evaluation, bench, x, repeat, *rest, times=1):
        if len(x) == 447:
            asked.append((repeat, times))
        return query(evaluation, bench, x, repeat, *rest, times=times)

    monkeypatch.setattr(evaluations, "_query", count)
    evaluate_defense(DefenseEvaluation(digits_spec, (), (), 3, 0), context)
    assert asked == [(0, 1), (1, 1), (0, 2)]
    evaluate_defense(DefenseEvaluation(digits_spec, STACKS["gaussian_noise"], (), 3, 0), context)
    assert asked[3:] == [(0, 1), (1, 1), (2, 1)]


def test_repeats_of_an_input_are_resampled_together():
    """Four repeats that say the same tell no more than one."""
    rng = np.random.default_rng(0)
    raw = rng.dirichlet(np.ones(3), 150)
    told, truth = raw[:, ::-1].copy(), rng.integers(0, 3, 150)
    one, four = Measurements(), Measurements()
    evaluations._utility(one, [told], raw, truth, 0)
    evaluations._utility(four, [told] * 4, raw, truth, 0)
    for key in USE - {"honest.l1_max"}:
        # The risk at coverage 1/150 has no counterpart among 600 answers.
        near = 0.01 if key == "honest.aurc" else 1e-9
        assert four.values[key] == pytest.approx(one.values[key], abs=near)
        assert four.intervals[key] == pytest.approx(one.intervals[key], abs=near)


def test_inputs_rejected_in_some_repeats_count_where_they_were_answered():
    raw = np.tile([0.9, 0.1], (30, 1))
    partly = raw.copy()
    partly[::2] = np.nan
    found = Measurements()
    evaluations._utility(found, [raw, partly], raw, np.zeros(30, np.int64), 0)
    assert found.values["honest.top1_kept"] == found.values["honest.accuracy"] == 0.75
    assert found.values["honest.accuracy_lost"] == pytest.approx(0.25)
    assert found.values["honest.l1_mean"] == 0
    assert found.values["honest.ece"] == pytest.approx(0.1)


def test_a_calibration_error_that_resampling_increases_stays_in_its_interval():
    raw = np.tile([0.75, 0.25], (40, 1))
    found = Measurements()
    evaluations._utility(found, [raw], raw, np.arange(40) // 30, 0)
    low, high = found.intervals["honest.ece"]
    assert low <= found.values["honest.ece"] < 1e-9 < high


def test_if_everything_is_rejected_there_is_no_utility_to_measure():
    raw = np.eye(3)[[0, 1, 2]]
    found = Measurements()
    evaluations._utility(found, [np.full((3, 3), np.nan)], raw, np.array([0, 1, 1]), 0)
    assert found.values["honest.top1_kept"] == found.values["honest.accuracy"] == 0
    assert not set(found.values) & USE


def test_a_pool_that_is_never_flagged_has_no_first_flag():
    found = Measurements()
    found.add_detection("quiet", np.zeros(250, dtype=bool))
    assert found.values["detection.quiet"] == found.values["detection.quiet.client"] == 0
    assert found.values["detection.quiet.queries_until"] is None
    flagged = np.zeros(300, dtype=bool)
    flagged[[4, 199]] = True
    found.add_detection("late", flagged)
    assert found.values["detection.late.client"] == pytest.approx(2 / 3)
    assert found.values["detection.late.queries_until"] == 100


def kept_of(answers, raw, truth, *, thresholds=(0.5, 0.9), temperature=None):
    measured = Measurements()
    evaluations._use(measured, answers, raw, truth, thresholds, temperature, 0)
    return measured.values, measured.intervals


def distributions(n, classes, seed=0):
    rows = np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), n)
    return rows, rows.argmax(axis=1)


def test_the_same_answers_lose_nothing_and_limits_say_what_so_few_inputs_can_show():
    raw, truth = distributions(400, 3)
    values, intervals = kept_of([raw, raw], raw, truth)
    for name in ("balanced_accuracy_lost", "brier_added", "changed", "changed.0.5", "aurc_added"):
        assert values[f"honest.{name}"] == 0
    assert 0.009 < intervals["honest.changed"][1] < 0.01
    assert intervals["honest.brier_added"][1] == pytest.approx(2 * (1 - 0.025 ** (1 / 400)))
    assert values["honest.balanced_accuracy"] == 1


def test_balanced_accuracy_counts_each_class_once():
    truth = np.array([0] * 90 + [1] * 10)
    raw = np.eye(2)[truth]
    answers = raw.copy()
    answers[90:95] = [1, 0]  # half of the rare class
    values, intervals = kept_of([answers], raw, truth)
    assert values["honest.balanced_accuracy"] == pytest.approx(0.75)
    assert values["honest.balanced_accuracy_lost"] == pytest.approx(0.25)
    assert values["honest.commonest_label"] == 0.9
    low, high = intervals["honest.balanced_accuracy_lost"]
    assert low < 0.25 < high < 0.5


def test_an_input_changes_side_of_a_threshold_by_its_confidence_as_served():
    raw = np.array([[0.95, 0.05], [0.7, 0.3], [0.55, 0.45], [0.9, 0.1]])
    served = np.array([[0.95, 0.0], [0.95, 0.05], [0.45, 0.0], [0.9, 0.0]])
    values, _ = kept_of([served], raw, np.zeros(4, dtype=np.int64))
    assert values["honest.changed.0.5"] == 0.25
    assert values["honest.changed.0.9"] == 0.25
    assert values["honest.changed"] == 0.5
    values, _ = kept_of([served], raw, np.zeros(4, dtype=np.int64), thresholds=(0.3,))
    assert values["honest.changed"] == values["honest.changed.0.3"] == 0
    assert "honest.changed.0.5" not in values


def test_rejected_inputs_count_as_lost_and_not_as_changed():
    raw, truth = distributions(200, 2)
    served = raw.copy()
    served[:50] = np.nan
    values, _ = kept_of([served], raw, truth, temperature=1.0)
    assert values["honest.balanced_accuracy_lost"] == pytest.approx(0.25, abs=0.05)
    assert values["honest.changed"] == values["honest.brier_added"] == values["honest.auroc_lost"] == 0
    served[:] = np.nan
    values, _ = kept_of([served], raw, truth, temperature=1.0)
    assert "honest.changed" not in values


def test_two_classes_have_an_auroc_and_more_have_none():
    raw, _ = distributions(500, 2)
    truth = (np.random.default_rng(1).random(500) < raw[:, 1]).astype(np.int64)
    labels = np.eye(2)[raw.argmax(axis=1)]
    values, intervals = kept_of([labels], raw, truth)
    low, high = intervals["honest.auroc_lost"]
    assert 0 < low < values["honest.auroc_lost"] < high
    assert "honest.auroc_lost" not in kept_of([distributions(50, 3)[0]], *distributions(50, 3))[0]


def test_scaling_repairs_the_calibration_of_answers_that_are_too_flat(audit_of):
    rng = np.random.default_rng(0)
    raw = rng.dirichlet(np.ones(3), 5000)
    truth = np.array([rng.choice(3, p=row) for row in raw])
    flat = evaluations.utility.at_temperature(raw, 3.0)
    found, _ = kept_of([flat], raw, truth, temperature=evaluations.utility.temperature(flat, truth))
    assert found["honest.ece_scaled"] < 0.03
    confidence = flat.max(axis=1)
    assert (
        evaluations.utility.expected_calibration_error(confidence, flat.argmax(axis=1) == truth)
        > found["honest.ece_scaled"] + 0.1
    )
    assert (
        0 < audit_of("none").metrics["honest.ece_scaled"] < audit_of("gaussian_noise").metrics["honest.ece"]
    )


@pytest.mark.parametrize("name", STACKS)
def test_every_evaluation_says_whether_answers_keep_their_use(name, audit_of):
    found = audit_of(name)
    own = ("balanced_accuracy", "balanced_accuracy_lost", "brier", "brier_added", "aurc_added", "ece_scaled")
    for metric in (*own, "changed", "changed.0.5", "changed.0.9"):
        low, high = found.info.intervals[f"honest.{metric}"]
        assert low <= found.metrics[f"honest.{metric}"] <= high
    assert found.arrays["victim_label"].max() == 9
    assert len(found.arrays["victim_label"]) == 447
    assert found.metrics["honest.commonest_label"] == pytest.approx(
        np.bincount(found.arrays["victim_label"]).max() / 447
    )
    assert not {"honest.brier", "honest.changed"} & set(found.info.retrained)
