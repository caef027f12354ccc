import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import moatbench

from bench import plugins as registry
from bench.analysis.adaptive_check import universal_attacks
from bench.analysis.findings import Findings
from bench.errors import MissingDataError, UsageError
from bench.plan.matrix import load_matrix
from bench.runner import local_backend
from bench.runner import run as execute
from bench.runner.local_backend import WorkerSettings, grouped, run_group
from bench.runner.run import run
from bench.store import Store
from bench.tasks import Cell

pytestmark = pytest.mark.usefixtures("fresh_workers")

TINY = """
repeats = 2
[[block]]
defense = ["none", "label_only", "gaussian_noise(scale=0.2)"]
attack = ["copycat(use_probability=true)", "copycat(use_probability=false)"]
surrogate = "logistic"
budget = [20, 40]
"""

PLUGINS = """
from moatbench import Answers, Defense, Extraction, TransferSet

class Breaks(Extraction):
    \"\"\"Stops where it should not.\"\"\"
    name = "breaks"
    def acquire(self, api, pool, learner, streams):
        raise RuntimeError("no luck")

class Deaf(Defense):
    \"\"\"Leaves everything as it is.\"\"\"
    name = "deaf"
    def answer(self, batch):
        return Answers.of(batch.probabilities)
"""


@pytest.fixture
def tiny(matrix_file):
    return load_matrix(str(matrix_file(TINY))).tasks()


@pytest.fixture
def setting(tmp_path):
    return WorkerSettings(tmp_path / "no-data", tmp_path / "training-cache")


def results(tasks, path, setting, **options):
    with Store(path, create=True) as store:
        run(tasks, store, setting, **({"jobs": 1} | options))
        return [record.comparable() for record in store.records()]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Return a folder with ``one.sqlite``: the store of the tiny matrix, which ran once for all tests."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "tiny.toml").write_text(f'name = "tiny"\n{TINY}')
    settings = WorkerSettings(folder / "no-data", folder / "training-cache")
    local_backend.worker_context.cache_clear()
    results(load_matrix(str(folder / "tiny.toml")).tasks(), folder / "one.sqlite", settings)
    return folder


@pytest.fixture
def finished(first_run, tmp_path):
    """Return the path of a store, a copy, in which all of the tiny matrix is done."""
    return Path(shutil.copy(first_run / "one.sqlite", tmp_path))


def stored_records(path):
    with Store(path) as store:
        return store.records()


def comparable(path):
    return [record.comparable() for record in stored_records(path)]


@pytest.mark.slow
def test_the_same_matrix_twice_and_with_one_and_two_jobs_is_equal_to_the_last_bit(
    tiny, finished, setting, tmp_path
):
    one = comparable(finished)
    again = results(tiny, tmp_path / "again.sqlite", setting)
    two = results(tiny, tmp_path / "two.sqlite", setting, jobs=2)
    assert len(one) == len(tiny)
    assert all(record[3] == "ok" for record in one)
    assert one == again
    assert one == two


@pytest.mark.slow
def test_results_do_not_depend_on_the_training_cache(tiny, finished, setting, tmp_path):
    shared = comparable(finished)
    alone = results(tiny, tmp_path / "two.sqlite", WorkerSettings(setting.data_root, None))
    assert shared == alone


def test_equal_trainings_are_shared_and_say_so(first_run):
    cells = [record for record in stored_records(first_run / "one.sqlite") if record.kind == "cell"]
    labels = [c for c in cells if "false" in c.spec["attack"] and c.spec["defense"] == ["label_only"]]
    assert labels
    assert all(cell.costs.shared for cell in labels)
    assert not any(cell.costs.shared for cell in cells if not cell.spec["defense"])
    assert not (first_run / "training-cache").exists(), "the training cache serves one run"


