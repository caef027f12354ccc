"""A run as the user requests it: matrix, store, report, and the provenance that is stored with it."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench import plugins
from bench.cli import provenance
from bench.cli.confirmation import confirmation_cells, most_cells
from bench.cli.failures import UnfinishedError, described, is_of_machine
from bench.cli.outputs import check_outputs
from bench.data import data_files
from bench.errors import StoreError, UsageError
from bench.models.determinism import resolve_device
from bench.plan.matrix import Matrix, load_matrix
from bench.plan.select import select
from bench.plan.study import Study
from bench.plan.study_validation import validated
from bench.records import Record
from bench.report.store_report import write_store_report
from bench.report.terminal import last_lines
from bench.run_facts import Meta, ReportOptions
from bench.runner.local_backend import WorkerSettings, available_cores
from bench.runner.run import Backend
from bench.runner.run import run as run_tasks
from bench.store import Store
from bench.tasks import Cell, Task

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Wraps the stream of records; see :func:`bench.runner.run.run`.

    ``later``: how many tasks may follow at most, which depends on the results.
    """

    def __call__(
        self, records: Iterable[Record], done: int, total: int, *, later: int = 0
    ) -> Iterable[Record]:
        """Return the records, after showing how many of ``total`` are done."""


@dataclass(frozen=True)
class Session:
    """A matrix with the tasks to run, and the files that it reads and writes."""

    matrix: Matrix
    tasks: Sequence[Task]
    store: Path
    out: Path
    settings: WorkerSettings
    study: Study | None = None
    part: bool = False
    """Whether some cells of the matrix were left out, so that nothing can be recommended."""

    @classmethod
    def of(
        cls,
        name: str,
        *,
        store: Path | None,
        out: Path | None,
        only: Sequence[str],
        repeats: int | None,
        victim: str | None,
        data_root: Path | None,
        device: str = "cpu",
    ) -> Session:
        """Read and expand the matrix; raises UsageError before anything is written."""
        return cls.of_matrix(
            load_matrix(name),
            store=store,
            out=out,
            only=only,
            repeats=repeats,
            victim=victim,
            data_root=data_root,
            device=device,
        )

    @classmethod
    def of_matrix(
        cls,
        matrix: Matrix,
        *,
        store: Path | None = None,
        out: Path | None = None,
        only: Sequence[str] = (),
        repeats: int | None = None,
        victim: str | None = None,
        data_root: Path | None = None,
        device: str = "cpu",
    ) -> Session:
        """Expand a matrix; raises UsageError before anything is written."""
        everything = matrix.tasks(victim, repeats, data_root)
        study, tasks = validated(matrix, everything), select(everything, only)
        home = Path("results") / matrix.name
        store = store or home / "store.sqlite"
        settings = WorkerSettings(
            data_root=data_files.data_root(data_root),
            training_cache=store.parent / f"{store.stem}.memo",
            answers=store.parent / f"{store.stem}.answers",
            plugins=tuple(matrix.plugin_files),
            device=resolve_device(device),
            folder=Path() if victim else matrix.folder,
            victims=tuple((name, each.model_dump_json()) for name, each in matrix.victims.items()),
        )
        return cls(matrix, tasks, store, out or home, settings, study, part=bool(only))

    def run(
        self,
        *,
        jobs: int,
        fresh: bool,
        command: str,
        cluster: str | None = None,
        progress: Progress,
    ) -> tuple[Counter[str], list[str]]:
        """Run the remaining tasks, confirm the best defenses, and write the report.

        Returns counts by status, and what to say at the end; the report's path comes last. Raises UsageError
        if store or report cannot be written, before anything runs, and UnfinishedError if the machine fails
        after that.
        """
        check_outputs(
            files={"--store": self.store, "the report": self.out / "report.md"}, folders={"--out": self.out}
        )
        backend = None if cluster is None else _dask_backend(cluster)
        with Store(self.store, create=True) as store:
            _require_no_campaign(store)
            before = _facts(store)
            store.set_meta(
                Meta(
                    matrix=self.matrix.name,
                    matrix_text=self.matrix.text,
                    description=self.matrix.description,
                    reference_budget=self.matrix.budgets_by_data,
                    sentinels=self.matrix.sentinels,
                    report=ReportOptions(**self.matrix.report.model_dump()),
                    study=self.study.model_dump() if self.study else None,
                    command=command,
                    machine=provenance.machine(),
                    packages=provenance.installed_versions(),
                    attacks=sorted(plugins.attacks.names()),
                    defenses=sorted(plugins.defenses.names()),
                    **provenance.commit(),
                )
            )
            try:
                with stored_if_stopped(progress) as watched:
                    execute = partial(run_tasks, store=store, settings=self.settings, backend=backend)
                    jobs = jobs or available_cores()
                    first, earlier = partial(watched, later=self.later()), store.meta().started
                    counts = execute(self.tasks, jobs=jobs, fresh=fresh, progress=first)
                    if fresh_cells := self.confirmation(store):
                        part = store.meta()
                        counts = execute([*self.tasks, *fresh_cells], jobs=jobs, progress=watched)
                        whole = store.meta()
                        if earlier != part.started != whole.started:
                            # Both parts ran now: one run, which began with the first.
                            ran = (part.ran or 0) + (whole.ran or 0)
                            store.set_meta(Meta(started=part.started, ran=ran))
            finally:
                if self.settings.answers is not None:
                    shutil.rmtree(self.settings.answers, ignore_errors=True)  # they serve one run
            if before.started is not None and store.meta().started == before.started:
                # Nothing ran: the results are still those of the code and the machine of before.
                made_by = ("command", "machine", "packages", "commit", "dirty")
                known = {name: value for name, value in before.values().items() if name in made_by}
                store.set_meta(Meta().with_values(**known))
            try:
                # While no other run can change the plan.
                report = write_store_report(self.store, self.out)
                if self.part or not self.matrix.report.confirm:
                    return counts, [str(report)]
                return counts, last_lines(store.records(), store.meta(), report)
            except OSError as error:
                raise UsageError(
                    f"the results are stored, but the report cannot be written ({described(error)}); "
                    f"moatbench report {shlex.quote(str(self.store))} --out DIR writes it to another folder"
                ) from error

    def later(self) -> int:
        """Return how many cells a confirmation run may have at most; 0 without one."""
        repeats = self.matrix.report.confirm
        if repeats and self.part:
            log.info("with --only nothing is confirmed, and so nothing recommended")
            return 0
        return most_cells(self.matrix, self.tasks, repeats)

    def confirmation(self, store: Store) -> list[Cell]:
        """Return the cells of the confirmation run, after all other tasks are finished."""
        if self.part or not self.matrix.report.confirm or store.missing():
            return []
        chosen, cells = confirmation_cells(self.tasks, store.records(), store.meta(), self.matrix.seed)
        for each in chosen:
            names = ", ".join(" + ".join(defense) for defense in each.defenses)
            log.info(
                "confirmation run: %s with %d fresh repeats against %s",
                each.threat.victim,
                self.matrix.report.confirm,
                names,
            )
        if not cells:
            log.info("no defense is promising enough for a confirmation run")
        return cells


