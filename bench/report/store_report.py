"""Writes the report of a store. Needs neither torch nor ART, so that it starts at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bench.report.page import write_report
from bench.store import Store


def write_store_report(path: Path, out: Path) -> Path:
    """Write the report of the store ``path`` to the folder ``out``; return the path of ``report.md``.

    Raises StoreError for a file that is no store.
    """
    with Store(path) as store:
        records, meta, missing = store.records(), store.meta(), store.missing()
    counts: dict[str, Any] = dict(Counter(record.status for record in records))
    counts["missing"] = len(missing)
    counts["shared"] = sum(bool(record.info.get("shared")) for record in records)
    meta |= {
        "counts": counts,
        # Of a resumed run only the last part is timed, which is not the time of the whole.
        "wall_seconds": meta.get("finished", 0) - meta.get("started", 0)
        if meta.get("ran") == len(records)
        else None,
        "versions": meta.get("packages", {}),
        "missing": missing,
    }
    return write_report(records, meta, out)