@pytest.mark.slow
def test_records_say_what_their_attacks_and_defenses_declare(matrix_file, setting, tmp_path):
    text = TINY.replace('"gaussian_noise(scale=0.2)"', '["rounded(decimals=2)", "gaussian_noise(l1=0.2)"]')
    text = text.replace('"copycat(use_probability=false)"', '"auto", "membership_threshold(members=20)"')
    tasks = load_matrix(str(matrix_file(text.replace("[20, 40]", "[20]")))).tasks()
    with Store(tmp_path / "one.sqlite", create=True) as store:
        run(tasks, store, setting, jobs=1)
        records = store.records()
    assert {record.status for record in records} == {"ok"}
    cells = [record for record in records if record.kind == "cell"]
    attacks = {cell.spec["attack"].partition("(")[0]: cell.info.attack.values() for cell in cells}
    assert attacks["copycat"] == {"knowledge": ["none"], "universal": False}
    assert attacks["auto"] == {"knowledge": list(registry.attacks.get("auto").knowledge), "universal": True}
    assert attacks["membership_threshold"] == {"knowledge": ["none"], "universal": False}
    evaluations = [record.info.known_by for record in records if record.kind == "audit"]
    known_by = {n: list(registry.defenses.get(n).known_by) for n in ("rounded", "gaussian_noise")}
    assert known_by in evaluations
    assert all(known_by.values())
    findings = Findings(records, {})
    assert known_by.items() <= findings.known_by.items()
    auto = registry.attacks.get("auto")
    usable = {
        r.attack: r.usable_knowledge for found in findings.attack_results.values() for r in found.values()
    }
    assert usable["auto"] == set(auto.knowledge)
    assert universal_attacks(findings) == {"auto"}


def test_finished_tasks_do_not_run_again(tiny, finished, setting, monkeypatch):
    before = comparable(finished)
    monkeypatch.setattr(local_backend, "run_group", lambda *_: pytest.fail("ran again"))
    assert results(tiny, finished, setting) == before


def test_fresh_runs_everything_again(tiny, finished, setting, monkeypatch):
    ran = []
    honest = local_backend.run_group
    monkeypatch.setattr(local_backend, "run_group", lambda s, items: ran.extend(items) or honest(s, items))
    results(tiny, finished, setting, fresh=True)
    assert len(ran) == len(tiny)


def test_a_failed_cell_is_kept_with_its_traceback_and_tried_again_while_others_go_on(
    matrix_file, tmp_path, setting
):
    (tmp_path / "mine.py").write_text(PLUGINS)
    text = TINY.replace("repeats = 2", 'repeats = 1\nplugins = ["mine.py"]').replace(
        '"copycat(use_probability=false)"', '"breaks"'
    )
    matrix = load_matrix(str(matrix_file(text)))
    setting = WorkerSettings(setting.data_root, setting.training_cache, tuple(matrix.plugin_files))
    with Store(tmp_path / "one.sqlite", create=True) as store:
        counts = run(matrix.tasks(), store, setting, jobs=1)
        failed = [record for record in store.records() if record.status == "failed"]
        assert counts == {"ok": 3 + 6, "failed": 6}
        assert failed[0].error == "attack 'breaks' (mine.py) failed in acquire: RuntimeError: no luck"
        assert "acquire" in failed[0].info.traceback
        assert failed[0].info.attack.knowledge == ["none"]
        (tmp_path / "mine.py").touch()
        assert not {record.key for record in failed} & store.done()


@pytest.mark.slow
def test_a_plugin_file_of_a_matrix_reaches_the_workers(matrix_file, tmp_path, setting):
    (tmp_path / "mine.py").write_text(PLUGINS)
    text = TINY.replace("repeats = 2", 'repeats = 1\nplugins = ["mine.py"]').replace("label_only", "deaf")
    matrix = load_matrix(str(matrix_file(text)))
    setting = WorkerSettings(setting.data_root, None, tuple(matrix.plugin_files))
    done = results(matrix.tasks(), tmp_path / "one.sqlite", setting, jobs=2)
    assert {record[3] for record in done} == {"ok"}


def test_a_cell_that_is_not_applicable_is_not_a_failure(matrix_file, setting, tmp_path):
    text = TINY.replace('surrogate = "logistic"', 'surrogate = "logistic"\npool = "noise"')
    text = text.replace('"copycat(use_probability=true)"', '"own_labels"')
    tasks = load_matrix(str(matrix_file(text))).tasks()
    tasks = [task for task in tasks if getattr(task, "attack", "") == "own_labels"]
    done = results(tasks, tmp_path / "one.sqlite", setting)
    assert {record[3] for record in done} == {"not_applicable"}
    assert "not the victim's classes" in done[0][-1]


