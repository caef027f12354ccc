"""A real scheduler and real workers on loopback, in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import in_process
import pytest

from bench.analysis.recommendation import Selected
from bench.cli import confirmation
from bench.errors import StoreError, UsageError
from bench.runner import context as worker_contexts
from bench.runner import dask_backend
from bench.runner.context import WorkerContext
from bench.runner.dask_backend import DaskBackend
from bench.runner.local_backend import WorkerSettings
from bench.store import Store

SMALL = """
name = "spread"
repeats = 1
plugins = ["mine.py"]
[[block]]
data = "digits"
victim = "logistic"
surrogate = "logistic"
attack = "copycat"
defense = "halve"
budget = 20
"""
CONFIRMED = """
name = "spread"
repeats = 2
plugins = ["mine.py"]
[report]
confirm = 3
[[block]]
data = "digits"
victim = "logistic"
surrogate = "logistic"
attack = "copycat"
defense = ["none", "halve"]
budget = 20
"""
MATRIX = """
name = "spread"
description = "enough cells to lose a worker in the middle of them"
repeats = 2
plugins = ["mine.py"]

[[block]]
data = "digits"
victim = "mlp"
surrogate = "mlp"
attack = ["copycat", "labels", "knockoff"]
defense = ["none", "halve", "gaussian_noise(scale=0.2)"]
budget = [20, 40]
"""
PLUGIN = """
from defenses.base import OutputDefense

class Halve(OutputDefense):
    name = "halve"
    paper = "none"
    def __call__(self, preds):
        return (preds + preds.mean(axis=1, keepdims=True)) / 2
"""


def started(*command):
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *command, "--no-dashboard"], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def scheduler():
    process = started("scheduler", "--host", "127.0.0.1", "--port", "0")
    address = next(
        found[0] for line in process.stderr if (found := re.search(r"tcp://127\.0\.0\.1:\d+", line))
    )
    yield address
    process.kill()
    process.communicate()


@contextmanager
def started_workers(scheduler, tmp_path, *names):
    # Each in a folder of its own, without data: what it needs reaches it over the wire.
    environment = os.environ | {"MOATBENCH_CACHE": str(tmp_path / "nothing"), "MOATBENCH_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "dask", "worker", scheduler, "--no-nanny", "--nthreads", "2"]
    processes = []
    for name in names:
        (tmp_path / name).mkdir()
        processes.append(
            subprocess.Popen(
                [*command, "--no-dashboard"], cwd=tmp_path / name, env=environment, stderr=subprocess.DEVNULL
            )
        )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def worker(scheduler, tmp_path_factory):
    """A worker for all tests that leave it alive."""
    with started_workers(scheduler, tmp_path_factory.mktemp("worker"), "alone") as (process,):
        yield process


def write_matrix(tmp_path, text):
    (tmp_path / "spread.toml").write_text(text)
    (tmp_path / "mine.py").write_text(PLUGIN)


def moatbench(tmp_path, *options):
    write_matrix(tmp_path, MATRIX)
    command = [sys.executable, "-m", "bench", "run", str(tmp_path / "spread.toml"), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(path):
    try:
        with Store(path) as store:
            return len(store.done())
    except StoreError:
        return 0


def run_here(tmp_path, store, *options):
    options = map(str, ("--store", store, "--out", store.with_suffix(""), *options))
    code, told = in_process.moatbench(tmp_path, "run", str(tmp_path / "spread.toml"), *options)
    assert code == 0, told


def results(path):
    with Store(path) as store:
        return {record.key: record.comparable() for record in store.records()}


def test_a_scheduler_without_workers_times_out(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "TIMEOUT_SECONDS", 2)
    records = DaskBackend(scheduler).records([], WorkerSettings(tmp_path, None), WorkerContext(tmp_path))
    with pytest.raises(UsageError, match="no worker has joined the scheduler"):
        next(records)


@pytest.mark.slow
@pytest.mark.long
def test_a_worker_is_killed_and_the_results_are_those_of_a_local_run(scheduler, tmp_path):
    far, near = tmp_path / "far.sqlite", tmp_path / "near.sqlite"
    with started_workers(scheduler, tmp_path, "a", "b") as workers:
        running = moatbench(tmp_path, "--store", far, "--out", tmp_path / "far", "--dask", scheduler)
        while not finished(far) and running.poll() is None:
            time.sleep(0.05)
        done = finished(far)
        workers[0].send_signal(signal.SIGKILL)
        told, _ = running.communicate(timeout=600)
    assert running.returncode == 0, told
    assert 0 < done < 39, "the worker was to die in the middle"
    run_here(tmp_path, near, "--jobs", 1)
    assert len(results(far)) == 39
    assert results(far) == results(near)


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_the_results_of_a_worker_are_those_of_a_local_run(scheduler, tmp_path):
    far, near = tmp_path / "far.sqlite", tmp_path / "near.sqlite"
    write_matrix(tmp_path, SMALL)
    run_here(tmp_path, far, "--dask", scheduler)
    run_here(tmp_path, near, "--jobs", 1)
    assert {record[3] for record in results(far).values()} == {"ok"}
    assert results(far) == results(near)


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_confirmation_run_has_the_results_of_a_local_one(scheduler, tmp_path, monkeypatch):
    far, near = tmp_path / "far.sqlite", tmp_path / "near.sqlite"
    write_matrix(tmp_path, CONFIRMED)

    def selected(findings, _):
        return [Selected(findings.threats[0], 20, (("halve",),))]

    monkeypatch.setattr(confirmation, "selected", selected)
    run_here(tmp_path, far, "--dask", scheduler)
    run_here(tmp_path, near, "--jobs", 1)
    with Store(far) as store:
        records = store.records()
    fresh = [record for record in records if record.spec.get("confirmation")]
    assert len(fresh) == 3 * 2, "three fresh repeats, of the defense and of none"
    assert {record.status for record in records} == {"ok"}
    assert results(far) == results(near)


def test_an_address_at_which_nobody_answers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "TIMEOUT_SECONDS", 1)
    records = DaskBackend("tcp://127.0.0.1:1").records(
        [], WorkerSettings(tmp_path, None), WorkerContext(tmp_path)
    )
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        next(records)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nothing", "x://y", "tcp://:::", ""])
def test_an_address_that_leads_nowhere_ends_a_run_before_a_victim_is_trained(tmp_path, monkeypatch, address):
    monkeypatch.setattr(dask_backend, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(worker_contexts, "load_victim", lambda *_: pytest.fail("a victim was trained"))
    code, text = in_process.moatbench(tmp_path, "run", "smoke", "--dask", address)
    assert code == 2, text
    assert "no Dask scheduler answers at" in text.splitlines()[-1]
    assert not list(tmp_path.rglob("store.sqlite"))


def test_a_worker_that_joins_late_with_other_versions_is_rejected(monkeypatch):
    supplies = dask_backend.WorkerSupplies("run", b"", {}, training_cache=False, device="cpu")
    monkeypatch.setattr(dask_backend, "versions", lambda: supplies.versions | {"numpy": "0.1"})
    with pytest.raises(UsageError, match=r"this worker has numpy 0\.1, not [\d.]+"):
        supplies.setup(None)
    assert "run" not in dask_backend._settings


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_an_error_of_unpacking_on_a_worker_is_reported(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "_pickled", lambda *_: b"no pickle")
    records = DaskBackend(scheduler).records([], WorkerSettings(tmp_path, None), WorkerContext(tmp_path))
    with pytest.raises(UsageError, match="a worker cannot take what it needs"):
        next(records)
