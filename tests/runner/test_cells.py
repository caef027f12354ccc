from dataclasses import replace

import numpy as np
import pytest

from attacks.base import TransferSet
from bench.errors import NotApplicable, UsageError
from bench.plugins import attacks
from bench.runner import extraction
from bench.runner.cells import run_cells
from bench.runner.extraction import Acquisition, adaptation
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


def test_fidelity_is_the_mean_agreement_and_labels_say_the_same(cell, run, context, digits_spec):
    (outcome, _) = run(cell)
    assert outcome.metrics["extraction.fidelity"] == pytest.approx(outcome.arrays["agreement"].mean())
    assert outcome.arrays["agreement"].shape == (447,)
    truth = context.truth(digits_spec).argmax(axis=1)
    assert ((outcome.arrays["surrogate_label"] == truth) == outcome.arrays["agreement"]).all()


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


def test_an_input_that_was_made_and_is_a_test_input_counts_as_queried(
    cell, context, digits_victim, monkeypatch
):
    pool = context.pool(cell.victim, "in-distribution", 0)
    # By chance, all that a pool of made inputs has may be test inputs: here the first forty.
    made = replace(pool, x=digits_victim.splits.test.x[:40], y=digits_victim.splits.test.y[:40])
    monkeypatch.setattr(type(context), "pool", lambda *_: made)
    for outcome in run_cells(cell.group(), context):
        hits = outcome.arrays["agreement"]
        assert "overlap" not in outcome.info.flags
        assert outcome.metrics["extraction.fidelity_unqueried"] == pytest.approx(hits[40:].mean())


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


CHEATS = """
from moatbench import Extraction, TransferSet

class Deaf(Extraction):
    \"\"\"Declares that it can use knowledge, and does not.\"\"\"
    name = "deaf"
    knowledge = ("none", "full")
    def acquire(self, api, pool, surrogates, seeds):
        x = pool.x[: api.budget]
        return TransferSet(x, api.predict(x).astype("float32"))

class Lost(Deaf):
    \"\"\"Fails without knowledge.\"\"\"
    name = "lost"
    knowledge = ("full",)
    def acquire(self, api, pool, surrogates, seeds):
        api.known[0]
        return super().acquire(api, pool, surrogates, seeds)
"""


def adaptation_of(run, cell, defense, attack, **threat):
    informed = replace(cell.threat, **({"knowledge": "full"} | threat))
    outcomes = run(replace(cell, defense=defense, attack=attack, threat=informed))
    assert len({repr(each.info.adaptation) for each in outcomes}) == 1
    return outcomes[0].info.adaptation


@pytest.mark.parametrize(
    ("attack", "defense", "differs"),
    [
        ("recover", ("rounded(decimals=1)",), True),
        ("recover", ("mahalanobis(fpr=0.05, action=refuse, layers=all)",), False),
        ("evade(own=100, blend=None)", ("mahalanobis(fpr=0.05, action=refuse, layers=all)",), True),
        ("labels", ("rounded(decimals=1)",), False),
    ],
)
def test_an_attack_adapts_where_knowledge_changes_what_it_acquires(cell, run, attack, defense, differs):
    found = adaptation_of(run, cell, defense, attack)
    assert (found.differs, found.reason, found.proven) == (differs, "", differs)


def test_nothing_has_to_change_where_there_is_nothing_to_invert(cell, run):
    none = adaptation_of(run, cell, (), "recover")
    labels = adaptation_of(run, cell, ("label_only",), "recover")
    shown = adaptation_of(run, cell, ("rounded(decimals=1)",), "recover", shows="labels")
    for found, word in ((none, "no defense"), (labels, "labels alone"), (shown, "labels alone")):
        assert found.proven
        assert not found.differs
        assert word in found.reason
    screen = ("mahalanobis(fpr=0.05, action=refuse, layers=all)",)
    assert not adaptation_of(run, cell, screen, "recover", shows="labels").proven


def test_an_attack_that_only_declares_to_use_knowledge_proves_nothing(cell, run, tmp_path):
    (tmp_path / "cheats.py").write_text(CHEATS)
    attacks.add_file(tmp_path / "cheats.py")
    for attack in ("deaf", "lost"):
        assert not adaptation_of(run, cell, ("rounded(decimals=1)",), attack).proven


def test_an_attack_that_finds_out_by_its_queries_that_answers_vary_adapts(cell, run):
    noise = ("gaussian_noise(scale=0.1)",)
    average = adaptation_of(run, cell, noise, "average")
    assert (average.differs, average.proven) == (False, True)
    assert "answers vary" in average.reason
    assert not adaptation_of(run, cell, noise, "labels").proven
    assert not adaptation_of(run, cell, ("rounded(decimals=1)",), "average").proven


def test_an_attack_without_knowledge_has_no_adaptation_on_record(cell, run):
    assert all(each.info.adaptation is None for each in run(replace(cell, defense=("rounded(decimals=1)",))))


def test_an_attack_says_by_its_facts_that_it_evaluated_an_inverse(cell, context, monkeypatch):
    cell = replace(cell, defense=("rounded(decimals=1)",), threat=replace(cell.threat, knowledge="full"))
    x, y = np.zeros((1, 1, 8, 8), np.float32), np.full((1, 10), 0.1, np.float32)
    control = Acquisition(TransferSet(x, y, facts={"repeated": 0.0}), None, None)
    monkeypatch.setattr(extraction, "acquire", lambda *_, **__: control)
    told = TransferSet(x, y, facts={"repeated": 0.0, "read_as_recovered": 0.0})
    found = adaptation(cell, attacks.build("auto"), told, None, context)
    assert (found.differs, found.proven) == (False, True)
    assert "read_as_recovered" in found.reason


def test_what_an_attack_learnt_in_the_end_is_not_among_what_it_did_not_keep(cell, context, monkeypatch):
    cell = replace(cell, defense=("rounded(decimals=1)",), threat=replace(cell.threat, knowledge="full"))
    x, y = np.zeros((1, 1, 8, 8), np.float32), np.full((1, 10), 0.1, np.float32)
    control = Acquisition(TransferSet(x, y, facts={"small_budget": 0.0}), None, None)
    monkeypatch.setattr(extraction, "acquire", lambda *_, **__: control)
    facts = {"small_budget": 0.0, "read_as_is": 1.0, "read_as_restored": 0.0}
    found = adaptation(cell, attacks.build("restore"), TransferSet(x, y, facts=facts), None, context)
    assert found.reason == "it evaluated read_as_restored and did not keep it"
