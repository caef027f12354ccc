"""Whole cells on tables with missing values, on images in 0 to 255, and on sequences."""

from __future__ import annotations

import numpy as np
import pytest
from cases import each_once
from spaces import SPACES, spec_of, victim_of

from bench.errors import NotApplicable
from bench.plugins import attacks, defenses
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.tasks import Cell, DefenseEvaluation, ThreatModel

DEFENSES = ("none", "label_only", "rounded(decimals=1)", "reverse_sigmoid", "mahalanobis(fpr=0.1)")
ATTACKS = (
    "copycat(use_probability=true)",
    "labels",
    "knockoff(sampling_strategy=adaptive)",
    "average",
    "active_thief",
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A worker context with a victim of each space, two of them with public inputs and a group left out."""
    context = WorkerContext(tmp_path_factory.mktemp("no-data"), tmp_path_factory.mktemp("trainings"))
    for name, space in SPACES.items():
        context.add({spec_of(name): victim_of(space, shifted=60, public=60)})
    return context


def cell_of(name, attack, stack=(), **changes):
    own = {"pool": "in-distribution", "surrogate": "logistic", "budget": 90, "knowledge": "none"} | changes
    threat = ThreatModel(own["pool"], "any", own["knowledge"], own["surrogate"], "probabilities")
    defense = tuple(defenses.canonical(text) for text in stack if text != "none")
    return Cell(spec_of(name), defense, threat, attacks.canonical(attack), own["budget"], 0, 2, 0)


def run(context, cell):
    """Run the repeats of a cell; check that every input that reached the victim belongs to its space."""
    model = context.victim(cell.victim).model
    model.seen.clear()
    outcomes = run_cells(cell.group(), context)
    assert [model.space.problem(x) for x in model.seen] == [""] * len(model.seen)
    return outcomes


@pytest.mark.parametrize(("name", "stack", "attack"), each_once(tuple(SPACES), DEFENSES, ATTACKS))
def test_a_cell_on_inputs_of_any_shape_is_measured(name, stack, attack, here):
    for outcome in run(here, cell_of(name, attack, [stack])):
        assert outcome.info.queries.sent == 90
        assert outcome.metrics["extraction.fidelity"] > 0.45
        assert outcome.arrays["agreement"].shape == (150,)


@pytest.mark.parametrize(
    ("name", "surrogate"),
    each_once(tuple(SPACES), ("mlp", "sklearn-logistic", "sklearn-forest", "sklearn-boosting")),
)
def test_every_surrogate_learns_inputs_of_any_shape(name, surrogate, here):
    outcomes = run(here, cell_of(name, ATTACKS[0], surrogate=surrogate, budget=200))
    assert min(each.metrics["extraction.fidelity"] for each in outcomes) > 0.45


@pytest.mark.parametrize("name", SPACES)
def test_a_detector_is_evaluated_on_inputs_of_any_shape(name, here):
    stack = (defenses.canonical("mahalanobis(fpr=0.1)"),)
    metrics = evaluate_defense(DefenseEvaluation(spec_of(name), stack, ("shifted",), 1, 0), here).metrics
    assert 0 < metrics["detection.test"] < 0.3
    assert metrics["detection.shifted.auroc"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("name", "attack"),
    each_once(tuple(SPACES), ("evade(own=50)", "evade(own=50, blend=None)", "recover", "restore", "auto")),
)
def test_adaptive_attacks_run_on_inputs_of_any_shape(name, attack, here):
    cell = cell_of(name, attack, ["mahalanobis(fpr=0.1)"], knowledge="full", pool="marginals", budget=200)
    run(here, cell)


@pytest.mark.parametrize(
    ("attack", "changes", "reason"),
    [
        ("jbda", {}, "gradients, which categories"),
        ("active_thief(strategy=dfal)", {}, "gradients by the inputs, and a category has none"),
        ("copycat", {"pool": "permuted"}, "pool 'permuted': it has images"),
        ("copycat", {"pool": "digits"}, "pool 'digits': it has images"),
        ("copycat", {"surrogate": "cnn"}, "cnn needs images"),
        ("knockoff(sampling_strategy=adaptive)", {"surrogate": "lenet"}, "lenet needs images"),
        ("membership_label_only(members=40)", {}, "it translates images by pixels"),
    ],
)
def test_what_needs_images_or_gradients_says_so_on_a_table(attack, changes, reason, here):
    with pytest.raises(NotApplicable, match=reason):
        run(here, cell_of("table", attack, ["none"], **changes))


def test_jbda_and_blends_keep_to_the_range_of_other_images(here):
    run(here, cell_of("bytes", "jbda(seeds=20)", budget=30))
    changes = {"knowledge": "full", "budget": 60, "pool": "noise"}
    run(here, cell_of("bytes", "evade(own=50, blend=0.5)", ["mahalanobis"], **changes))


@pytest.mark.parametrize("name", ["bytes", "sequences"])
def test_inputs_of_other_ranges_are_selected_by_distance(name, here):
    for outcome in run(here, cell_of(name, "active_thief(strategy=dfal-k-center)")):
        assert outcome.metrics["extraction.fidelity"] > 0.45


def test_a_surrogate_that_is_no_network_cannot_select_by_distance(here):
    for budget in (10, 90):
        cell = cell_of("bytes", "active_thief(strategy=dfal)", surrogate="sklearn-forest", budget=budget)
        with pytest.raises(NotApplicable, match="sklearn-forest is no network"):
            run(here, cell)


def test_membership_attacks_run_on_a_table(here):
    for attack in ("membership_threshold(members=40)", "membership_rule_based(members=40)"):
        (first, _) = run(here, cell_of("table", attack, budget=80))
        assert 0 <= first.metrics["membership.accuracy"] <= 1


def test_repeats_of_a_table_are_trained_together_and_encoded_apart(here):
    first, second = run(here, cell_of("table", "copycat", budget=30))
    assert first.arrays["agreement"].tobytes() != second.arrays["agreement"].tobytes()


def test_the_same_cell_gives_the_same_bits(here):
    cell = cell_of("table", "active_thief", ["reverse_sigmoid"])
    again = WorkerContext(here.data_root)
    again.add(here.loaded())
    one, two = run(here, cell), run(again, cell)
    assert [each.metrics for each in one] == [each.metrics for each in two]
    assert np.array_equal(one[0].arrays["agreement"], two[0].arrays["agreement"])
