"""A run on a machine that fails keeps its results, says what to do, and can be resumed."""

import errno
import os
import shlex
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
from in_process import moatbench
from programs import program, require_small_disk

from bench.cli import session
from bench.errors import StoreError
from bench.store import Store

SMALL = """
repeats = 1
[[block]]
attack = "copycat(use_probability=false)"
surrogate = "logistic"
budget = [20, 40]
"""
FULL = OSError(errno.ENOSPC, "No space left on device", "store.sqlite")
RUN = ("run", "small.toml", "--jobs", "1")


@pytest.fixture
def folder(matrix_file, tmp_path):
    """A folder with a small matrix: one defense evaluation and two cells."""
    matrix_file(SMALL, "small")
    return tmp_path


def complaints(said):
    return [line for line in said.splitlines() if line.startswith("moatbench: ")]


@pytest.mark.parametrize(
    "error",
    [StoreError("the store cannot be written"), FULL, BrokenExecutor("SIGKILL(-9)")],
    ids=lambda error: type(error).__name__,
)
def test_a_machine_that_fails_in_the_middle_keeps_what_had_finished(folder, monkeypatch, error):
    put, stored = Store.put, []

    def failing(store, record, *rest):
        if stored:
            raise error
        put(store, record, *rest)
        stored.append(record.key)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", failing)
        code, said = moatbench(folder, *RUN)
    assert code == 3
    assert len(complaints(said)) == 1
    assert "finished cells are stored" in complaints(said)[0]
    with Store(folder / "results/small/store.sqlite") as store:
        assert [record.key for record in store.records()] == stored
    code, said = moatbench(folder, *RUN)
    assert code == 0
    assert "3 ok" in said


@pytest.mark.parametrize("error", [FULL, PermissionError(errno.EACCES, "Permission denied", "report.md")])
def test_a_report_that_cannot_be_written_names_the_command_that_writes_it(folder, monkeypatch, error):
    def failing(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(session, "write_store_report", failing)
        code, said = moatbench(folder, *RUN)
    assert code == 2
    (complaint,) = complaints(said)
    assert "the results are stored" in complaint
    again = shlex.split(
        complaint.partition("moatbench report")[2].partition(" writes")[0].replace("DIR", "new")
    )
    assert moatbench(folder, "report", *again)[0] == 0
    assert (folder / "new/report.md").is_file()


@pytest.mark.parametrize("option", ["--store", "--out"])
def test_a_run_looks_at_the_places_of_its_files_first(folder, monkeypatch, option):
    def never(*_, **__):
        raise AssertionError("the run has started")

    monkeypatch.setattr(session, "run_tasks", never)
    (folder / "file").touch()
    (folder / "folder").mkdir()
    wrong = {"--store": "folder", "--out": "file"}[option]
    for path in (wrong, "file/below", "/proc/nothing/here"):
        code, said = moatbench(folder, *RUN, option, path)
        assert code == 2
        assert option in complaints(said)[0]
    code, said = moatbench(folder, *RUN, "--out", "x", "--store", "x/report.md")
    assert code == 2
    assert "is also --store" in complaints(said)[0]


def test_names_that_are_no_utf8_reach_the_report_as_escapes(folder):
    odd = os.fsdecode(b"odd\xff")
    (folder / f"{odd}.toml").write_bytes((folder / "small.toml").read_bytes())
    code, said = moatbench(folder, "run", f"{odd}.toml", "--jobs", "1", "--repeats", "1", "--out", odd)
    assert code == 0, said
    assert r"moatbench run 'odd\udcff.toml'" in (folder / odd / "provenance.md").read_text(encoding="utf-8")


def test_a_store_that_another_process_writes_is_one_sentence_before_work_starts(folder, monkeypatch):
    monkeypatch.setattr(session, "run_tasks", None)
    hold = (
        "import sys; from pathlib import Path; from bench.store import Store\n"
        "with Store(Path('busy.sqlite'), create=True): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        code, said = moatbench(folder, *RUN, "--store", "busy.sqlite")
    assert code == 2
    (complaint,) = complaints(said)
    assert "busy.sqlite" in complaint
    assert str(holder.pid) in complaint


def test_a_machine_without_semaphores_runs_cells_one_after_another(folder, monkeypatch, caplog):
    import joblib

    # What joblib answers where /dev/shm is read-only, as on some hosts of functions.
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda _: 1)
    monkeypatch.setattr(joblib, "Parallel", None)
    code, said = moatbench(folder, *RUN[:-1], "2")
    assert code == 0, said
    assert "3 ok" in said
    assert "one after another" in caplog.text


@pytest.mark.slow
def test_a_full_disk_under_the_store_keeps_the_results_that_it_had_room_for(folder):
    require_small_disk(folder)
    (folder / "disk").mkdir()
    where = ("--store", "disk/s.sqlite", "--out", "out")
    for size in ("40k", "120k"):
        done = program(folder, *RUN, *where, disk=(folder / "disk", size))
        assert done.returncode in (2, 3), done.stderr
        (complaint,) = complaints(done.stderr)
        assert "disk" in complaint


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("size", ["0", "100k"])
def test_a_full_disk_under_the_cache_loses_no_result(folder, size):
    require_small_disk(folder)
    (folder / "disk").mkdir()
    disk = (folder / "disk", "4k" if size == "0" else size)
    done = program(folder, *RUN, disk=disk, env={"MOATBENCH_CACHE": str(folder / "disk")})
    assert done.returncode == 0, done.stderr
    assert "3 ok" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_a_home_and_a_cache_that_are_read_only_stop_no_run(folder):
    (folder / "home").mkdir(mode=0o500)
    home = str(folder / "home")
    env = {"HOME": home, "XDG_CACHE_HOME": None, "MOATBENCH_CACHE": None, "MPLCONFIGDIR": None}
    done = program(folder, *RUN, env=env, obey_permissions=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(home).iterdir())


@pytest.mark.slow
@pytest.mark.long
def test_a_working_folder_that_is_read_only_is_found_first(folder):
    folder.chmod(0o500)
    try:
        done = program(folder, *RUN, obey_permissions=True)
        assert done.returncode == 2
        assert len(complaints(done.stderr)) == 1
        assert "training victim" not in done.stderr
        done = program(
            folder,
            *RUN,
            "--out",
            folder.parent / "o",
            "--store",
            folder.parent / "s.sqlite",
            obey_permissions=True,
        )
        assert done.returncode == 0, done.stderr
    finally:
        folder.chmod(0o700)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(folder):
    (folder / "dies.py").write_text(
        "import os\nfrom moatbench import Extraction\n"
        "class Dies(Extraction):\n"
        "    name = 'dies'\n"
        "    def acquire(self, api, pool, surrogates, seeds):\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    text = (folder / "small.toml").read_text().replace("repeats = 1", 'repeats = 1\nplugins = ["dies.py"]')
    (folder / "dies.toml").write_text(text.replace('"copycat(use_probability=false)"', '"dies"'))
    done = program(folder, "run", "dies.toml", "--jobs", "2")
    assert done.returncode == 3, done.stderr
    assert "a worker process ended" in complaints(done.stderr)[0]
    assert "Traceback" not in done.stderr
