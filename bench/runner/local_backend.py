"""Runs tasks in this process, or in worker processes on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from bench.calls import parse_call
from bench.errors import BrokenClaimError, NotApplicable, PluginError, UsageError
from bench.models.determinism import on_device, single_thread
from bench.models.own_references import OwnVictims, stamp
from bench.models.plugin_guard import (
    collected_notes,
    guarded_import,
    is_signal,
    kept_settings,
    watched_signals,
)
from bench.models.victims import ANOTHER_MODEL
from bench.plugins import attacks, defenses, file_module
from bench.records import EVALUATION, Info, Outcome, Record, Status
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.tasks import Cell, Task, VictimSpec

log = logging.getLogger(__name__)

Item = tuple[Task, str]
"""A task and its key."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs besides its tasks.

    ``data_root``: folder of the data sets. ``training_cache``: folder of trainings that cells share, or
    None. ``plugins``: files that define attacks and defenses. ``device``: where surrogates are trained.
    ``files``: plugin and victim files with the module names that their content had when the run started.
    ``folder``: to which paths of the user's own victims are relative. ``victims``: those that the matrix
    describes, by name, as JSON. ``stamps``: their files, with what changes when these do. ``expected``: the
    fingerprints of the user's own victims in the process that started the run. ``answers``: folder for
    answers of the user's own victims that processes share, or None; ``shared``: the files in it, of this run.
    """

    data_root: Path
    training_cache: Path | None
    plugins: tuple[Path, ...] = ()
    device: str = "cpu"
    files: tuple[tuple[Path, str], ...] = ()
    folder: Path = Path()
    victims: tuple[tuple[str, str], ...] = ()
    stamps: tuple[tuple[Path, str], ...] = ()
    expected: tuple[tuple[VictimSpec, str], ...] = field(default=(), compare=False)
    answers: Path | None = None
    shared: tuple[tuple[VictimSpec, Path], ...] = field(default=(), compare=False)

    def as_they_are(self, tasks: Iterable[Task]) -> WorkerSettings:
        """Return these settings with the present state of the plugin files and of the tasks' victim files."""
        own = OwnVictims.of(self.folder, self.victims)
        specs = dict.fromkeys(task.victim for task in tasks if task.victim.is_reference)
        python = [path for spec in specs if (path := own.python_file(spec)) is not None]
        stamped = dict.fromkeys(path for spec in specs for path in own.files(spec))
        return replace(
            self,
            folder=self.folder.resolve(),
            files=tuple((path.resolve(), file_module(path)) for path in (*self.plugins, *python)),
            stamps=tuple((path.resolve(), stamp(path)) for path in stamped),
        )


def available_cores() -> int:
    """Return the number of cores that this process may use: affinity and a container's quota count."""
    from joblib import cpu_count

    return int(cpu_count())


@cache
def worker_context(settings: WorkerSettings) -> WorkerContext:
    """Return the context of ``settings`` in this process, after registering the plugin files."""
    with guarded_import("an installed plugin"):
        attacks.names(), defenses.names()
    for path in settings.plugins:
        with guarded_import(f"plugin file {path}"):
            attacks.add_file(path)
            defenses.add_file(path)
    for path, name in settings.files:
        if file_module(path) != name:
            raise UsageError(f"{path} has changed since the run started; run the same command again")
    for path, before in settings.stamps:
        if stamp(path) != before:
            raise UsageError(f"{path} has changed since the run started; run the same command again")
    own = OwnVictims.of(settings.folder, settings.victims)
    return WorkerContext(settings.data_root, settings.training_cache, own, dict(settings.shared))


def _check_expected(settings: WorkerSettings, context: WorkerContext, items: Sequence[Item]) -> None:
    """Raise UsageError where a user's victim is another model here than where the run was started."""
    expected = dict(settings.expected)
    for spec in dict.fromkeys(task.victim for task, _ in items):
        if spec in expected and context.victim(spec).fingerprint != expected[spec]:
            raise UsageError(ANOTHER_MODEL.format(spec))


def shared_by_processes(settings: WorkerSettings, context: WorkerContext) -> WorkerSettings:
    """Return settings by which workers get the answers that the user's own victims have given here."""
    if settings.answers is None:
        return settings
    folder, shared = settings.answers.resolve(), []
    for spec, _ in settings.expected:
        # One file for all runs of this process; no other process has one of this name.
        path: Path = context.once(("answers", spec), lambda: folder / f"{secrets.token_hex(8)}.sqlite")
        if not path.exists():
            context.victim(spec).share(path)
        shared.append((spec, path))
    return replace(settings, shared=tuple(shared))


def _can_start_workers() -> bool:
    """Return whether worker processes can be started; they need semaphores, and so a writable /dev/shm."""
    from joblib import effective_n_jobs

    if effective_n_jobs(2) > 1:
        return True
    log.warning("no worker processes can be started on this machine: cells run one after another")
    return False


