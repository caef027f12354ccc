"""One run as a user asks for it: matrix, store, report, and the facts that trace every number."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.data import datasets
from bench.errors import UsageError
from bench.models.determinism import found_device
from bench.plan.matrix import Matrix, load_matrix, select
from bench.plan.study import Study
from bench.plan.study_validation import bound
from bench.runner import run as execute
from bench.store import Record, Store
from bench.tasks import Task

PACKAGES = (
    "moatbench",
    "adversarial-robustness-toolbox",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
)


@dataclass(frozen=True)
class Session:
    """A matrix with the places it reads from and writes to."""

    matrix: Matrix
    tasks: Sequence[Task]
    store: Path
    out: Path
    setting: execute.Setting
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
        study, tasks = bound(matrix, everything), select(everything, only)
        home = Path("results") / matrix.name
        store = store or home / "store.sqlite"
        setting = execute.Setting(
            data_root=datasets.data_root(data_root),
            training_cache=store.parent / f"{store.stem}.memo",
            plugins=tuple(matrix.plugin_files),
            device=found_device(device),
        )
        return cls(matrix, tasks, store, out or home, setting, study)

    def run(
        self,
        *,
        jobs: int,
        fresh: bool,
        command: str,
        cluster: str | None = None,
        progress: Callable[[Iterable[Record], int, int], Iterable[Record]],
    ) -> tuple[Counter[str], Path]:
        """Run what is left, write the report; return the tally and the report's path."""
        with Store(self.store, create=True) as store:
            store.set_meta(
                matrix=self.matrix.name,
                matrix_text=self.matrix.text,
                description=self.matrix.description,
                reference_budget=self.matrix.reference_budget,
                sentinels=self.matrix.sentinels,
                study=self.study.model_dump() if self.study else None,
                command=command,
                machine=machine(),
                packages={name: metadata.version(name) for name in PACKAGES},
                **commit(),
            )
            counts = execute.run(
                self.tasks,
                store,
                self.setting,
                jobs=jobs or len(os.sched_getaffinity(0)),
                fresh=fresh,
                elsewhere=_workers(cluster) if cluster else None,
                progress=progress,
            )
        return counts, report(self.store, self.out)


def _workers(address: str) -> execute.Backend:
    """Return what hands tasks to the workers of a Dask scheduler; raises UsageError without the extra."""
    try:
        from bench.runner import dask_backend as cluster
    except ImportError as error:
        raise UsageError("a Dask cluster needs pip install 'moatbench[dask]'") from error
    return partial(cluster.work, address=address)


def report(path: Path, out: Path) -> Path:
    """Write the report of a store to a folder; return the path of its Markdown file."""
    from bench.report.page import write_report  # matplotlib and pandas take a second to import

    with Store(path) as store:
        records, meta, missing = store.records(), store.meta(), store.missing()
    counts: dict[str, Any] = dict(Counter(record.status for record in records))
    counts["missing"] = len(missing)
    counts["shared"] = sum(bool(record.info.get("shared")) for record in records)
    meta |= {
        "counts": counts,
        # Of a run in several sittings only the last is timed, which says nothing about the whole.
        "wall_seconds": meta.get("finished", 0) - meta.get("started", 0)
        if meta.get("ran") == len(records)
        else None,
        "versions": meta.get("packages", {}),
        "missing": missing,
    }
    return write_report(records, meta, out)


def machine() -> dict[str, Any]:
    """Return what kind of machine this is: no names, no paths."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory": f"{pages / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> dict[str, Any]:
    """Return the commit of the checkout that this code runs from, and whether it has been edited."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    here = git("ls-files", "--error-unmatch", Path(__file__).name)
    if not here:
        return {"commit": None, "dirty": None}
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
