"""Writes the report of a store. Needs neither torch nor ART, so that it starts at once."""

from __future__ import annotations

from pathlib import Path

from bench.report.page import write_report
from bench.store import Store


def write_store_report(path: Path, out: Path) -> Path:
    """Write the report of the store ``path`` to the folder ``out``; return the path of ``report.md``.

    Raises StoreError for a file that is no store.
    """
    with Store(path) as store:
        records, meta, missing = store.records(), store.meta(), store.missing()
    return write_report(records, meta, out, missing)