@dataclass(frozen=True)
class LocalBackend:
    """Runs tasks on this machine, in ``jobs`` worker processes; with ``jobs`` = 1, in this process.

    Also in this process where no others can be started.
    """

    jobs: int

    def records(
        self, todo: Iterable[Item], settings: WorkerSettings, context: WorkerContext
    ) -> Iterator[Record]:
        """Yield a record for each task, in the order in which they finish.

        ``context`` is not used: every process makes its own by :func:`worker_context`.
        """
        if self.jobs == 1 or not _can_start_workers():
            for items in grouped(todo):
                yield from run_group(settings, items)
            return
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky import get_reusable_executor

        with parallel_config(backend="loky", inner_max_num_threads=1):
            pool = Parallel(
                n_jobs=self.jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs"
            )
            job = delayed(partial(_run_in_worker, os.getpid(), str(Path.cwd()), settings))
            finished = pool(job(items) for items in grouped(todo))
            try:
                for records in finished:
                    yield from records
            except BaseException:
                # Without this, workers finish what is dispatched before the command can end.
                get_reusable_executor().shutdown(wait=False, kill_workers=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # joblib says that what was to be cancelled is
                    finished.close()
                raise


def grouped(items: Iterable[Item]) -> list[list[Item]]:
    """Return groups of tasks that run together: the repeats of a cell, and each defense evaluation alone."""
    groups: dict[Task, list[Item]] = {}
    for task, key in items:
        groups.setdefault(replace(task, repeat=0) if isinstance(task, Cell) else task, []).append((task, key))
    return list(groups.values())


def run_group(settings: WorkerSettings, items: Sequence[Item]) -> list[Record]:
    """Run one defense evaluation, or the given repeats of one cell, in this process; return their records.

    An error in a plugin becomes failed records, so that other groups still run; so does ``sys.exit`` in it.
    What plugins changed of the process' settings is undone, and listed as ``undone`` in the records' costs.
    """
    context, first = worker_context(settings), items[0][0]
    _check_expected(settings, context, items)

    def outcomes() -> list[Outcome]:
        if isinstance(first, Cell):
            return list(run_cells(first.group(), context))
        started = time.perf_counter()
        outcome = evaluate_defense(first, context)
        seconds = {EVALUATION: time.perf_counter() - started}
        return [replace(outcome, costs=outcome.costs.with_values(seconds=seconds))]

    return records_of(items, settings.device, outcomes)


class RunStopped(BaseException):  # no plugin may catch it with Exception
    """The whole run has to stop, for a reason that lies in no cell: the ``error`` to tell."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def records_of(items: Sequence[Item], device: str, outcomes: Callable[[], list[Outcome]]) -> list[Record]:
    """Return the records of one group of tasks: of all repeats of a cell, or of a defense evaluation.

    ``outcomes``: runs the whole group; errors as in :func:`run_group`, but RunStopped, which is raised again.
    """
    first = items[0][0]
    with watched_signals(), collected_notes() as notes:
        try:
            with kept_settings("a plugin", "this cell"), single_thread(), on_device(device):
                group: Sequence[Task] = first.group() if isinstance(first, Cell) else [first]
                by_task = dict(zip(group, outcomes(), strict=True))
                records = [_record(item, "ok", by_task[item[0]]) for item in items]
        except NotApplicable as reason:
            records = [_record(item, "not_applicable", error=str(reason)) for item in items]
        except BaseException as error:
            if is_signal(error) or isinstance(error, RunStopped):
                raise
            # Whatever a plugin raises must not stop the others.
            text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            info = Info(traceback=traceback.format_exc())
            if isinstance(error, BrokenClaimError):
                info = info.with_values(broken_claim=error.claim)
            records = failed_records(items, text, info)
    return (
        [replace(each, costs=each.costs.with_values(undone=notes)) for each in records] if notes else records
    )


def failed_records(items: Sequence[Item], error: str, info: Info | None = None) -> list[Record]:
    """Return a record with status "failed" and the message ``error`` for each task."""
    return [_record(item, "failed", Outcome({}, info=info or Info()), error=error) for item in items]


def _run_in_worker(parent: int, folder: str, settings: WorkerSettings, items: Sequence[Item]) -> list[Record]:
    if os.getppid() != parent:
        # The run was killed: nobody waits for the tasks that are still queued.
        os._exit(1)
    # Workers outlive a run; the path of a user's victim is relative to the folder of this run.
    os.chdir(folder)
    return run_group(settings, items)


def _record(
    item: Item,
    status: Status,
    outcome: Outcome | None = None,
    *,
    error: str | None = None,
) -> Record:
    task, key = item
    outcome = outcome or Outcome({})
    try:
        info = _with_declarations(outcome.info, task)
    except UsageError:  # the plugin that is missing is why the task failed
        info = outcome.info
    return Record(key, task, status, outcome.metrics, outcome.arrays, info, outcome.costs, error)


def _with_declarations(info: Info, task: Task) -> Info:
    """Return ``info`` with the plugins' declarations that reports read, so that these need no plugin.

    A cell: its attack's ``knowledge``, whether it is ``universal`` and whether it ``simulates``. A defense
    evaluation: the attacks that each defense of the stack is ``known_by``, by the name of the defense.
    """
    if isinstance(task, Cell):
        attack = attacks.get(parse_call(task.attack)[0])
        declared = {"universal": bool(getattr(attack, "universal", False))}
        if getattr(attack, "simulates", False):
            declared["simulates"] = True
        return info.with_values(attack={"knowledge": list(attack.knowledge), **declared})
    names = [parse_call(text)[0] for text in task.defense]
    return info.with_values(known_by={name: list(defenses.get(name).known_by) for name in names})
