"""Runs cells on other machines, over a Dask cluster; results come back to the one store here.

Imported only where a scheduler is named: Dask is an extra. Workers need this package in the same
versions, and nothing else: no disk in common, no data sets, no victims. These reach each of them once,
also one that joins late, as a plugin of the worker. A worker that dies costs its cells in flight; Dask
gives them to another.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cloudpickle
from distributed import Client, Worker, WorkerPlugin, as_completed
from distributed.scheduler import KilledWorker

from bench.errors import UsageError
from bench.models.determinism import versions
from bench.runner import run as execute
from bench.runner.context import WorkerContext
from bench.store import Record
from bench.tasks import Cell

log = logging.getLogger(__name__)

PATIENCE = 60
"""Seconds to wait for a scheduler to answer, and for a first worker."""
_settings: dict[str, execute.Setting] = {}
"""What this worker was given, by run."""
_alone = threading.Lock()
"""Attacks of ART draw from global generators: one cell at a time in a process."""


class Supply(WorkerPlugin):
    """Carries victims, pools and outside plugins to a worker, and takes them away after the run."""

    def __init__(
        self, run: str, kept: bytes, plugins: Mapping[str, str], *, training_cache: bool, device: str
    ) -> None:
        self.name = f"moatbench-{run}"
        self.run, self.kept, self.plugins, self.training_cache = run, kept, dict(plugins), training_cache
        self.device = device
        self.versions = versions()

    def setup(self, worker: Worker) -> None:
        """Unpack what was carried to a folder of this worker's own.

        Raises UsageError in a worker of other versions, which Dask then does not let join.
        """
        if other := _others(versions(), self.versions):
            raise UsageError(f"this worker has {other}: results would be others")
        self.folder = Path(tempfile.mkdtemp(prefix="moatbench-"))
        files = []
        for name, text in self.plugins.items():
            files.append(self.folder / name)
            files[-1].write_text(text, encoding="utf-8")
        training_cache = self.folder / "memo" if self.training_cache else None
        setting = execute.Setting(self.folder, training_cache, tuple(files), self.device)
        with _alone:
            execute.opened(setting).carry(cloudpickle.loads(self.kept))
        _settings[self.run] = setting

    def teardown(self, worker: Worker) -> None:
        """Forget everything: a worker may outlive many runs."""
        if setting := _settings.pop(self.run, None):
            execute.opened(setting).forget()
        shutil.rmtree(self.folder, ignore_errors=True)


def work(
    todo: Sequence[execute.Item], setting: execute.Setting, context: WorkerContext, address: str
) -> Iterator[Record]:
    """Yield records as the workers of the scheduler at ``address`` make them, in any order.

    ``workbench`` holds the victims. Raises UsageError where no scheduler answers, no worker joins, or
    one has other versions of what results depend on.
    """
    try:
        client = Client(address, timeout=PATIENCE, name="moatbench")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address} ({error or type(error).__name__})"
        ) from error
    with client:
        _require_workers(client, address)
        run = uuid.uuid4().hex
        plugins = {path.name: path.read_text(encoding="utf-8") for path in setting.plugins}
        kept, training_cache = _kept(todo, context), setting.training_cache is not None
        supply = Supply(run, kept, plugins, training_cache=training_cache, device=setting.device)
        log.info("sending %.0f MiB of victims and pools to each worker", len(supply.kept) / 2**20)
        try:
            client.register_plugin(supply)
        except Exception as error:
            # Whatever unpacking raises there: a module that only this machine has, a full disk.
            raise UsageError(f"a worker cannot take what it needs: {error}") from error
        try:
            yield from _gathered(client, run, execute.bundles(todo))
        finally:
            client.unregister_worker_plugin(supply.name)


def _require_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise UsageError(f"no worker has joined the scheduler at {address} in {PATIENCE} s") from error
    for place, theirs in client.run(versions).items():
        if other := _others(theirs, versions()):
            raise UsageError(f"the worker at {place} has {other}: results would be others")


def _others(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return what a worker has in another version, and which one the run has."""
    return "; ".join(
        f"{name} {theirs.get(name)}, not {version}"
        for name, version in ours.items()
        if theirs.get(name) != version
    )


def _gathered(client: Client, run: str, bundles: Sequence[list[execute.Item]]) -> Iterator[Record]:
    futures = client.map(_there, [run] * len(bundles), bundles, pure=False)
    items = dict(zip((future.key for future in futures), bundles, strict=True))
    try:
        for future in as_completed(futures):
            try:
                yield from future.result()
            except KilledWorker as error:
                message = f"every worker that took it died ({error.last_worker.address} last)"
                yield from execute.failed(items[future.key], message)
            future.release()
    except BaseException:
        client.cancel(futures, force=True)
        raise


def _there(run: str, items: Sequence[execute.Item]) -> list[Record]:
    with _alone:
        return execute.perform(_settings[run], items)


def _kept(todo: Sequence[execute.Item], context: WorkerContext) -> bytes:
    """Return the victims and pools that these tasks need, pickled; what files define goes by value."""
    for task, _ in todo:
        names = [task.threat.pool] if isinstance(task, Cell) else task.pools
        for name in names:
            context.pool(task.victim, name, task.seed)
    for name, module in list(sys.modules.items()):
        if name.startswith("moatbench_file_"):
            cloudpickle.register_pickle_by_value(module)
    return bytes(cloudpickle.dumps(context.carried()))