def _facts(store: Store) -> Meta:
    """Return the facts about earlier runs; none where they are damaged, since they are written anew."""
    with suppress(StoreError):
        return store.meta()
    return Meta()


def _require_no_campaign(store: Store) -> None:
    """Raise UsageError for the store of a live target, whose report a matrix would spoil."""
    with suppress(StoreError):  # what is damaged is written anew
        if store.meta().campaign is None:
            return
        raise UsageError(
            f"{store.path} holds what moatbench target attack bought; name another store with --store"
        )


@contextmanager
def stored_if_stopped(progress: Progress) -> Iterator[Progress]:
    """Yield ``progress``; raises UnfinishedError if the machine stops the block after it was called."""
    begun = False

    def watched(records: Iterable[Record], done: int, total: int, *, later: int = 0) -> Iterable[Record]:
        nonlocal begun
        begun = True
        return progress(records, done, total, later=later)

    try:
        yield watched
    except BrokenExecutor as error:
        raise UnfinishedError(
            "a worker process ended, perhaps for lack of memory; finished cells are stored; "
            f"run the same command again, or with fewer --jobs ({error})"
        ) from error
    except (StoreError, OSError) as error:
        if not begun or (isinstance(error, OSError) and not is_of_machine(error)):
            raise
        reason = described(error) if isinstance(error, OSError) else str(error)
        raise UnfinishedError(
            f"the run stopped: {reason}; finished cells are stored; run the same command to go on"
        ) from error


def _dask_backend(address: str) -> Backend:
    """Return the backend that runs tasks on a Dask scheduler's workers; raises UsageError without Dask."""
    try:
        from bench.runner.dask_backend import DaskBackend
    except ImportError as error:
        raise UsageError("a Dask cluster needs pip install 'moatbench[dask]'") from error
    backend = DaskBackend(address)
    backend.check()
    return backend