def test_all_repeats_of_a_cell_run_together(tiny):
    items = [(task, str(number)) for number, task in enumerate(tiny)]
    groups = grouped(items)
    assert sum(map(len, groups)) == len(tiny)
    cells = [group for group in groups if isinstance(group[0][0], Cell)]
    assert {len(group) for group in cells} == {2}


def test_a_repeat_alone_equals_the_same_repeat_among_all(tiny, setting):
    cells = [task for task in tiny if isinstance(task, Cell) and task.repeat == 1][:2]
    alone = [run_group(setting, [(cell, "k")])[0] for cell in cells]
    together = [
        next(r for r in run_group(setting, [(c, str(c.repeat)) for c in cell.group()]) if r.key == "1")
        for cell in cells
    ]
    assert [a.comparable()[1:] for a in alone] == [t.comparable()[1:] for t in together]


def test_a_budget_larger_than_the_pool_is_an_error_before_anything_runs(tiny, setting, tmp_path):
    tasks = [replace(task, budget=501) for task in tiny if isinstance(task, Cell)]
    with pytest.raises(UsageError, match=r"501: it is larger than what pool 'in-distribution' supplies.*500"):
        results(tasks, tmp_path / "one.sqlite", setting)


def test_a_missing_data_set_names_the_command_and_nothing_runs(matrix_file, setting, tmp_path):
    tasks = load_matrix(str(matrix_file(TINY.replace('surrogate = "logistic"', 'pool = "usps"')))).tasks()
    with pytest.raises(MissingDataError, match=r"moatbench data fetch usps --data-root"):
        results(tasks, tmp_path / "one.sqlite", setting)


def command(*words, cwd, **options):
    env = os.environ | {"PYTHONPATH": str(Path(execute.__file__).parents[2])}
    # A background job of a shell starts with Ctrl-C ignored, and so would everything below it.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from bench.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def stored(path):
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path, timeout=10) as db:
            return db.execute("select count(*) from records").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def wait_for_records(path, number, process):
    deadline = time.monotonic() + 240
    while stored(path) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONGER = TINY.replace("[20, 40]", "[20, 40, 60]")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.long), "2"])
def test_a_run_killed_in_the_middle_resumes_to_the_same_results(jobs, matrix_file, tmp_path, setting):
    file = matrix_file(LONGER)
    path = tmp_path / "killed.sqlite"
    words = ("run", str(file), "--store", str(path), "--out", str(tmp_path / "out"), "--jobs", jobs)
    process = command(*words, cwd=tmp_path, start_new_session=True)
    wait_for_records(path, 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left = stored(path)
    tasks = load_matrix(str(file)).tasks()
    assert 5 <= left < len(tasks)
    code, text = moatbench(tmp_path, *words)
    assert code == 0, text
    assert f"{len(tasks)} ok" in text
    with Store(path) as store:
        after_kill = [record.comparable() for record in store.records()]
    assert after_kill == results(tasks, tmp_path / "straight.sqlite", setting)


def assert_no_process_of(session):
    """Workers belong to the session of the run; none may outlive it for long."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(
            ["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True, check=False
        )
        if not [line for line in listed.stdout.splitlines() if "Z" not in line.split()[1]]:
            return
        time.sleep(0.2)
    pytest.fail(f"still running: {listed.stdout}")


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.long)])
@pytest.mark.slow
def test_an_interrupt_keeps_results_and_prints_the_command_that_resumes(name, matrix_file, tmp_path):
    path = tmp_path / "stopped.sqlite"
    words = ("run", str(matrix_file(LONGER)), "--store", str(path), "--jobs", "2", "--fresh")
    process = command(*words, cwd=tmp_path, start_new_session=True)
    wait_for_records(path, 5, process)
    # A terminal sends Ctrl-C to everything in it; a CI system tells the command alone to end.
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    resume = next(line for line in err.splitlines() if line.startswith("resume with: "))
    assert str(path) in resume
    assert "--fresh" not in resume
    assert stored(path) >= 5
    assert_no_process_of(process.pid)
