"""Runs with victims of one's own: options reach every process, and each proves that its model is the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import UsageError, VictimError
from bench.models.own_references import OwnVictims, stamp
from bench.models.victim_options import VictimOptions
from bench.runner.context import WorkerContext
from bench.runner.local_backend import WorkerSettings, run_group, worker_context
from bench.runner.run import prepare
from bench.runner.run import run as run_tasks
from bench.store import Store
from bench.tasks import Cell, ThreatModel, VictimSpec

SPEC = VictimSpec("own:loans", "")
CELL = Cell(
    SPEC,
    (),
    ThreatModel("in-distribution", "in-distribution", "none", "logistic", "probabilities"),
    "copycat(use_probability=true)",
    20,
    0,
    1,
    0,
)
CODE = """
import numpy as np

def model(x):
    p = 1 / (1 + np.exp(-SCALE * np.asarray(x)[:, 0]))
    return np.stack([1 - p, p], axis=1)

WEIGHTS = np.random.default_rng().normal(size=3)

def unseeded(x):
    p = 1 / (1 + np.exp(-np.asarray(x) @ WEIGHTS))
    return np.stack([1 - p, p], axis=1)
"""


@pytest.fixture
def mine(tmp_path):
    """Return a folder with a model and its data."""
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    (tmp_path / "my.py").write_text(CODE.replace("SCALE", "4"))
    np.savez(tmp_path / "d.npz", x=x, y=(x[:, 0] > 0).astype(int))
    return tmp_path


def settings_of(folder, model="my.py:model"):
    options = VictimOptions(model=model, data="d.npz")
    made = WorkerSettings(folder, None, folder=folder, victims=(("loans", options.model_dump_json()),))
    return made.as_they_are([CELL])


def test_a_described_victim_runs_and_its_notes_are_stored(mine):
    with Store(mine / "store.sqlite", create=True) as store:
        counts = run_tasks([CELL], store, settings_of(mine), jobs=1)
        facts = store.meta().victims[0]
    assert counts["ok"] == 1
    assert facts.victim == "loans"
    assert any("unknown what the model was trained on" in note for note in facts.notes)


def test_a_changed_file_is_another_victim(mine):
    before = prepare([CELL], worker_context(settings_of(mine)))[SPEC]
    assert prepare([CELL], worker_context(settings_of(mine)))[SPEC] == before
    (mine / "my.py").write_text(CODE.replace("SCALE", "2"))
    changed = prepare([CELL], worker_context(settings_of(mine)))[SPEC]
    x = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    np.savez(mine / "d.npz", x=x, y=(x[:, 0] > 0).astype(int))
    assert len({before, changed, prepare([CELL], worker_context(settings_of(mine)))[SPEC]}) == 3


def test_a_file_that_changes_while_a_run_starts_is_an_error(mine):
    settings = settings_of(mine)
    np.savez(mine / "d.npz", x=np.zeros((5, 2)))
    with pytest.raises(
        UsageError, match=r"d.npz has changed since the run started; run the same command again"
    ):
        worker_context(settings)


def test_a_process_whose_model_is_another_one_is_an_error_and_no_result(mine):
    first = prepare([CELL], worker_context(settings_of(mine, "my.py:unseeded")))[SPEC]
    # As in another process: made again.
    settings = replace(settings_of(mine, "my.py:model"), expected=((SPEC, first),))
    with pytest.raises(
        UsageError, match=r"victim loans is another model in each process: .*seed its training"
    ):
        run_group(settings, [(CELL, "key")])
    same = prepare([CELL], worker_context(settings_of(mine)))[SPEC]
    records = run_group(replace(settings, expected=((SPEC, same),)), [(CELL, "key")])
    assert [each.status for each in records] == ["ok"]


def test_a_victim_that_the_matrix_does_not_describe_is_named(mine):
    with pytest.raises(UsageError, match=r"no victim 'loans' is described by \[victims.loans\]"):
        worker_context(WorkerSettings(mine, None)).victim(SPEC)


def test_a_file_that_is_written_again_with_the_same_content_has_not_changed(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("x\n1\n")
    before = stamp(folder), stamp(folder / "a.csv")
    (folder / "a.csv").unlink()
    (folder / "a.csv").write_text("x\n1\n")
    assert (stamp(folder), stamp(folder / "a.csv")) == before
    (folder / "a.csv").write_text("x\n2\n")
    assert stamp(folder) != before[0]
    assert stamp(folder / "a.csv") != before[1]
    assert stamp(folder / "none.csv") == ""


COUNTING = """
import os
from pathlib import Path
import numpy as np

