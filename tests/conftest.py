import functools
import logging
import os
from pathlib import Path

import hypothesis  # noqa: F401  # here, since its import warns once a report has frozen the garbage collector
import pytest
import typer.testing
from filelock import FileLock

# One thread everywhere, so that tests run beside each other do not fight; set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench.data import data_files, query_pools
from bench.errors import MissingDataError
from bench.files import cache_root
from bench.plugins import attacks, defenses
from bench.runner.context import WorkerContext
from bench.runner.local_backend import worker_context
from bench.tasks import ThreatModel, VictimSpec

REAL = ("mnist", "fashion-mnist", "kmnist", "usps")


LIBRARIES = ("bench", "attacks", "defenses", "art", "httpcore2", "httpx2", "uvicorn", "matplotlib")
"""Loggers that some test reads: what one test sets, the next one in its process would find."""

UNTRACED = {
    "attacks": (
        *("attacks", "auto", "equation_solving", "evade", "inverse", "inverse_numerics", "known_by"),
        *("membership_attacks", "recover", "worst_case"),
    ),
    "cli": ("cli", "confirmation", "mutated_input", "wrong_arguments"),
    "gate": ("bad_input", "degenerate_runs", "false_alarms", "gate_evidence", "pairs"),
    "metrics": ("degenerate_data", "detection", "independence", "membership_metrics", "utility_metrics"),
    "models": (
        *("backprop", "batched_training", "fast_switch", "networks", "sklearn_surrogates", "surrogates"),
        *("training", "victim_training", "victims"),
    ),
    "remote": ("kills",),
    "runner": ("defense_evaluation", "noise_checks", "retrainings", "run", "spoiling_plugins", "task_keys"),
    "tests": ("caches", "documents", "files", "plugin_names", "prose", "reports"),
}
"""Folders, and in each the files of tests that coverage leaves out.

It takes as much time again as the tests. These calculate for long, read texts, or run what others run, too:
all together are the only ones to reach one line in a hundred.
"""


def pytest_collection_modifyitems(items):
    """Put the tests that run whole programs first: at the end, they would leave the other processes idle."""
    items.sort(key=lambda item: item.path.parent.name != "runner" and item.path.name != "test_example.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Pause coverage while a test that it leaves out is set up, runs and is torn down."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    coverage = plugin.cov_controller if plugin else None
    left_out = item.path.stem.removeprefix("test_") in UNTRACED.get(item.path.parent.name, ())
    if coverage is None or not coverage.started or not left_out:
        return (yield)
    coverage.pause()
    try:
        return (yield)
    finally:
        coverage.resume()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Return a cache folder: the processes of one session share the victims and the images in it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOATBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once():
    """Keep what typer's runner builds of all commands anew for each call: it takes most of a call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


def _levels():
    """Return the level of each logger of the libraries that there is."""
    for name in LIBRARIES:
        logging.getLogger(name)
    # Not by getLogger: for three hundred names twice a test, its lock takes seconds of a session.
    return {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith(LIBRARIES) and isinstance(logger, logging.Logger)
    }


@pytest.fixture(autouse=True)
def loggers_stay_as_they_are():
    """Fail the test that leaves another level, in place of one that is run after it."""
    before = _levels()
    yield
    after = _levels()
    assert {name: after[name] for name in before} == before
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture(scope="session")
def data_root():
    """A torchvision root with the real images; tests that need it are skipped where it is not.

    With MOATBENCH_REQUIRE_DATA set, as CI does, they fail instead.
    """
    root = data_files.data_root()
    for name in REAL:
        try:
            query_pools.require(name, root)
        except MissingDataError as error:
            if os.environ.get("MOATBENCH_REQUIRE_DATA"):
                pytest.fail(str(error))
            pytest.skip(f"needs the real {name} images: moatbench data fetch {' '.join(REAL)}")
    return root


@pytest.fixture(scope="session")
def digits_spec():
    return VictimSpec("digits", "mlp", 0)


class SharedContext(WorkerContext):
    """A worker context that waits while another process of the session trains the victim that it wants."""

    def victim(self, spec):
        if spec in self._kept:
            return super().victim(spec)
        with FileLock(cache_root() / "training.lock"):
            return super().victim(spec)


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """A worker context whose data folder is empty: digits need no download."""
    return SharedContext(tmp_path_factory.mktemp("no-data"), tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="session")
def digits_victim(context, digits_spec):
    return context.victim(digits_spec)


@pytest.fixture(scope="session")
def digits_pool(context, digits_spec):
    return context.pool(digits_spec, "in-distribution", 0)


@pytest.fixture
def threat():
    return ThreatModel("in-distribution", "in-distribution", "none", "mlp", "probabilities")


@pytest.fixture(autouse=True)
def borrowed_plugins(monkeypatch):
    """Forget the plugins that a test registers from a file, so that no other test meets them."""
    for registry in (attacks, defenses):
        monkeypatch.setattr(registry, "_extra", dict(registry._extra))


@pytest.fixture
def fresh_workers():
    """Forget what this process keeps between runs."""
    worker_context.cache_clear()
    yield
    worker_context.cache_clear()


@pytest.fixture
def matrix_file(tmp_path):
    """Write a matrix file with the given blocks, without a confirmation run, and return its path."""

    def write(text: str, name: str = "tiny") -> Path:
        path = tmp_path / f"{name}.toml"
        options = "" if "[report]" in text else "\n[report]\nconfirm = 0\n"
        path.write_text(f'name = "{name}"\n{text}{options}')
        return path

    return write
