"""The stores that a page is made of, and the line that says where their numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.analysis.claim_records import ClaimSource
from bench.analysis.claim_table import ClaimRun
from bench.errors import UsageError
from bench.report.markdown import code, plain
from bench.store import Store


def stored_runs(stores: Sequence[Path]) -> list[ClaimRun]:
    """Return the runs of stores; raises StoreError for a file that is none, UsageError for one named twice.

    A run is called by its matrix, and where several are of one matrix by its store too.
    """
    for place, path in enumerate(stores):
        if path.resolve() in [other.resolve() for other in stores[:place]]:
            raise UsageError(f"{path} is named twice; name it once")
    runs: list[ClaimRun] = []
    for path in stores:
        with Store(path) as store:
            records, meta = store.records(), store.meta()
        name = meta.matrix or path.stem
        if any(run.name == name for run in runs):
            name = f"{name} ({path})"
        runs.append(ClaimRun(name, records, meta))
    return runs


def source_line(source: ClaimSource) -> str:
    """Return where a run's numbers come from, a line."""
    edited = " with changes that are not committed" if source.dirty else ""
    versions = (f"{name} {version}" for name, version in source.versions.items())
    parts = [
        f"{code(source.run)}: {code(source.command or 'unknown command')}",
        f"commit {source.commit or 'unknown'}{edited}",
        plain(source.machine or "machine unknown"),
        *versions,
    ]
    return ", ".join(parts)
