"""Exports a run as one tidy table, a row for each task and metric: Parquet, CSV or JSON.

A version of the schema keeps its columns, their types, meaning and order; more may be added at the end. A
column that is renamed, removed or means something else needs a new version, and the changelog says so.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from bench.analysis.disagreement import disagreement_by_record
from bench.errors import UsageError, shown
from bench.files import write_atomically
from bench.metrics.definitions import find
from bench.metrics.intervals import Interval
from bench.records import Record, victim_name
from bench.tasks import Cell, DefenseEvaluation, Task

SCHEMA_VERSION = 1
SUFFIXES = (".parquet", ".csv", ".json")
KINDS = {Cell.kind: "cell", DefenseEvaluation.kind: "defense evaluation"}
"""What the column ``kind`` calls each kind of task."""
Type = Literal["text", "integer", "number", "boolean"]
_ARROW: dict[Type, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


@dataclass(frozen=True)
class Column:
    """A column of the export. ``unit``: of its values; empty where they have none."""

    name: str
    type: Type
    meaning: str
    unit: str = ""


COLUMNS = (
    Column("schema_version", "integer", "version of these columns"),
    Column("kind", "text", "`cell` (one attack, one repeat) or `defense evaluation` (benign users)"),
    Column("key", "text", "identifies the task; empty for a planned task without a record"),
    Column("status", "text", "`ok`, `failed`, `not_applicable`, or `missing` where there is no record"),
    Column("victim", "text", "name with its splits, and with its seed where that is not 0"),
    Column("data", "text", "the victim's data set, or the reference to the user's own victim"),
    Column("splits", "text", "the victim's splits"),
    Column("victim_seed", "integer", "seed of the victim's training"),
    Column("defense", "text", "the stack, joined by ` + `; `none` without defense"),
    Column("pool", "text", "cells: where the attacker's inputs come from"),
    Column("access", "text", "cells: how close these are to the users' inputs"),
    Column("knowledge", "text", "cells: what the attacker knows of the defense"),
    Column("surrogate", "text", "cells: architecture of the surrogate"),
    Column("shows", "text", "cells: what the API returns"),
    Column("attack", "text", "cells: the attack with its parameters"),
    Column("training", "text", "cells: training configuration of the surrogate"),
    Column("budget", "integer", "cells: the budget", "queries"),
    Column("repeat", "integer", "cells: which repeat this is, from 0"),
    Column("repeats", "integer", "how many repeats there are"),
    Column("seed", "integer", "base seed of the run"),
    Column("confirmation", "boolean", "cells: whether it belongs to the confirmation run"),
    Column("metric", "text", "name of the metric; empty for a task without metrics"),
    Column("value", "number", "its value; empty where it could not be measured", "the row's `unit`"),
    Column("unit", "text", "`fraction`, `difference of fractions`, `nats`, `queries`, or empty"),
    Column("low", "number", "lower end of the 95 % interval, where one is stored", "the row's `unit`"),
    Column("high", "number", "upper end of it", "the row's `unit`"),
    Column("standard_error", "number", "standard error, where one is stored", "the row's `unit`"),
    Column("sent", "integer", "cells: inputs sent to the API", "queries"),
    Column("answered", "integer", "cells: answered ones", "queries"),
    Column("rejected", "integer", "cells: rejected ones", "queries"),
    Column("flagged", "integer", "cells: flagged ones", "queries"),
    Column("warnings", "text", "reliability warnings of the task, joined by `; `"),
    Column("seconds", "number", "wall time of the task, all parts", "s"),
    Column("cpu_seconds", "number", "CPU time of the task, all parts", "s"),
    Column("memory", "number", "peak memory", "MiB"),
    Column("error", "text", "why there is no result"),
)
"""All columns, in order. Text cells of a defense evaluation that only cells have are empty (null)."""
_OF_METRIC = ("metric", "value", "unit", "low", "high", "standard_error")


def schema() -> pa.Schema:
    """Return the Arrow schema, with what each column means, and the version in its metadata."""
    fields = [
        pa.field(column.name, _ARROW[column.type], metadata={"meaning": column.meaning, "unit": column.unit})
        for column in COLUMNS
    ]
    return pa.schema(fields, metadata={"moatbench.schema_version": str(SCHEMA_VERSION)})


def export(records: Sequence[Record], path: Path, missing: Sequence[Task] = ()) -> None:
    """Write all metrics of ``records`` to ``path``, in the format of its suffix, replacing it in one step.

    ``missing``: tasks that were planned and have no record. Raises UsageError for another suffix.
    """
    require_suffix(path)
    write_atomically(path, _encoded(table(records, missing), path.suffix.lower()))


def require_suffix(path: Path) -> None:
    """Raise UsageError if no format goes with the suffix of ``path``."""
    if path.suffix.lower() not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise UsageError(f"the suffix of {shown(str(path))} names no format; end the name with {known}")


def table(records: Sequence[Record], missing: Sequence[Task] = ()) -> pa.Table:
    """Return the rows: by task in the order of the plan, metrics sorted by name, missing tasks last.

    A task without metrics has one row, in which those columns are empty.
    """
    tasks = [*map(_of_record, records), *(_of_task(task) | {"status": "missing"} for task in missing)]
    none: list[dict[str, Any]] = [{}]
    apart = disagreement_by_record(records)
    metrics = [_metrics(record, apart.get(record.key, {})) for record in records] + [none] * len(missing)
    by_task = pa.Table.from_pylist(tasks, _part(metric=False))
    by_metric = pa.Table.from_pylist([row for rows in metrics for row in rows], _part(metric=True))
    owner = pa.array([number for number, rows in enumerate(metrics) for _ in rows], pa.int64())
    by_task = by_task.take(owner)
    columns = [
        (by_metric if column.name in _OF_METRIC else by_task).column(column.name) for column in COLUMNS
    ]
    return pa.table(columns, schema=schema()).combine_chunks()


def _part(*, metric: bool) -> pa.Schema:
    """Return the schema of the columns on a metric, or of those on its task."""
    return pa.schema([field for field in schema() if (field.name in _OF_METRIC) == metric])


def _of_task(task: Task) -> dict[str, Any]:
    """Return the columns that a task itself fills."""
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": KINDS[task.kind],
        "victim": victim_name(task.victim),
        "data": task.victim.data,
        "splits": task.victim.splits,
        "victim_seed": task.victim.seed,
        "defense": " + ".join(text for text in task.defense if text != "none") or "none",
        "repeats": task.repeats,
        "seed": task.seed,
    }
    if isinstance(task, Cell):
        values |= vars(task.threat)
        for name in ("attack", "training", "budget", "repeat", "confirmation"):
            values[name] = getattr(task, name)
    return {name: _utf8(value) for name, value in values.items()}


def _of_record(record: Record) -> dict[str, Any]:
    info, costs = record.info, record.costs
    values: dict[str, Any] = _of_task(record.task) | {
        "key": record.key,
        "status": record.status,
        "warnings": "; ".join(info.flags) or None,
        "seconds": sum(costs.seconds.values()) if costs.seconds else None,
        "cpu_seconds": sum(costs.cpu_seconds.values()) if costs.cpu_seconds else None,
        "memory": costs.memory_mib,
        "error": _utf8(record.error),
    }
    if info.queries is not None:
        values |= {"sent": info.queries.sent, "answered": info.queries.answered}
        values |= {"rejected": info.queries.refused, "flagged": info.queries.flagged}
    return values


def _metrics(record: Record, apart: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """Return the columns on each metric, sorted by name; one empty row for a record without metrics.

    ``apart``: further metrics, of all repeats of the record's cell.
    """
    rows = []
    intervals = record.info.intervals | {name: [each.low, each.high] for name, each in apart.items()}
    values = record.metrics | {name: each.value for name, each in apart.items()}
    for name, value in sorted(values.items()):
        low, high = intervals.get(name) or (None, None)
        error = record.info.errors.get(name)
        row = {"metric": _utf8(name), "value": value, "unit": _unit(name)}
        rows.append(row | {"low": _finite(low), "high": _finite(high), "standard_error": _finite(error)})
    for batch, microseconds in sorted(record.costs.latency_us.items()):
        rows.append({"metric": f"latency.{batch}", "value": _finite(microseconds), "unit": "µs"})
    return rows or [{}]


@cache
def _unit(name: str) -> str:
    unit = find(name).unit
    return {"%": "fraction", "pp": "difference of fractions"}.get(unit, unit)


def _finite(value: float | None) -> float | None:
    """Return the value; None for NaN and infinity, which JSON lacks and which mean that there is none."""
    return value if value is not None and math.isfinite(value) else None


def _utf8(value: Any) -> Any:
    """Return the value; in a text, what has no UTF-8, as in the name of a file, is escaped."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _encoded(rows: pa.Table, suffix: str) -> bytes:
    if suffix == ".json":
        columns = [vars(column) for column in COLUMNS]
        content = {"schema_version": SCHEMA_VERSION, "columns": columns, "rows": rows.to_pylist()}
        return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()
    # Only these need them, and each takes a while to import.
    from pyarrow import csv, parquet

    target = io.BytesIO()
    if suffix == ".csv":
        csv.write_csv(rows, target)
    else:
        parquet.write_table(rows, target, compression="zstd")
    return target.getvalue()
