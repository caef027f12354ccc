"""A plugin that breaks a promise fails its cell, in one sentence that names it, its file and the promise."""

from dataclasses import replace
from pathlib import Path

import broken_promises
import numpy as np
import pytest

from bench.errors import PluginError
from bench.models.promises import check_answers
from bench.plugins import attacks, defenses
from bench.runner import local_backend
from bench.runner.local_backend import WorkerSettings, run_group
from bench.tasks import Cell, DefenseEvaluation, ThreatModel, VictimSpec
from defenses.base import Answers, Claims

FILE = Path(broken_promises.__file__)
SPEC = VictimSpec("digits", "mlp", 0)
THREAT = ThreatModel("in-distribution", "in-distribution", "none", "sklearn-logistic", "probabilities")


def cell(attack="copycat(use_probability=true)", defense=(), budget=40):
    return Cell(SPEC, defense, THREAT, attack, budget, 0, 1, 0)


@pytest.fixture
def run(context, monkeypatch):
    """Return what runs a task in the context of the session; its plugins are those of the file."""
    attacks.add_file(FILE)
    defenses.add_file(FILE)
    monkeypatch.setattr(local_backend, "worker_context", lambda _: context)
    settings = WorkerSettings(context.data_root, None, (FILE,))
    return lambda task: run_group(settings, [(task, "key")])[0]


LIES = {
    "claims": "must claim by a Claims, but claims ",
    "fit": "failed in fit: ValueError: operands could not be broadcast together",
    "raises": "failed in answer: ValueError: shapes (3,) (4,)",
    "array": "must return Answers, but returned ndarray",
    "width": "must answer with a float64 array of shape ({n}, 10), but answered with float64 ({n}, 2)",
    "rows": "must answer with a float64 array of shape ({n}, 10), but answered with float64 (",
    "dtype": "must answer with a float64 array of shape ({n}, 10), but answered with float32 ({n}, 10)",
    "list": "must answer with a float64 array of shape ({n}, 10), but answered with list",
    "mask shape": "must return refused as a bool array of shape ({n},), but returned bool ({n}, 1)",
    "mask type": "must return flagged as a bool array of shape ({n},), but returned int64 ({n},)",
    "rejects": "claims may_refuse=False, but rejected {n} of {n} queries",
    "flags": "claims may_flag=False, but flagged {n} of {n} queries",
    "nan": "answered {n} of {n} queries with NaN or infinity, and did not mark them as refused",
    "infinity": "answered 1 of {n} queries with NaN or infinity",
    "sums to 5": "claims distribution=True, but answered with a row that sums to 5",
    "percent": "answered with an entry of ",
    "negative": "answered with an entry of -0.5; answers are probabilities in [0, 1]",
    "label": "claims keeps_label=True, but changed the top-1 of",
    "ties": "claims ties=False, but in {n} of {n} answers several entries share the maximum",
}
AT_FIT = {
    "normalises": "claims normalises=True, but answered with",
    "twice": "answers the same queries differently when they are asked twice with the same seed and number",
    "alone": "answers a query alone differently than in a batch",
    "seed": "claims stochastic=False, but its answers depend on the seed",
    "number": "claims consistent_noise=True, but its answers depend on the running number of the query",
    "counts": "claims counts_queries=False, but its answers depend on the running number of the query",
}


@pytest.mark.parametrize(("how", "said"), [*LIES.items(), *AT_FIT.items()])
def test_a_defense_that_breaks_a_promise_fails_its_cell_and_is_named_with_its_file(how, said, run):
    record = run(cell(defense=(f"liar(how='{how}')",)))
    assert record.status == "failed"
    assert record.error.startswith(f"defense 'liar' (broken_promises.py) {said.format(n=8)}"), record.error
    assert "Traceback" in record.info.traceback


@pytest.mark.parametrize("how", [how for how in LIES if how not in {"claims", "fit"}])
def test_a_promise_that_is_kept_at_fit_and_broken_later_is_found(how, run):
    record = run(cell(defense=(f"liar(how='{how}', later=true)",)))
    n = 40
    assert record.error.startswith(f"defense 'liar' (broken_promises.py) {LIES[how].format(n=n)}"), (
        record.error
    )


def test_a_defense_that_comes_to_answer_otherwise_is_found_at_the_end(run):
    record = run(cell(defense=("liar(how=later, later=true)",)))
    assert (
        "answers a query differently when it is asked again later, alone, with the same seed and number"
        in record.error
    )


def test_a_broken_promise_fails_single_queries_evaluations_and_membership_too(run):
    lie, said = ("liar(how='percent', later=true)",), "answered with an entry of"
    single = cell("knockoff(sampling_strategy=adaptive)", lie)
    single = replace(single, threat=replace(THREAT, surrogate="logistic"))
    for task in (
        single,
        DefenseEvaluation(SPEC, lie, (), 1, 0),
        cell("membership_threshold(members=40)", lie, 80),
        cell("own_labels", lie, 0),
        cell(defense=("rounded(decimals=3)", "mahalanobis(fpr=0.05)", *lie)),
    ):
        record = run(task)
        if len(task.defense) == 1:
            assert record.status == "failed"
            assert said in record.error
        else:  # behind rounded answers, which are no distributions, there is no such promise
            assert record.status == "ok"


def test_an_attack_that_goes_on_after_an_error_of_the_defense_does_not_hide_it(run):
    record = run(cell("forger(how=hides)", ("liar(how=raises, later=true)",)))
    assert (
        record.error == "defense 'liar' (broken_promises.py) failed in answer: ValueError: shapes (3,) (4,)"
    )


