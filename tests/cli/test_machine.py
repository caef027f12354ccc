"""A machine that is not as expected: other systems, containers, users without a home."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from records import fake_run

from bench.cli import progress, provenance, running
from bench.data import data_files
from bench.errors import UsageError
from bench.files import cache_root
from bench.runner.local_backend import available_cores
from bench.runner.timing import memory_mib

QUOTAS = {
    "cgroup v2": {"/sys/fs/cgroup/cpu.max": "150000 100000\n"},
    "cgroup v1": {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
}


@pytest.mark.parametrize("files", QUOTAS.values(), ids=QUOTAS)
def test_the_cpu_quota_of_a_container_bounds_the_worker_processes(monkeypatch, files):
    from joblib.externals.loky.backend import context

    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os.path, "exists", lambda name: name in files)
    monkeypatch.setattr(context, "open", lambda name: StringIO(files[name]), raising=False)
    assert available_cores() == 2


def test_affinity_bounds_the_worker_processes_and_is_not_needed(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert available_cores() == 64


def test_a_system_without_sighup_stops_by_the_signals_that_it_has(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP")  # as on Windows
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), running.stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running.stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_memory_is_not_known_where_the_system_does_not_count_it(monkeypatch):
    assert memory_mib() > 10
    monkeypatch.setattr(Path, "read_text", _missing)
    assert memory_mib() > 10  # from getrusage
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory_mib() == 0


def _missing(*_, **__):
    raise FileNotFoundError


def test_provenance_needs_neither_proc_nor_sysconf_nor_git(monkeypatch):
    known = provenance.machine()
    assert known["memory"].endswith("GiB")
    monkeypatch.setattr(Path, "read_text", _missing)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setenv("PATH", "")
    assert provenance.machine() | {"cpu": "", "memory": ""} == known | {"cpu": "", "memory": ""}
    assert provenance.machine()["memory"] == "unknown"
    assert provenance.commit() == {"commit": None, "dirty": None}


def test_packages_that_are_not_installed_are_named_as_such(monkeypatch):
    monkeypatch.setattr(provenance, "DISTRIBUTIONS", ("numpy", "no-package-of-this-name"))
    assert provenance.installed_versions() == {
        "numpy": np.__version__,
        "no-package-of-this-name": "not installed",
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a function that commits a package in a new repository and returns the package's folder."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def make(inner):
        repository = tmp_path / f"repository-{inner.replace('/', '-')}"
        (repository / inner).mkdir(parents=True)
        (repository / inner / "__init__.py").write_text("")
        git = ("git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b.example")
        for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
            subprocess.run([*git, *words], check=True)
        return repository / inner

    return make


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_the_commit_is_that_of_the_codes_own_repository(checkout, monkeypatch):
    own, foreign = checkout("bench"), checkout("vendored/bench")
    found = provenance.commit(own)
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    assert provenance.commit(foreign) == {"commit": None, "dirty": None}
    monkeypatch.setenv("GIT_DIR", str(foreign.parents[1] / ".git"))  # as a hook of another repository sets it
    assert provenance.commit(own) == found
    (own / "__init__.py").write_text("edited")
    assert provenance.commit(own) == found | {"dirty": True}


@needs_git
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_that_git_does_not_trust_has_no_commit(checkout):
    own = checkout("bench")
    for path in (own.parent, own.parent / ".git"):
        os.chown(path, 12345, 12345)
    assert provenance.commit(own) == {"commit": None, "dirty": None}


@pytest.fixture
def homeless(monkeypatch):
    """No variable names a folder of the user's, and the list of users does not know the user."""
    for name in ("HOME", "XDG_CACHE_HOME", "MOATBENCH_CACHE", "MOATBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["nobody"])


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_gets_folders_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert cache_root().is_absolute()
    assert data_files.data_root().is_absolute()
    with pytest.raises(UsageError, match="--data-root ~/x"):
        data_files.data_root(Path("~/x"))
    monkeypatch.setenv("MOATBENCH_CACHE", "~/x")
    with pytest.raises(UsageError, match="MOATBENCH_CACHE ~/x"):
        cache_root()


@pytest.mark.parametrize(
    "variables", [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"TERM": "dumb"}, {"COLUMNS": "1"}], ids=str
)
def test_progress_writes_no_control_sequence_to_a_file(monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    records = fake_run()[:20]
    assert list(progress.watch(iter(records), 0, len(records))) == records
    out, err = capsys.readouterr()
    assert not out
    assert "\x1b" not in err
    assert "20 run in" in " ".join(err.split())
