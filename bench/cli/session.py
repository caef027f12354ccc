"""A run as the user requests it: matrix, store, report, and the provenance that is stored with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import provenance
from bench.data import data_files
from bench.errors import UsageError
from bench.models.determinism import resolve_device
from bench.plan.matrix import Matrix, load_matrix
from bench.plan.select import select
from bench.plan.study import Study
from bench.plan.study_validation import validated
from bench.records import Record
from bench.report.store_report import write_store_report
from bench.runner.local_backend import WorkerSettings
from bench.runner.run import Backend
from bench.runner.run import run as run_tasks
from bench.store import Store
from bench.tasks import Task


@dataclass(frozen=True)
class Session:
    """A matrix with the tasks to run, and the files that it reads and writes."""

    matrix: Matrix
    tasks: Sequence[Task]
    store: Path
    out: Path
    settings: WorkerSettings
    study: Study | None = None

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
        matrix = load_matrix(name)
        everything = matrix.tasks(victim, repeats, data_root)
        study, tasks = validated(matrix, everything), select(everything, only)
        home = Path("results") / matrix.name
        store = store or home / "store.sqlite"
        settings = WorkerSettings(
            data_root=data_files.data_root(data_root),
            training_cache=store.parent / f"{store.stem}.memo",
            plugins=tuple(matrix.plugin_files),
            device=resolve_device(device),
        )
        return cls(matrix, tasks, store, out or home, settings, study)

    def run(
        self,
        *,
        jobs: int,
        fresh: bool,
        command: str,
        cluster: str | None = None,
        progress: Callable[[Iterable[Record], int, int], Iterable[Record]],
    ) -> tuple[Counter[str], Path]:
        """Run the remaining tasks and write the report; return counts by status, and the report's path."""
        with Store(self.store, create=True) as store:
            store.set_meta(
                matrix=self.matrix.name,
                matrix_text=self.matrix.text,
                description=self.matrix.description,
                reference_budget=self.matrix.reference_budget,
                sentinels=self.matrix.sentinels,
                study=self.study.model_dump() if self.study else None,
                command=command,
                machine=provenance.machine(),
                packages=provenance.versions(),
                **provenance.commit(),
            )
            counts = run_tasks(
                self.tasks,
                store,
                self.settings,
                jobs=jobs or len(os.sched_getaffinity(0)),
                fresh=fresh,
                backend=_dask_backend(cluster) if cluster else None,
                progress=progress,
            )
        return counts, write_store_report(self.store, self.out)


def _dask_backend(address: str) -> Backend:
    """Return the backend that runs tasks on a Dask scheduler's workers; raises UsageError without Dask."""
    try:
        from bench.runner.dask_backend import DaskBackend
    except ImportError as error:
        raise UsageError("a Dask cluster needs pip install 'moatbench[dask]'") from error
    return DaskBackend(address)
