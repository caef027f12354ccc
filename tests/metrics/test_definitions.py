"""One definition for every metric that is stored and shown."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

import bench
from bench.analysis.pareto import PANEL_COSTS
from bench.gate.defense_rows import answer_rows, utility_rows
from bench.gate.spread import Sides
from bench.metrics import definitions
from bench.metrics.definitions import DEFINITIONS, METRICS, Metric, Table, find, matching, shown_in
from bench.records import Record
from bench.report.utility_tables import utility_table
from bench.runner.cells import run_cells
from bench.runner.defense_evaluation import evaluate_defense
from bench.tasks import Cell, DefenseEvaluation, VictimSpec

ROOT = Path(bench.__file__).parents[1]
SHIPPED = ("reports/ci/baseline.json", "examples/guarded-model/baseline.json")


def stored_in(path):
    groups = json.loads((ROOT / path).read_text(encoding="utf-8"))["groups"]
    return {name for group in groups for repeat in group["repeats"] for name in repeat["metrics"]}


def test_no_name_is_defined_twice():
    assert len(METRICS) == len(DEFINITIONS)


@pytest.mark.parametrize("path", SHIPPED)
def test_every_metric_of_a_shipped_baseline_has_exactly_one_definition(path):
    names = stored_in(path)
    assert len(names) > 10
    assert {name: len(matching(name)) for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("attack", ["copycat(use_probability=true)", "membership_rule_based"])
def test_every_metric_of_a_cell_has_exactly_one_definition(attack, context, digits_spec, threat):
    budget = 40 if attack.startswith("copycat") else 1_000
    threat = replace(threat, surrogate="logistic")
    cell = Cell(digits_spec, (), threat, attack, budget=budget, repeat=0, repeats=1, seed=0)
    (outcome,) = run_cells(cell.group(), context)
    assert {name: len(matching(name)) for name in outcome.metrics} == dict.fromkeys(outcome.metrics, 1)


def test_every_metric_of_a_defense_evaluation_has_exactly_one_definition(context, digits_spec):
    task = DefenseEvaluation(digits_spec, ("mahalanobis(action=refuse)",), ("noise",), 1, 0)
    names = evaluate_defense(task, context).metrics
    assert "detection.noise.auroc" in names
    assert {name: len(matching(name)) for name in names} == dict.fromkeys(names, 1)


def test_a_fact_that_only_one_attack_stores_is_shown_as_it_is():
    assert matching("extraction.read_as_labels") == []
    assert find("extraction.read_as_labels") == Metric(
        "extraction.read_as_labels", "extraction.read_as_labels"
    )


def test_a_name_with_a_pool_is_the_pools():
    assert find("detection.blend:usps") is METRICS["detection.*"]
    assert find("detection.blend:usps.auroc") is METRICS["detection.*.auroc"]
    assert find("detection.usps").words_for("detection.usps") == "flagged, usps"
    assert find("contract.refused.noise").words_for("contract.refused.noise") == "rejected, noise"


def test_every_table_shows_something():
    assert all(shown_in(table) for table in get_args(Table))


def test_a_share_is_shown_in_percent_and_is_at_most_1():
    for metric in DEFINITIONS:
        assert (metric.scale == 100) == (metric.unit in ("%", "pp")), metric.name
        assert metric.largest == 1 or not metric.percent, metric.name


def test_what_the_gate_compares_has_a_direction_and_a_utility_loss_has_one_too():
    shown = [
        *shown_in("gate difference"),
        *shown_in("criteria"),
        *(METRICS[c.metric] for c in PANEL_COSTS),
    ]
    assert all(metric.higher_is_better is not None for metric in shown)
    # A panel's axis names what benign users lose.
    assert not any(METRICS[cost.metric].higher_is_better for cost in PANEL_COSTS)


def evaluation(value):
    task = DefenseEvaluation(VictimSpec("digits", "mlp"), (), (), 1, 0)
    return Record("", task, "ok", {"honest.new": value})


@pytest.fixture
def new_metric(monkeypatch):
    """Define one more metric, and forget after what was looked up."""
    tables = ("utility", "gate difference", "gate fact")
    entry = Metric("honest.new", "new", "%", 1, higher_is_better=False, tables=tables)
    monkeypatch.setattr(definitions, "DEFINITIONS", (*DEFINITIONS, entry))
    matching.cache_clear()
    yield
    matching.cache_clear()


@pytest.mark.usefixtures("new_metric")
def test_one_entry_adds_a_metric_to_tables_and_to_the_gate():
    old, new = evaluation(0.10), evaluation(0.30)
    findings = SimpleNamespace(evaluations_of=lambda _: [((), old)], defense_name=lambda _: "none")
    assert "new (%) |" in utility_table(findings, "v", "utility")
    assert "10.0 |" in utility_table(findings, "v", "utility")
    sides = Sides(paired=True, equal=True)
    (trial,) = [trial for trial in utility_rows("v", old, new, 0.02, sides) if trial.row.what == "new"]
    assert trial.row.difference.value == pytest.approx(0.2)
    changed = [each.row.what for each in answer_rows("v", old, new, sides) if each.row.decision == "changed"]
    assert changed == ["new"]
