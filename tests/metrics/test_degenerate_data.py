"""Numbers stay numbers where data do not vary, are few, are all alike or were all rejected."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bench.analysis import study_results
from bench.metrics import utility
from bench.metrics.extraction import extraction
from bench.metrics.flags import cell_flags
from bench.metrics.intervals import (
    best_attack,
    mean_interval,
    paired_difference,
    share_interval,
    unpaired_difference,
    value_interval,
)
from bench.metrics.membership import RocCurve, membership, roc, standard_errors
from bench.metrics.pooled_difference import common_prior, contrast, p_value_above, p_value_below
from bench.metrics.query_multiplier import query_multiplier
from bench.records import Outcome, PlannedTask, Record
from bench.store import Store
from bench.tasks import DefenseEvaluation

MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=6)


def tables(shape):
    """Agreement: mixed, constant, equal in all repeats, or equal over all inputs."""
    bits = arrays(np.uint8, shape, elements=st.integers(0, 1))
    constant = st.sampled_from([0, 1]).map(lambda bit: np.full(shape, bit, np.uint8))
    by_input = bits.map(lambda table: np.repeat(table[:1], shape[0], axis=0))
    by_repeat = bits.map(lambda table: np.repeat(table[:, :1], shape[1], axis=1))
    return bits | constant | by_input | by_repeat


def pairs():
    return SHAPES.flatmap(lambda shape: st.tuples(tables(shape), tables(shape)))


def curves():
    """Two curves of two budgets and up to two attacks, all tables of one shape."""

    def of(shape):
        row = st.lists(tables(shape), min_size=1, max_size=2).map(lambda found: dict(enumerate(found)))
        curve = st.tuples(row, row).map(lambda rows: dict(zip((50, 200), rows, strict=True)))
        return st.tuples(curve, curve)

    return SHAPES.flatmap(of)


def check_interval(found, smallest, largest):
    assert smallest - 1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= largest + 1e-12


@MANY
@given(pair=pairs())
def test_intervals_of_agreement_contain_the_value_and_those_of_shares_stay_in_range(pair):
    a, b = pair
    check_interval(mean_interval(a), 0, 1)
    # Student's t knows no span: for a handful of inputs its limits lie beyond it.
    check_interval(paired_difference(a, b), -math.inf, math.inf)
    check_interval(unpaired_difference(a, b), -1, 1)
    check_interval(best_attack({"a": a, "b": b}).interval, 0, 1)


@MANY
@given(pair=pairs())
def test_the_gate_s_p_values_are_probabilities(pair):
    a, b = pair
    for paired in (True, False):
        each = contrast(a, b, paired=paired)
        for others in ([], [each], [each, contrast(b, a, paired=paired)]):
            error = common_prior(others).error(each)
            assert error.size > 0
            for limit in (-0.02, 0.0, 0.02):
                above, below = (test(each, error, limit) for test in (p_value_above, p_value_below))
                assert 0 <= above <= 1
                assert 0 <= below <= 1


@MANY
@given(found=curves(), reference=st.sampled_from([50, 200]), seed=st.integers(0, 3))
def test_a_query_multiplier_is_a_number_inside_its_interval(found, reference, seed):
    defended, undefended = found
    multiplier = query_multiplier(defended, undefended, reference, seed=seed, resamples=20)
    assert 0 < multiplier.value < math.inf
    assert 0 <= multiplier.low <= multiplier.value <= multiplier.high
    assert not (multiplier.below and multiplier.above)


@MANY
@given(values=st.lists(st.floats(-10, 10) | st.just(math.nan) | st.just(0.5), max_size=5))
def test_a_value_s_interval_has_limits_from_two_values_on(values):
    found = value_interval(values)
    known = [value for value in values if not math.isnan(value)]
    assert math.isnan(found.value) == (not known)
    assert math.isnan(found.low) == math.isnan(found.high) == (len(known) < 2)
    if len(known) > 1:
        check_interval(found, -math.inf, math.inf)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 5), (5, 5), (2, 5)])
def test_a_share_s_interval_is_inside_its_range(hits, n):
    check_interval(share_interval(hits, n), 0, 1)


def rows(classes, n):
    """Answers: plain, tied, one-hot, all zero, not summing to 1, all rejected."""
    plain = arrays(np.float64, (n, classes), elements=st.floats(0, 1))
    same = st.sampled_from([0.0, 1e-300, 0.5, 1.0]).map(lambda value: np.full((n, classes), value))
    one_hot = st.just(np.eye(classes)[np.zeros(n, dtype=int)])
    return plain | same | one_hot


@st.composite
def answered(draw):
    classes, n = draw(st.integers(2, 4)), draw(st.integers(1, 6))
    one_class = st.just(np.zeros(n, dtype=np.int64))
    truth = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)) | one_class)
    deployed = draw(rows(classes, n) | st.just(np.full((n, classes), np.nan)))
    return (
        utility.normalised(draw(rows(classes, n))),
        utility.normalised(draw(rows(classes, n))),
        truth,
        deployed,
    )


@MANY
@given(case=answered())
def test_metrics_of_a_surrogate_are_finite_or_none(case):
    surrogate, victim, truth, deployed = case
    found = extraction(surrogate, victim, truth, deployed)
    assert all(value is None or math.isfinite(value) for value in found.values()), found
    if np.isnan(deployed).all():
        assert found["extraction.agreement_deployed"] is None
    for defended in (True, False):
        assert cell_flags(0.5, None, victim, defended=defended, learnt=0)


@MANY
@given(case=answered())
def test_measures_of_utility_are_finite(case):
    _, victim, truth, deployed = case
    likely = utility.normalised(deployed[np.isfinite(deployed).all(axis=1)])
    assert np.isfinite(likely).all()
    assert likely.sum(axis=1) == pytest.approx(1)
    confidence, correct = victim.max(axis=1), victim.argmax(axis=1) == truth
    assert 0 <= utility.expected_calibration_error(confidence, correct) <= 1
    assert 0 <= utility.area_under_risk_coverage(confidence, correct) <= 1
    assert (utility.negative_log_likelihood(victim, truth) >= 0).all()


@MANY
@given(
    scores=arrays(np.float64, 8, elements=st.floats(0, 1))
    | st.sampled_from([0.0, 0.5, 1.0]).map(lambda value: np.full(8, value)),
    members=st.integers(1, 7),
)
def test_metrics_of_membership_are_shares_with_finite_errors(scores, members):
    member = np.arange(8) < members
    assert all(value is None or 0 <= value <= 1 for value in membership(member, scores).values())
    errors = standard_errors(member, scores)
    assert all(error is None or 0 <= error < 1 for error in errors.values())
    assert all(0 <= value <= 1 for point in roc(member, scores) for value in point)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_fails_its_cell_and_is_read_as_not_measured(value, tmp_path, digits_spec):
    with pytest.raises(ValueError, match=r"metric extraction\.gain is -?(nan|inf)"):
        Outcome({"extraction.fidelity": 0.5, "extraction.gain": value})
    task = DefenseEvaluation(digits_spec, (), (), 1, 0)
    with Store(tmp_path / "store.sqlite", create=True) as store:
        store.set_plan([PlannedTask("k", task)])
        store.put(Record("k", task, "ok", {"honest.nll": value, "honest.ece": 0.1}))
        (record,) = store.records()
    assert record.metrics == {"honest.nll": None, "honest.ece": 0.1}


@pytest.mark.parametrize(
    ("first", "second", "share"), [(0.5, 0.25, 0.5), (0.0, 0.25, None), (-0.1, 0.2, None)]
)
def test_a_loss_as_a_share_is_measured_of_positive_values_alone(first, second, share):
    """Of a negative value, such as an accuracy lost, the share would have the wrong sign."""
    found = study_results._apply(SimpleNamespace(difference=False), first, second)
    assert math.isnan(found) if share is None else found == share


def test_equal_infinite_scores_are_classified_alike():
    """A detector may score +inf; tied scores have no operating point between them."""
    member = np.array([True, False, True, False])
    for score in (np.full(4, np.inf), np.full(4, -np.inf), np.zeros(4)):
        assert RocCurve.of(member, score).true.tolist() == [0, 2]
