"""What a defense claims of every answer is measured by its evaluation, on test inputs and pools."""

from pathlib import Path

import pytest
import weakened_defenses

from bench.plugins import defenses
from bench.runner import local_backend, predicate_checks
from bench.runner.local_backend import WorkerSettings, run_group
from bench.tasks import DefenseEvaluation
from defenses.base import Predicate

FILE = Path(weakened_defenses.__file__)


@pytest.fixture
def run(context, digits_spec, monkeypatch):
    """Return what evaluates a stack in the context of the session."""
    defenses.add_file(FILE)
    monkeypatch.setattr(local_backend, "worker_context", lambda _: context)
    settings = WorkerSettings(context.data_root, None, (FILE,))

    def evaluate(*stack, pools=("noise",), repeats=2):
        task = DefenseEvaluation(digits_spec, tuple(map(defenses.canonical, stack)), pools, repeats, 0)
        return run_group(settings, [(task, "key")])[0]

    return evaluate


@pytest.mark.parametrize("place", ["order", "top"])
def test_labels_that_leak_break_a_predicate_that_is_still_declared(place, run):
    found = run(f"leaky_labels(place={place})").info.predicates
    assert "one-hot" not in found
    for name in ("leaky_labels: one-hot", "leaky_labels: at most as many distinct answers as classes"):
        assert found[name].broken > 400
    assert 1e-7 < found["leaky_labels: one-hot"].worst < 1e-3


@pytest.mark.parametrize("place", ["order", "top"])
def test_labels_that_leak_under_the_claim_one_hot_fail_and_name_the_claim(place, run):
    record = run(f"leaky_labels(place={place}, claimed=true)")
    assert record.status == "failed"
    assert record.info.broken_claim == "one_hot"


def test_a_softmax_that_is_sharper_than_it_claims_is_seen(run):
    kept, sharpened = (run(f"softened(claimed=2.0, actual={actual})") for actual in (2.0, 1.0))
    name = "softened: log-odds 0.5 times the victim's"
    assert kept.info.predicates[name].broken == 0
    assert sharpened.info.predicates[name].broken > 0.9 * sharpened.info.predicates[name].answers


def test_predicates_are_measured_on_test_inputs_the_pools_and_the_pool_split(run, digits_victim):
    found = run("label_only").info.predicates["label_only: one-hot"]
    splits = digits_victim.splits
    assert found.answers == 2 * len(splits.test) + len(splits.pool) + 2000
    assert found.broken == found.worst == 0


def test_answers_that_are_measured_in_parts_give_the_same_counts(run, monkeypatch):
    whole = run("leaky_labels", "rounded(decimals=2)").info.predicates
    monkeypatch.setattr(predicate_checks, "TOGETHER", 3_000)
    parts = run("leaky_labels", "rounded(decimals=2)").info.predicates
    assert {name: (each.broken, each.answers) for name, each in parts.items() if "distinct" not in name} == {
        name: (each.broken, each.answers) for name, each in whole.items() if "distinct" not in name
    }
    assert {name: each.worst for name, each in parts.items()} == {
        name: each.worst for name, each in whole.items()
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["one-hot"], "must declare predicates as Predicate"),
        (
            [Predicate("of {unknown}", lambda before, _: before[:, 0])],
            "failed in predicate 'of {unknown}'",
        ),
        ([Predicate("wide", lambda before, _: before)], "must measure predicate 'wide' in shape"),
        ([Predicate("none", lambda *_: 1 / 0)], "failed in predicate 'none': ZeroDivisionError"),
    ],
)
def test_a_predicate_that_cannot_be_measured_fails_the_evaluation_and_names_the_defense(
    wrong, said, run, monkeypatch
):
    monkeypatch.setattr("defenses.label_only.LabelOnly.predicates", wrong)
    record = run("label_only")
    assert record.status == "failed"
    assert record.error.startswith("defense 'label_only'")
    assert said in record.error
    assert record.info.broken_claim is None