def model(x):
    x = np.asarray(x, dtype=np.float64)
    lines = "".join(f"{os.getpid()} {row.tobytes().hex()}\\n" for row in x)
    with (Path(__file__).parent / "asked.txt").open("a") as file:
        file.write(lines)
    p = 1 / (1 + np.exp(-4 * x[:, 0]))
    return np.stack([1 - p, p], axis=1)
"""


def tasks_of(*pools):
    """Cells against no defense and labels only, so that two processes send the same inputs."""
    return [
        cell
        for pool in pools
        for defense in ((), ("label_only",))
        for cell in replace(
            CELL, threat=replace(CELL.threat, pool=pool), defense=defense, budget=60, repeats=1
        ).group()
    ]


@pytest.mark.slow
def test_two_processes_ask_a_model_about_an_input_once(mine):
    (mine / "my.py").write_text(COUNTING)
    settings = replace(settings_of(mine), answers=mine / "answers")
    tasks = tasks_of("in-distribution", "noise")
    with Store(mine / "store.sqlite", create=True) as store:
        counts = run_tasks(tasks, store, settings, jobs=2)
        facts = store.meta().victims[0]
    assert counts == {"ok": len(tasks)}
    asked = [line.split() for line in (mine / "asked.txt").read_text().splitlines()]
    assert len({process for process, _ in asked}) == 3
    times = Counter(row for _, row in asked)
    repeated = sum(number > 1 for number in times.values())
    # In each process the first test inputs prove that the model is the same, and two show how it is asked.
    assert repeated <= facts.sizes.test + 2
    assert len(times) - repeated > 400


def test_a_process_gets_answers_only_of_the_model_that_it_has_itself(mine, tmp_path):
    context = worker_context(settings_of(mine))
    fingerprint = prepare([CELL], context)[SPEC]
    context.victim(SPEC).share(tmp_path / "answers.sqlite")
    (mine / "other.py").write_text(CODE.replace("SCALE", "3"))
    for model, same in (("my.py:model", True), ("other.py:model", False)):
        made = replace(settings_of(mine, model), shared=((SPEC, tmp_path / "answers.sqlite"),))
        if same:
            worker_context.cache_clear()
            assert worker_context(made).victim(SPEC).fingerprint == fingerprint
        else:
            with pytest.raises(VictimError, match="victim loans is another model in each process"):
                worker_context(made).victim(SPEC)


FACTORY = """
from pathlib import Path
import numpy as np
from moatbench import Labelled, Splits

def make():
    rng = np.random.default_rng(0)
    parts = [rng.random((60, 3), dtype=np.float32) for _ in range(4)]
    labelled = [Labelled(x, (x[:, 0] > 0.5).astype(np.int64)) for x in parts]

    def model(x):
        with (Path(__file__).parent / "asked.txt").open("a") as file:
            file.writelines(f"{row.tobytes().hex()}\\n" for row in x)
        p = np.where(x[:, 0] > 0.5, 0.8, 0.3)
        return np.stack([1 - p, p], axis=1)

    return model, Splits(*labelled, 2)
"""


def test_a_victim_of_a_factory_is_asked_about_the_first_test_inputs_alone_in_another_process(mine):
    (mine / "f.py").write_text(FACTORY)
    spec = VictimSpec("f.py:make", "")
    first = WorkerContext(mine, None, OwnVictims(mine)).victim(spec)
    first.share(mine / "answers.sqlite")
    (mine / "asked.txt").unlink()
    again = WorkerContext(mine, None, OwnVictims(mine), {spec: mine / "answers.sqlite"}).victim(spec)
    assert again.fingerprint == first.fingerprint
    asked = set((mine / "asked.txt").read_text().split())
    padding = {np.zeros(3, np.float32).tobytes().hex()}
    assert asked - padding == {row.tobytes().hex() for row in first.splits.test.x}
