"""Victims of adult from end to end: every kind is trained and cached, and losses of groups are measured."""

from __future__ import annotations

import numpy as np
import pytest
from census import use_census

from bench.analysis.findings import Findings
from bench.analysis.group_losses import unequal
from bench.models.victims import load_victim
from bench.records import Record
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.tasks import Cell, DefenseEvaluation, ThreatModel, VictimSpec


@pytest.fixture
def root(tmp_path, monkeypatch):
    use_census(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["logistic", "tree", "forest", "boosting", "mlp"])
def test_a_victim_of_a_table_learns_and_is_the_same_from_the_cache(kind, root):
    first, again = (load_victim(VictimSpec("adult", kind, 0), root) for _ in range(2))
    assert first.accuracy() > 0.6
    assert first.fingerprint == again.fingerprint
    x = first.splits.pool.x[:7]
    np.testing.assert_array_equal(first.probabilities(x), again.probabilities(x))
    missing = x.copy()
    missing[:, first.inputs.missing] = np.nan
    assert np.isfinite(first.probabilities(missing)).all()


def test_groups_of_users_are_measured_and_a_group_that_loses_more_is_named(root):
    context, victim = WorkerContext(root), VictimSpec("adult", "logistic", 0)
    task = DefenseEvaluation(victim, ("label_only",), (), 1, 0)
    outcome = evaluate_defense(task, context)
    metrics = outcome.metrics
    test = context.victim(victim).splits.test
    for value, name in enumerate(("Female", "Male")):
        inside = test.x[:, 7] == value
        assert metrics[f"honest.group.sex={name}.accuracy_lost"] == 0
        sure = context.truth(victim)[inside].max(axis=1)
        assert metrics[f"honest.group.sex={name}.changed"] == pytest.approx((sure < 0.9).mean())
    assert metrics["honest.average_precision_lost"] > 0.05
    assert metrics["honest.auroc"] < 0.95
    for name in metrics:
        if name.endswith("sex=Female.changed_more"):  # as if one group had been hit
            metrics[name], outcome.info.intervals[name] = 0.3, [0.2, 0.4]
    record = Record("", task, "ok", metrics, info=outcome.info)
    named = {loss.group for loss in unequal(Findings([record], {}), "adult/logistic")}
    assert "sex=Female" in named


def test_a_cell_of_two_classes_has_scores_and_agreement_on_uniform_inputs(root):
    threat = ThreatModel("marginals", "near", "none", "logistic", "probabilities")
    cell = Cell(VictimSpec("adult", "logistic", 0), (), threat, "equation_solving", 200, 0, 1, 0)
    (outcome,) = run_cells(cell.group(), WorkerContext(root))
    assert outcome.metrics["extraction.fidelity_uniform"] > 0.95
    assert outcome.metrics["extraction.auc"] > 0.99
    assert outcome.metrics["extraction.spearman"] > 0.99
