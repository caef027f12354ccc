"""Reports and exports of a store. Needs neither torch nor ART, so that it starts at once."""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.records import Record
from bench.report.page import first_page, write_report
from bench.run_facts import Meta
from bench.store import Store
from bench.tasks import Task

_FOLDERS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def write_store_report(path: Path, out: Path, options: Mapping[str, Any] | None = None) -> Path:
    """Write the report of the store ``path`` to the folder ``out``; return the path of ``report.md``.

    Beside its pages are ``results.parquet``, all metrics, and ``report.html``, the pages as one file.
    ``options``: fields of :class:`bench.run_facts.ReportOptions` that replace those of the run. Raises
    StoreError for a file that is no store.
    """
    records, meta, missing = _read(path, options)
    from bench.report import export  # the libraries that these load take a while
    from bench.report.html_page import write_html

    written = write_report(records, meta, out, missing)
    export.export(records, out / "results.parquet", missing)
    write_html(out)
    return written


def first_page_of(path: Path, options: Mapping[str, Any] | None = None) -> str:
    """Return the first page of the report of the store ``path``, in Markdown, without drawing its figures.

    ``options``, errors: as in :func:`write_store_report`.
    """
    records, meta, missing = _read(path, options)
    return first_page(records, meta, missing)


def export_store(path: Path, to: Path) -> None:
    """Write all metrics of the store ``path`` to the file ``to``; see :func:`bench.report.export.export`.

    Raises StoreError for a file that is no store, and UsageError for a suffix that names no format.
    """
    from bench.report import export

    records, _, missing = _read(path)
    export.export(records, to, missing)


def default_folder(path: Path) -> Path:
    """Return the folder of the report of the store ``path``: ``results/MATRIX``, as that of a run.

    Raises UsageError where the store does not name a matrix.
    """
    with Store(path) as store:
        matrix = store.meta().matrix
    if not matrix or not _FOLDERS.fullmatch(matrix):
        raise UsageError(f"{path} does not say which matrix it is of; name the report's folder with --out")
    return Path("results") / matrix


def _read(
    path: Path, options: Mapping[str, Any] | None = None
) -> tuple[Sequence[Record], Meta, Sequence[Task]]:
    # Records are many objects that live until the end; looking for garbage among them takes long.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with Store(path) as store:
            records, meta, missing = store.records(), store.meta(), store.missing()
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
    if options:
        meta = meta.model_copy(update={"report": meta.report.with_values(**options)})
    return records, meta, missing