FORGED = {
    "reason": "must return text from applicable, but returned True",
    "tuple": "must return a TransferSet, but returned tuple",
    "nan": "returned 1 of 40 rows of y with NaN or infinity",
    "infinity": "returned 1 of 40 rows of x with NaN or infinity",
    "fewer": "returned 17 inputs for 40 answers in its transfer set",
    "dtype": "must return x as a float32 array of shape (n, 1, 8, 8), but returned float64 (40, 1, 8, 8)",
    "width": "must return y as a float32 array of shape (n, 10), but returned float32 (40, 9)",
    "shape": "must return x as a float32 array of shape (n, 1, 8, 8), but returned float32 (40, 1, 4, 8)",
    "unasked": "returned 40 of 40 inputs that it never got an answer for; if that is meant, declare",
    "more": "returned a transfer set of 80 rows, but only 40 queries were answered",
    "targets": "returned 40 of 40 targets that are neither the answer nor its top-1; if that is",
    "swapped": "returned 40 of 40 targets that are neither the answer nor its top-1",
    "fact": "returned the fact found='much', which is no finite number",
    "nan fact": "returned the fact found=nan, which is no finite number",
    "own fidelity": "returned the fact 'fidelity', which is the name of a metric",
    "overspends": "failed in acquire: BudgetError: the attack asked for 500 answers with 40 left",
    "asks nan": "failed in acquire: ValueError: queries must be finite, got NaN or infinity",
    "asks outside": "failed in acquire: ValueError: queries must be in [0, 1], got 0.5 to 1.5",
    "surrogate shape": "has a surrogate that must answer in shape (447, 10), but answered in (10, 10)",
    "surrogate nan": "has a surrogate that answers with NaN or infinity",
    "surrogate logits": "has a surrogate whose answers are no probabilities",
    "surrogate raises": "failed in the surrogate of its transfer set: ZeroDivisionError",
    "surrogate asks": "failed in the surrogate of its transfer set: BudgetError: the attack has returned",
}


@pytest.mark.parametrize(("how", "said"), FORGED.items())
def test_an_attack_that_breaks_a_promise_fails_its_cell_and_is_named_with_its_file(how, said, run):
    record = run(cell(f"forger(how='{how}')"))
    assert record.status == "failed"
    assert record.error.startswith(f"attack 'forger' (broken_promises.py) {said}"), record.error


@pytest.mark.parametrize("how", ["nothing", "shuffled", "labels", "part", "numpy fact"])
def test_another_order_labels_and_a_part_of_what_was_answered_are_no_broken_promises(how, run):
    record = run(cell(f"forger(how='{how}')"))
    assert (record.status, record.error) == ("ok", None)
    if how == "numpy fact":
        assert record.metrics["extraction.found"] == 3
        assert type(record.metrics["extraction.found"]) is int


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("shape", "must return (20,) scores, but returned shape (20, 1)"),
        ("range", "must return scores in [0, 1], but 20 of 20 are not"),
        ("nan", "must return scores in [0, 1], but 20 of 20 are not"),
        ("text", "must return (20,) scores in [0, 1], but returned list"),
    ],
)
def test_scores_that_are_none_fail_the_cell(how, said, run):
    record = run(cell(f"guesser(how={how})", budget=40))
    assert record.error == f"attack 'guesser' (broken_promises.py) {said}"


def test_a_failed_cell_is_shown_again_while_others_go_on(run):
    failing, fine = cell(defense=("liar(how=width)",)), cell()
    records = [run(failing), run(fine), run(failing)]
    assert [record.status for record in records] == ["failed", "ok", "failed"]
    assert records[0].error == records[2].error


# --- what is no broken promise


def checked(claims, before, rows, raw=None, *, regular=True):
    """Check answers that are neither rejected nor flagged."""
    before, rows = np.array(before, dtype=float), np.array(rows, dtype=float)
    raw = before if raw is None else np.array(raw, dtype=float)
    check_answers("it", claims, before, raw, Answers.of(rows), regular=regular)


def test_errors_that_rounding_to_single_precision_explains_are_none():
    victim = [[0.7, 0.2999, 0.0], [0.3, 0.6, 0.1]]  # off by 1e-4, as a victim may be
    checked(Claims(), victim, victim)
    checked(Claims(), [[0.7, 0.3]], [[0.7 + 3e-8, 0.3]])
    with pytest.raises(PluginError, match=r"a row that sums to 0.999"):
        checked(Claims(), [[0.7, 0.3]], [[0.7, 0.299]])


def test_what_a_defense_before_it_has_lost_is_not_its_fault():
    lost = [[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]]
    victim = [[0.6, 0.2, 0.2], [0.3, 0.7, 0.0]]
    checked(Claims(), lost, lost, victim)
    negative = [[-0.2, -0.1, -0.3]]
    checked(Claims(normalises=True), negative, [[1 / 3] * 3], [[0.1, 0.8, 0.1]], regular=False)
    with pytest.raises(PluginError, match="it claims keeps_label=True, but changed the top-1 of 1 of 1"):
        checked(Claims(), [[0.6, 0.4]], [[0.4, 0.6]])


def test_rejected_rows_promise_nothing():
    before, nan = np.array([[0.6, 0.4], [np.nan, np.nan]]), np.array([[0.6, 0.4], [9.0, np.nan]])
    check_answers("it", Claims(), before, np.array([[0.6, 0.4]] * 2), Answers.of(nan), regular=True)
    refused = np.array([False, True])
    answers = Answers(nan, refused, ~refused)
    claims = Claims(may_refuse=True, may_flag=True)
    check_answers("it", claims, np.nan_to_num(before), np.array([[0.6, 0.4]] * 2), answers, regular=True)
