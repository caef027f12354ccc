"""Victims trained anew with other rounding errors: how much gated metrics vary between machines."""

from dataclasses import replace

import numpy as np
import pytest

from bench.plan.matrix import load_matrix
from bench.records import task_of
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.tasks import DefenseEvaluation, VictimSpec

DETECTOR = ("mahalanobis(fpr=0.05, action=refuse, layers=all)",)


@pytest.fixture(scope="module")
def evaluation(digits_spec):
    return DefenseEvaluation(digits_spec, DETECTOR, ("in-distribution",), 1, 0, retrainings=3)


@pytest.fixture(scope="module")
def found(context, evaluation):
    return evaluate_defense(evaluation, context)


def test_each_gated_metric_has_a_value_for_each_retrained_victim(found):
    names = ["honest.top1_kept", "honest.nll", "detection.test", "detection.in-distribution"]
    names += ["contract.support", "honest.l1_max", "honest.flagged", "contract.refused.in-distribution"]
    for name in names:
        values = found.info.retrained[name]
        assert len(values) == 3
        assert np.mean(values) == pytest.approx(found.metrics[name], abs=0.02)
    assert "honest.aurc" not in found.info.retrained
    assert not [name for name in found.info.retrained if name.endswith("auroc")]


def test_retrained_victims_are_near_the_victim_and_not_equal_to_it(context, digits_spec, digits_victim):
    """Measured between two instruction sets: a mean L1 of 1e-5; of these victims, 2e-5 or .004."""
    x = digits_victim.splits.test.x
    first, second = (context.retrained(digits_spec, n).victim(digits_spec).probabilities(x) for n in (0, 1))
    for other in (first, second):
        distance = np.abs(other - digits_victim.probabilities(x)).sum(axis=1).mean()
        assert 0 < distance < 0.02
    assert not np.array_equal(first, second)


def test_retrainings_change_no_other_value_and_are_the_same_again(context, evaluation, found, digits_spec):
    without = evaluate_defense(replace(evaluation, retrainings=0), context)
    assert without.metrics == found.metrics
    assert without.info.retrained == {}
    other = WorkerContext(context.data_root)
    other.add({digits_spec: context.victim(digits_spec)})
    again = evaluate_defense(replace(evaluation, retrainings=1), other).info.retrained
    assert {name: values[:1] for name, values in found.info.retrained.items()} == again


@pytest.mark.parametrize("architecture", ["logistic", "tree"])
def test_a_victim_whose_training_is_deterministic_gives_nearly_equal_values(architecture, context):
    spec = VictimSpec("digits", architecture, 0)
    found = evaluate_defense(DefenseEvaluation(spec, ("label_only",), (), 1, 0, retrainings=2), context)
    for name, values in found.info.retrained.items():
        assert values == pytest.approx([found.metrics[name]] * 2, abs=1e-6)


def test_a_record_without_retrainings_keeps_its_spec_and_one_with_them_comes_back(evaluation):
    without = replace(evaluation, retrainings=0)
    assert "retrainings" not in without.spec()
    assert task_of("audit", without.spec()) == without
    assert task_of("audit", evaluation.spec()) == evaluation


def test_a_matrix_states_retrainings_for_shipped_victims_alone(matrix_file):
    block = "[[block]]\nattack = 'copycat'\nbudget = 20\n"
    matrix = load_matrix(str(matrix_file(f"retrainings = 4\n{block}")))
    assert matrix.tasks()[0].retrainings == 4
    assert matrix.tasks(victim="mine.py:victim")[0].retrainings == 0
    assert load_matrix(str(matrix_file(block, "other"))).tasks()[0].retrainings == 0
