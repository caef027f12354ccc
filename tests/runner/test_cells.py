from dataclasses import replace

import numpy as np
import pytest

from bench.errors import NotApplicable, UsageError
from bench.runner.cells import run_cells
from bench.tasks import Cell, ThreatModel

LABELS, PROBABILITIES = "copycat(use_probability=false)", "copycat(use_probability=true)"


@pytest.fixture
def cell(digits_spec, threat):
    logistic = replace(threat, surrogate="logistic")
    return Cell(digits_spec, (), logistic, PROBABILITIES, budget=40, repeat=0, repeats=2, seed=0)


@pytest.fixture
def run(context):
    return lambda cell: run_cells(cell.group(), context)


def test_a_cell_is_a_pure_function_of_its_spec(cell, run):
    first, second = run(cell), run(cell)
    for one, two in zip(first, second, strict=True):
        assert one.metrics == two.metrics
        assert one.info == two.info
        assert one.arrays["agreement"].tobytes() == two.arrays["agreement"].tobytes()


def test_repeats_differ(cell, run):
    first, second = run(cell)
    assert first.arrays["agreement"].tobytes() != second.arrays["agreement"].tobytes()


def test_fidelity_is_the_mean_agreement(cell, run):
    (outcome, _) = run(cell)
    assert outcome.metrics["extraction.fidelity"] == pytest.approx(outcome.arrays["agreement"].mean())
    assert outcome.arrays["agreement"].shape == (447,)


def test_every_query_counts(cell, run):
    (outcome, _) = run(replace(cell, defense=("mahalanobis(fpr=0.05, action=refuse, layers=all)",)))
    queries = outcome.info.queries
    assert queries.sent == 40
    assert queries.answered + queries.refused == 40
    assert outcome.info.learnt == queries.answered
    assert set(outcome.costs.seconds) == set(outcome.costs.cpu_seconds)
    assert set(outcome.costs.seconds) == {"query_model", "query_defense", "acquire", "train", "evaluate"}


def test_the_output_type_decides_the_transfer_set(cell, run):
    shown = replace(cell, threat=replace(cell.threat, shows="labels"))
    labels = replace(cell, attack=LABELS)
    assert [o.metrics for o in run(shown)] == [o.metrics for o in run(labels)]
    assert [o.metrics for o in run(shown)] != [o.metrics for o in run(cell)]


@pytest.mark.parametrize("defense", ["top_k(k=3)", "mahalanobis(fpr=0.05, action=label_only, layers=all)"])
def test_an_attacker_on_labels_equals_itself_on_label_only_where_the_label_is_kept(cell, run, defense):
    # This equality is what lets the report replay attackers; METHOD.md, "Replay".
    plain = run(replace(cell, attack=LABELS, defense=("label_only",)))
    kept = run(replace(cell, attack=LABELS, defense=(defense,)))
    for one, two in zip(plain, kept, strict=True):
        assert one.arrays["agreement"].tobytes() == two.arrays["agreement"].tobytes()


@pytest.mark.parametrize("surrogate", ["logistic", "cnn"])
def test_a_detector_that_rejects_everything_leaves_an_untrained_surrogate_that_says_so(cell, run, surrogate):
    noise = ThreatModel("noise", "none", "none", surrogate, "probabilities")
    gate = ("mahalanobis(fpr=0.05, action=refuse, layers=all)",)
    for outcome in run(replace(cell, threat=noise, defense=gate)):
        assert outcome.info.learnt == 0
        assert outcome.info.flags == ["nothing_learnt"]
        assert outcome.info.queries.refused == 40


def test_a_cell_that_makes_no_sense_says_why(cell, run):
    noise = ThreatModel("noise", "none", "none", "logistic", "probabilities")
    with pytest.raises(NotApplicable, match="not the victim's classes"):
        run(replace(cell, threat=noise, attack="own_labels", budget=0))


def test_agreement_is_counted_on_unqueried_inputs_too(digits_spec, cell, run):
    spec = replace(digits_spec, architecture="logistic", splits="official")
    test = replace(cell.threat, pool="test")
    overlapping = run(replace(cell, victim=spec, threat=test, budget=200))
    apart = run(replace(cell, victim=digits_spec, budget=200))
    for outcome in overlapping:
        hits = outcome.arrays["agreement"]
        assert "overlap" in outcome.info.flags
        assert len(hits) == 360
        # The 200 queries are test inputs; the other 160 are what the disjoint score is about.
        unqueried = outcome.metrics["extraction.fidelity_unqueried"]
        assert unqueried * 160 == pytest.approx(round(unqueried * 160))
        assert unqueried != outcome.metrics["extraction.fidelity"]
        on_queries = outcome.metrics["extraction.fidelity_on_queries"]
        assert unqueried * 160 + on_queries * 200 == pytest.approx(hits.sum())
    for outcome in apart:
        assert "overlap" not in outcome.info.flags
        assert outcome.metrics["extraction.fidelity_unqueried"] == outcome.metrics["extraction.fidelity"]


def test_the_confusion_matrix_counts_every_test_input_once(cell, run, digits_victim):
    (outcome, _) = run(cell)
    table, truth = np.array(outcome.info.confusion), digits_victim.splits.test.y
    assert (table.sum(axis=1) == np.bincount(truth, minlength=10)).all()
    assert np.trace(table) == outcome.arrays["correct"].sum()
    assert np.trace(table) / 447 == pytest.approx(outcome.metrics["extraction.accuracy"])


def test_another_training_configuration_gives_another_surrogate_from_the_same_answers(cell, run):
    (plain, _), (other, _) = run(cell), run(replace(cell, training="rule(loss=mse-log-softmax)"))
    assert plain.info.queries == other.info.queries
    assert plain.metrics["extraction.l1"] != other.metrics["extraction.l1"]


@pytest.mark.parametrize("surrogate", ["sklearn-logistic", "mlp128"])
def test_other_surrogates_reach_fidelity_too(cell, run, surrogate):
    (outcome, _) = run(replace(cell, threat=replace(cell.threat, surrogate=surrogate), budget=200))
    assert outcome.metrics["extraction.fidelity"] > 0.6
    assert (outcome.info.steps is None) == (surrogate == "sklearn-logistic")


def test_an_unknown_attack_family_is_a_usage_error(cell, run, monkeypatch):
    monkeypatch.setattr("attacks.copycat.Copycat.family", "extractoin")
    with pytest.raises(UsageError, match="did you mean 'extraction'"):
        run(cell)
