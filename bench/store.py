"""Results on disk: one SQLite file a run, written by the parent process, one transaction a record."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.errors import StoreError
from bench.records import PlannedTask, Record, task_of

SCHEMA = 1
"""Version of the tables below. Stores of older versions are read, of newer ones rejected."""
APPLICATION = 0x6D6F6174  # "moat": marks a database as a store
TABLES = """
create table meta (name text primary key, value text not null);
create table plan (
    place integer primary key, key text not null unique, kind text not null, spec text not null
);
create table records (
    key text primary key, kind text not null, spec text not null, status text not null,
    metrics text not null, info text not null, error text
);
create table arrays (
    key text not null references records (key) on delete cascade, name text not null,
    size integer not null, bits blob not null, primary key (key, name)
);
"""


class Store:
    """An open store. Use as a context manager; every :meth:`put` is durable when it returns."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open ``path``; ``create``: create it if it does not exist.

        Raises StoreError, without changing the file, if it is not a store, is corrupt, or is newer.
        """
        self.path = path
        fresh = not path.exists()
        if fresh and not create:
            raise StoreError(f"no store at {path}; moatbench run creates one")
        if not fresh:
            self._recognise(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute("pragma foreign_keys = on")
        if fresh:
            self._db.executescript(
                f"begin; pragma application_id = {APPLICATION}; pragma user_version = {SCHEMA};"
                f"{TABLES} commit;"
            )

    @staticmethod
    def _recognise(path: Path) -> None:
        try:
            # Read-only: another program's file must not be changed.
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                application = db.execute("pragma application_id").fetchone()[0]
                version = db.execute("pragma user_version").fetchone()[0]
                check = db.execute("pragma quick_check").fetchone()[0] if application == APPLICATION else ""
            finally:
                db.close()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is not a moatbench store ({error}); name another file") from error
        if application != APPLICATION:
            raise StoreError(f"{path} is not a moatbench store; name another file")
        if version > SCHEMA:
            raise StoreError(
                f"{path} was written by a newer moatbench (schema {version} > {SCHEMA}); upgrade"
            )
        if check != "ok":
            raise StoreError(f"{path} is corrupt ({check}); move it away and run again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def set_meta(self, **values: Any) -> None:
        """Store facts about the run, by name; values must be JSON."""
        self._db.execute("begin")
        for name, value in values.items():
            self._db.execute("insert or replace into meta values (?, ?)", (name, json.dumps(value)))
        self._db.execute("commit")

    def meta(self) -> dict[str, Any]:
        """Return the facts about the run."""
        return {name: json.loads(value) for name, value in self._db.execute("select name, value from meta")}

    def set_plan(self, plan: Iterable[PlannedTask]) -> None:
        """Store every task of this run, in order, in place of the last run's."""
        self._keep_ingredients()
        self._db.execute("begin")
        self._db.execute("delete from plan")
        self._db.executemany(
            "insert into plan (key, kind, spec, ingredients) values (?, ?, ?, ?)",
            [
                (
                    each.key,
                    each.task.kind,
                    json.dumps(each.task.spec()),
                    json.dumps(dict(each.ingredients), sort_keys=True),
                )
                for each in plan
            ],
        )
        self._db.execute("commit")

    def stored(self) -> list[PlannedTask]:
        """Return the tasks of all records, those of earlier plans included, with their ingredients."""
        self._keep_ingredients()
        rows = self._db.execute("select key, kind, spec, ingredients from records order by key")
        return [
            PlannedTask(key, task_of(kind, json.loads(spec)), json.loads(ingredients))
            for key, kind, spec, ingredients in rows
        ]

    def _keep_ingredients(self) -> None:
        """Add the columns of ingredients to a store that was written without."""
        for table in ("plan", "records"):
            columns = {row[1] for row in self._db.execute(f"pragma table_info({table})")}
            if "ingredients" not in columns:
                self._db.execute(f"alter table {table} add column ingredients text not null default '{{}}'")

    def done(self) -> set[str]:
        """Return the keys of the records that did not fail."""
        rows = self._db.execute("select key from records where status != 'failed'")
        return {key for (key,) in rows}

    def counts(self) -> Counter[str]:
        """Return the number of tasks of the last run's plan by status."""
        rows = self._db.execute(
            "select r.status, count(*) from plan p join records r on r.key = p.key group by r.status"
        )
        return Counter(dict(rows))

    def missing(self) -> list[dict[str, Any]]:
        """Return the specs of the last run's plan that have no record."""
        rows = self._db.execute(
            "select spec from plan where key not in (select key from records) order by place"
        )
        return [json.loads(spec) for (spec,) in rows]

    def put(self, record: Record) -> None:
        """Write a record, with the ingredients that the plan has of it; it replaces one of the same key."""
        self._keep_ingredients()
        self._db.execute("begin")
        self._db.execute("delete from records where key = ?", (record.key,))
        self._db.execute(
            "insert into records (key, kind, spec, status, metrics, info, error, ingredients) "
            "values (?, ?, ?, ?, ?, ?, ?, coalesce((select ingredients from plan where key = ?), '{}'))",
            (
                record.key,
                record.kind,
                json.dumps(record.spec),
                record.status,
                json.dumps(record.metrics),
                json.dumps(record.info),
                record.error,
                record.key,
            ),
        )
        for name, values in record.arrays.items():
            self._db.execute(
                "insert into arrays values (?, ?, ?, ?)",
                (record.key, name, values.size, np.packbits(values).tobytes()),
            )
        self._db.execute("commit")

    def clear(self) -> None:
        """Delete every record."""
        self._db.executescript("begin; delete from arrays; delete from records; commit;")

    def records(self) -> Sequence[Record]:
        """Return the records of the last run's plan, in its order."""
        arrays: dict[str, dict[str, NDArray[np.uint8]]] = {}
        for key, name, size, bits in self._db.execute("select key, name, size, bits from arrays"):
            unpacked = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=size)
            arrays.setdefault(key, {})[name] = unpacked
        rows = self._db.execute(
            "select r.key, r.kind, r.spec, r.status, r.metrics, r.info, r.error "
            "from plan p join records r on r.key = p.key order by p.place"
        )
        return [
            Record(
                key,
                kind,
                json.loads(spec),
                status,
                # Older stores may hold NaN, which no comparison notices: it was not measured.
                json.loads(metrics, parse_constant=lambda _: None),
                arrays.get(key, {}),
                json.loads(info),
                error,
            )
            for key, kind, spec, status, metrics, info, error in rows
        ]
