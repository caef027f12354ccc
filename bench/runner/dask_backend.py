"""Runs tasks on other machines, over a Dask cluster; results come back to the one store here.

Imported only if a scheduler is named: Dask is an extra. Workers need this package in the same versions, and
nothing else: no shared disk, no data sets, no victims. A worker plugin sends these to each worker once, also
to one that joins late. When a worker dies, Dask gives its running tasks to another.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError

import cloudpickle
from distributed import Client, Worker, WorkerPlugin, as_completed
from distributed.scheduler import KilledWorker

from bench.errors import UsageError, one_line
from bench.files import write_atomically
from bench.models.determinism import versions
from bench.plan import feasibility
from bench.records import Record
from bench.runner.context import WorkerContext
from bench.runner.local_backend import (
    Item,
    WorkerSettings,
    failed_records,
    grouped,
    run_group,
    worker_context,
)
from bench.sources import PLUGIN_PACKAGES, code, modules_of
from bench.tasks import Cell

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
"""Seconds to wait for a scheduler to answer, and for the first worker to join."""
_settings: dict[str, WorkerSettings] = {}
"""This worker's settings, by run."""
_one_task_at_a_time = threading.Lock()
"""ART's attacks draw from global generators, so a process runs one task at a time."""


class WorkerSupplies(WorkerPlugin):
    """Sends victims, pools and the user's plugins to a worker, and removes them after the run.

    ``run``: the run's unique name. ``context``: the pickled victims and pools. ``plugins``: source of each
    plugin file by file name.
    """

    def __init__(
        self, run: str, context: bytes, plugins: Mapping[str, bytes], *, training_cache: bool, device: str
    ) -> None:
        self.name = f"moatbench-{run}"
        self.run, self.context, self.plugins = run, context, dict(plugins)
        self.training_cache = training_cache
        self.device = device
        self.versions = installed()

    def setup(self, worker: Worker) -> None:
        """Unpack victims, pools and plugins, with a folder of this worker's own.

        Raises UsageError in a worker with other versions, which Dask then does not admit.
        """
        if other := _other_versions(installed(), self.versions):
            raise UsageError(f"this worker has {other}: results would differ")
        self.folder = Path(tempfile.mkdtemp(prefix="moatbench-"))
        files = []
        for name, content in self.plugins.items():
            files.append(self.folder / name)
            write_atomically(files[-1], content)
        training_cache = self.folder / "training-cache" if self.training_cache else None
        settings = WorkerSettings(self.folder, training_cache, tuple(files), self.device)
        with _one_task_at_a_time:
            worker_context(settings).add(cloudpickle.loads(self.context))
        _settings[self.run] = settings

    def teardown(self, worker: Worker) -> None:
        """Remove everything of the run: a worker may serve many runs."""
        if settings := _settings.pop(self.run, None):
            worker_context(settings).forget()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class DaskBackend:
    """Runs tasks on the workers of the Dask scheduler at ``address``."""

    address: str

    def check(self) -> None:
        """Raise UsageError as :meth:`records` does, so that it is known before victims are trained."""
        with self._client() as client:
            _require_workers(client, self.address)

    def _client(self) -> Client:
        try:
            return Client(self.address, timeout=TIMEOUT_SECONDS, name="moatbench")
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"no Dask scheduler answers at {self.address} ({one_line(error)})") from error

    def records(
        self, todo: Sequence[Item], settings: WorkerSettings, context: WorkerContext
    ) -> Iterator[Record]:
        """Yield a record for each task, in the order in which they finish. ``context`` holds the victims.

        Raises UsageError if no scheduler answers, if no worker joins, or if a worker has other versions of
        the packages that results depend on.
        """
        with self._client() as client:
            _require_workers(client, self.address)
            run = uuid.uuid4().hex
            # Numbered, since two folders may each have a file of one name.
            files = {f"{number}_{path.name}": path for number, path in enumerate(settings.plugins)}
            plugins = {name: path.read_bytes() for name, path in files.items()}
            supplies = WorkerSupplies(
                run,
                _pickled(todo, context),
                plugins,
                training_cache=settings.training_cache is not None,
                device=settings.device,
            )
            log.info("sending %.0f MiB of victims and pools to each worker", len(supplies.context) / 2**20)
            try:
                client.register_plugin(supplies)
            except Exception as error:
                # Whatever unpacking raises there: a module that only this machine has, a full disk.
                raise UsageError(f"a worker cannot take what it needs: {error}") from error
            try:
                yield from _results(client, run, grouped(todo))
            finally:
                client.unregister_worker_plugin(supplies.name)


def _require_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise UsageError(f"no worker has joined the scheduler at {address} in {TIMEOUT_SECONDS} s") from error
    for worker, found in client.run(installed).items():
        if other := _other_versions(found, installed()):
            raise UsageError(f"the worker at {worker} has {other}: results would differ")


def installed() -> dict[str, str]:
    """Return the versions that results depend on, and a digest of moatbench's own code."""
    plugins = (module for package in PLUGIN_PACKAGES for module in modules_of(package))
    return versions() | {"moatbench's source": code("bench.runner.local_backend", *plugins).digest()[:16]}


def _other_versions(found: Mapping[str, str], required: Mapping[str, str]) -> str:
    """Return the packages that a worker has in another version than the run, in words; or ""."""
    return "; ".join(
        f"{name} {found.get(name)}, not {version}"
        for name, version in required.items()
        if found.get(name) != version
    )


def _results(client: Client, run: str, groups: Sequence[list[Item]]) -> Iterator[Record]:
    futures = client.map(_run_on_worker, [run] * len(groups), groups, pure=False)
    items = dict(zip((future.key for future in futures), groups, strict=True))
    try:
        for future in as_completed(futures):
            try:
                yield from future.result()
            except KilledWorker as error:
                message = f"every worker that took it died ({error.last_worker.address} last)"
                yield from failed_records(items[future.key], message)
            future.release()
    except BaseException:
        client.cancel(futures, force=True)
        raise


def _run_on_worker(run: str, items: Sequence[Item]) -> list[Record]:
    with _one_task_at_a_time:
        return run_group(_settings[run], items)


def _pickled(todo: Sequence[Item], context: WorkerContext) -> bytes:
    """Return the pickled victims and pools of these tasks; classes of plugin files are pickled by value."""
    for task, _ in todo:
        names = [task.threat.pool] if isinstance(task, Cell) else task.pools
        for name in names:
            context.pool(task.victim, name, task.seed)
        for name in feasibility.auxiliary_names(task.defense).values():
            context.auxiliary(task.victim, task.seed, name)
    for name, module in list(sys.modules.items()):
        if name.startswith("moatbench_file_"):
            cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(context.loaded()))
    except (TypeError, ValueError, AttributeError, PicklingError) as error:
        raise UsageError(
            f"a victim cannot be sent to another machine ({one_line(error)}); leave out --dask"
        ) from error
