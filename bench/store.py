"""Results on disk: one SQLite file a run, written by the parent process, one transaction a record.

Everything that is read back is compared with its checksum at first use. A record that does not match is named
in the log and counts as missing, so that the next run makes it again. Facts on the run or a plan that do not
match are an error for readers; a run writes both anew.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pydantic
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray

from bench.errors import StoreError
from bench.files import replacement
from bench.records import Arrays, Costs, Info, Metrics, PlannedTask, Record, Typed, task_of
from bench.run_facts import Meta
from bench.tasks import Task

log = logging.getLogger(__name__)

SCHEMA = 2
"""Version of the tables below. Stores of version 1 are read, and brought to this one by a run."""
APPLICATION = 0x6D6F6174  # "moat": marks a database as a store

# No index and no key but the row's number: every read is of the whole table, so that a damaged index cannot
# lead to another record.
TABLES = {
    "facts": "CREATE TABLE facts (name text not null, value text not null, checksum blob not null)",
    "plan": (
        "CREATE TABLE plan (place integer primary key, key text not null, kind text not null, "
        "spec text not null, ingredients text not null)"
    ),
    "records": (
        "CREATE TABLE records (number integer primary key, key text not null, kind text not null, "
        "spec text not null, ingredients text not null, status text not null, metrics text not null, "
        "info text not null, costs text not null, error text, sizes text not null, bits blob not null, "
        "checksum blob not null)"
    ),
}
# ``bits`` are the arrays, packed, in the order of ``sizes``.
READ = (
    "select number, key, kind, spec, ingredients, status, metrics, info, costs, error, sizes, bits, checksum "
    "from records"
)
WRITE = (
    "insert into records "
    "(key, kind, spec, ingredients, status, metrics, info, costs, error, sizes, bits, checksum) "
    "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
RUN, PLAN, WRITER = "run", "plan", "writer"
"""Names of facts: on the run, the checksum of the plan, and who has the store open for writing."""
WHOLE = ":bytes"
"""How the stored names of arrays end that have a byte for each value; the others have a bit."""
_METRICS: pydantic.TypeAdapter[Metrics] = pydantic.TypeAdapter(dict[str, int | float | None])
_TEXTS = pydantic.TypeAdapter(dict[str, str])
_SIZES = pydantic.TypeAdapter(dict[str, pydantic.NonNegativeInt])

Cells = tuple[Any, ...]
"""The columns of a record; texts as bytes, which may be no UTF-8 where a bit has flipped."""


class Writer(Typed):
    """Who has a store open for writing. ``since``: seconds since 1970."""

    pid: int
    host: str
    command: str
    since: float

    def __str__(self) -> str:
        moment = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"process {self.pid} on {self.host} since {moment}: {self.command}"


@dataclass(frozen=True)
class _Planned:
    """A row of the plan, or those columns of a record."""

    key: str
    kind: str
    spec: str | bytes
    ingredients: str | bytes

    def task(self) -> Task:
        return task_of(self.kind, json.loads(self.spec))


@dataclass(frozen=True)
class _Known(_Planned):
    """What is kept in memory of a record that matches its checksum."""

    status: str
    number: int

    def planned(self) -> PlannedTask:
        return PlannedTask(self.key, self.task(), _TEXTS.validate_json(self.ingredients))


class Store:
    """An open store. Use as a context manager; every :meth:`put` is durable when it returns."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open ``path`` for reading; ``create``: for writing, and create it if it does not exist.

        One process at a time can have a store open for writing; others can read it meanwhile. Raises
        StoreError, without changing the file, if it is not a store, is corrupt or newer, cannot be read or
        written by this user, or is being written by another process.
        """
        self.path = path
        self._lock: BaseFileLock | None = None
        self._records: dict[str, _Known] | None = None
        self._planned: Sequence[_Planned] | None = None
        self._ingredients: dict[str, str | bytes] = {}
        fresh = not os.path.lexists(path)
        if fresh and not create:
            raise StoreError(f"no store at {path}; moatbench run creates one")
        if not fresh:
            _require_access(path, write=create)
            self.schema = self._recognised()
        if create:
            self._lock = _locked(path)
        try:
            with self._errors():
                self._open(write=create)
        except BaseException:
            self.close()
            raise

    def _open(self, *, write: bool) -> None:
        if write and not self.path.exists():
            # In one step: a file that a killed run left behind must not be taken for another program's.
            with replacement(self.path) as part:
                self._db = _connected(part, write=True)
                with self._transaction():
                    self._make_tables()
                self._db.close()
        self._db = _connected(self.path, write=write)
        if not write:
            # One snapshot for everything that is read, while a run may go on writing.
            self._db.execute("begin")
            return
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        # Now that this is the only writer: another one may have made or upgraded it since.
        (self.schema,) = self._db.execute("pragma user_version").fetchone()
        if self.schema < SCHEMA:
            self._upgrade()
        writer = Writer(pid=os.getpid(), host=socket.gethostname(), command=_command(), since=_now())
        with self._transaction():
            self._write_fact(WRITER, writer.as_json())

    def _make_tables(self) -> None:
        self._db.execute(f"pragma application_id = {APPLICATION}")
        self._db.execute(f"pragma user_version = {SCHEMA}")
        for table in TABLES.values():
            self._db.execute(table)

    def _recognised(self) -> int:
        """Return the version of an existing store's tables; the file is not changed."""
        path = self.path
        try:
            db = _connected(path, write=False)
            try:
                (application,) = db.execute("pragma application_id").fetchone()
                (version,) = db.execute("pragma user_version").fetchone()
                found = dict(
                    db.execute("select name, sql from sqlite_master where type = 'table'").fetchall()
                )
                check = db.execute("pragma quick_check").fetchone()[0] if application == APPLICATION else b""
            finally:
                db.close()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # The latter where a damaged table's name, which SQLite's message quotes, is no UTF-8.
            if "unable to open" in str(error):
                raise StoreError(f"{path} cannot be opened ({error}): {_unopened(path)}") from error
            raise StoreError(f"{path} is not a moatbench store ({error}); name another file") from error
        if application != APPLICATION:
            raise StoreError(f"{path} is not a moatbench store; name another file")
        if version > SCHEMA:
            raise StoreError(
                f"{path} was written by a newer moatbench (schema {version} > {SCHEMA}); upgrade"
            )
        if check == b"ok" and version < 1:
            check = f"schema {version}".encode()
        if check == b"ok" and version == SCHEMA:
            wrong = [name for name, sql in TABLES.items() if found.get(name.encode()) != sql.encode()]
            check = f"table {wrong[0]} is damaged".encode() if wrong else check
        if check != b"ok":
            reason = check.decode(errors="replace").replace("\n", " ")
            raise StoreError(f"{path} is corrupt ({reason}); move it away and run again")
        return int(version)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; as one file, which needs no other beside it, where nobody reads it now."""
        db = getattr(self, "_db", None)
        if db is not None:
            if self._lock is not None:
                with suppress(sqlite3.Error):
                    db.execute("delete from facts where name = ?", (WRITER,))
                    db.execute("pragma busy_timeout = 0")
                    db.execute("pragma journal_mode = delete")
            db.close()
        if self._lock is not None:
            with suppress(OSError):
                # While it is held: who opened the file before sees that it has no name any more.
                Path(self._lock.lock_file).unlink()
            self._lock.release()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of SQLite into a StoreError in one sentence."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            reason = str(error).replace("\n", " ")
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{self.path} cannot be read or written ({reason})") from error
            raise StoreError(f"{self.path} is corrupt ({reason}); move it away and run again") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    # Facts on the run.

    def set_meta(self, meta: Meta) -> None:
        """Store the facts that are set in ``meta``; others stay as they are."""
        with self._transaction():
            known = self._fact(RUN)
            values: dict[str, Any] = {}
            if known is not None:
                with suppress(StoreError):  # what is damaged is written anew
                    values = self._meta(known).values()
            self._write_fact(RUN, json.dumps(values | meta.values()))

    def meta(self) -> Meta:
        """Return the facts about the run; raises StoreError if they are damaged."""
        if self.schema == 1:
            return self._old_meta()
        known = self._fact(RUN)
        if known is None and self._fact(PLAN) is not None:
            raise self._damaged("the facts on its run are missing")
        return Meta() if known is None else self._meta(known)

    def _meta(self, known: tuple[bytes, bool]) -> Meta:
        value, matches = known
        if matches:
            with suppress(ValueError):
                return Meta.model_validate_json(value)
        raise self._damaged("the facts on its run do not match their checksum")

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.path} is damaged ({what}); run the same matrix on it again, which mends it")

    def _fact(self, name: str) -> tuple[bytes, bool] | None:
        """Return a fact, and whether it matches its checksum; None if there is none."""
        with self._errors():
            rows = self._db.execute("select name, value, checksum from facts").fetchall()
        found = [row for row in rows if row[0] == name.encode()]
        if not found:
            return None
        (known, value, checksum), *others = found
        return value, not others and checksum == _checksum(known, value)

    def _write_fact(self, name: str, value: str) -> None:
        self._db.execute("delete from facts where name = ?", (name,))
        self._db.execute("insert into facts values (?, ?, ?)", (name, value, _checksum(name, value)))

    # The plan.

    def set_plan(self, plan: Iterable[PlannedTask]) -> None:
        """Store every task of this run, in order, in place of the last run's."""
        rows = [
            (place, each.key, each.task.kind, json.dumps(each.task.spec()), _json(each.ingredients))
            for place, each in enumerate(plan)
        ]
        with self._transaction():
            self._db.execute("delete from plan")
            self._db.executemany("insert into plan values (?, ?, ?, ?, ?)", rows)
            self._write_fact(PLAN, _checksum_of_plan(rows))
        self._planned = [_Planned(*row[1:]) for row in rows]
        self._ingredients = {each.key: each.ingredients for each in self._planned}

    def _plan(self) -> Sequence[_Planned]:
        """Return the last run's plan; raises StoreError if it is damaged."""
        if self._planned is None:
            self._planned = self._read_plan()
        return self._planned

    def _read_plan(self) -> list[_Planned]:
        with self._errors():
            if self.schema == 1:
                rows = self._db.execute(
                    "select place, key, kind, spec, '{}' from plan order by place"
                ).fetchall()
            else:
                rows = self._db.execute(
                    "select place, key, kind, spec, ingredients from plan order by place"
                ).fetchall()
        if self.schema > 1:
            known = self._fact(PLAN)
            if known is None and not rows:
                return []
            if known is None or not known[1] or known[0] != _checksum_of_plan(rows).encode():
                raise self._damaged("its plan does not match its checksum")
        try:
            return [_Planned(key.decode(), kind.decode(), spec, texts) for _, key, kind, spec, texts in rows]
        except (ValueError, AttributeError) as error:
            raise self._damaged(f"its plan cannot be read: {_line(error)}") from error

    # Records.

    def done(self) -> set[str]:
        """Return the keys of the records that did not fail."""
        return {key for key, known in self._known().items() if known.status != "failed"}

    def stored(self) -> list[PlannedTask]:
        """Return the tasks of all records, those of earlier plans included, with their ingredients."""
        return [known.planned() for _, known in sorted(self._known().items())]

    def counts(self) -> Counter[str]:
        """Return the number of tasks of the last run's plan by status."""
        known = self._known()
        return Counter(known[each.key].status for each in self._plan() if each.key in known)

    def missing(self) -> list[Task]:
        """Return the tasks of the last run's plan that have no record."""
        known = self._known()
        try:
            return [each.task() for each in self._plan() if each.key not in known]
        except ValueError as error:
            raise self._damaged(f"its plan cannot be read: {_line(error)}") from error

    def put(self, record: Record) -> None:
        """Write a record, with the ingredients that the plan has of it; it replaces one of the same key."""
        cells = _cells(record, self._ingredients.get(record.key, "{}"))
        known = self._known()
        with self._transaction():
            if record.key in known:
                self._db.execute("delete from records where number = ?", (known[record.key].number,))
            number = self._insert(cells)
        known[record.key] = _of_cells(number, cells)

    def _insert(self, cells: Cells) -> int:
        return int(self._db.execute(WRITE, (*cells, _checksum(*cells))).lastrowid or 0)

    def clear(self) -> None:
        """Delete every record."""
        with self._transaction():
            self._db.execute("delete from records")
        self._records = {}

    def records(self) -> Sequence[Record]:
        """Return the records of the last run's plan, in its order; a damaged one is not among them."""
        planned = [each.key for each in self._plan()]
        wanted, found, known = set(planned), {}, {}
        for number, cells in self._rows():
            key = cells[0].decode()
            known[key] = _of_cells(number, cells)
            if key in wanted:
                try:
                    found[key] = _record(cells)
                except (ValueError, TypeError, AttributeError) as error:
                    raise self._damaged(f"the record of {_title(cells)}: {_line(error)}") from error
        self._records = known
        return [found[key] for key in planned if key in found]

    def _known(self) -> dict[str, _Known]:
        """Return all records that match their checksum, by key; a run deletes the others."""
        if self._records is None:
            self._records = {cells[0].decode(): _of_cells(number, cells) for number, cells in self._rows()}
        return self._records

    def _rows(self) -> Iterator[tuple[int, Cells]]:
        """Yield number and columns of every record that matches its checksum; name the others in the log."""
        damaged, seen = [], set()
        with self._errors():
            rows = self._old_rows() if self.schema == 1 else self._checked_rows()
            for number, cells, good in rows:
                if good and cells[0] not in seen:
                    seen.add(cells[0])
                    yield number, cells
                else:
                    damaged.append((number, cells))
        for _, cells in damaged:
            log.warning(
                "%s: the record of %s is damaged; moatbench run makes it again", self.path, _title(cells)
            )
        if damaged and self._lock is not None:
            with self._transaction():
                self._db.executemany("delete from records where number = ?", [(n,) for n, _ in damaged])

    def _checked_rows(self) -> Iterator[tuple[int, Cells, bool]]:
        for number, *cells, checksum in self._db.execute(READ):
            yield number, tuple(cells), checksum == _checksum(*cells)

    # Stores of schema 1: a row a fact, arrays in a table of their own, costs among the info, no checksums.

    def _old_meta(self) -> Meta:
        with self._errors():
            rows = self._db.execute("select name, value from meta").fetchall()
        try:
            return Meta.model_validate({name.decode(): json.loads(value) for name, value in rows})
        except ValueError as error:
            raise self._damaged(f"the facts on its run cannot be read: {_line(error)}") from error

    def _old_rows(self) -> Iterator[tuple[int, Cells, bool]]:
        arrays: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        for key, name, size, bits in self._db.execute("select key, name, size, bits from arrays"):
            arrays.setdefault(key, {})[name] = size, bits
        for number, key, kind, spec, status, metrics, info, error in self._db.execute(
            "select rowid, key, kind, spec, status, metrics, info, error from records"
        ):
            own = arrays.get(key, {})
            cells: Cells = (key, kind, spec, b"{}", status, metrics, info, info, error)
            try:
                sizes = {name.decode(): size for name, (size, _) in own.items()}
                cells = (*cells, json.dumps(sizes).encode(), b"".join(bits for _, bits in own.values()))
                costs = Costs.model_validate_json(info).as_json().encode()
                facts = Info.model_validate_json(info).as_json().encode()
                cells = (*cells[:6], facts, costs, *cells[8:])
            except (ValueError, TypeError, AttributeError):
                yield number, cells, False
            else:
                yield number, cells, _readable(cells)

    def _upgrade(self) -> None:
        """Bring a store of schema 1 to the present one, in one transaction."""
        meta, plan = Meta(), list[PlannedTask]()
        with suppress(StoreError, ValueError):  # what is damaged is written anew
            meta = self._old_meta()
            plan = [PlannedTask(each.key, each.task()) for each in self._plan()]
        lock, self._lock = self._lock, None
        rows = list(self._rows())
        self._lock = lock
        self._db.execute("pragma foreign_keys = off")
        with self._transaction():
            for table in ("arrays", "records", "plan", "meta"):
                self._db.execute(f"drop table {table}")
            self._make_tables()
            for _, cells in rows:
                texts = [each.decode() if isinstance(each, bytes) else each for each in cells[:-1]]
                self._insert((*texts, cells[-1]))
        self.schema = SCHEMA
        self.set_meta(meta)
        self.set_plan(plan)
        log.info("%s: brought from schema 1 to schema %d", self.path, SCHEMA)


def _require_access(path: Path, *, write: bool) -> None:
    """Raise StoreError for a folder, and for a file that this user may not read or write."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder; name the file of a store in it")
    if not path.is_file():
        raise StoreError(f"{path} is not a file; name another one")
    if not os.access(path, os.R_OK):
        raise StoreError(f"{path} may not be read by this user; ask its owner for the right to read it")
    if write and not os.access(path, os.W_OK):
        raise StoreError(
            f"{path} may not be written by this user; copy it, or name another file with --store"
        )
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if write and not os.access(folder, os.W_OK):
        raise StoreError(f"{folder} may not be written by this user; name another file with --store")
    if write and path.stat().st_nlink > 1:
        # Each name would have its own lock and its own log, so that two runs could write at once.
        raise StoreError(
            f"{path} has {path.stat().st_nlink} names (hard links) and cannot be written safely; copy it, "
            "or name another file with --store"
        )


def _unopened(path: Path) -> str:
    """Return why a store that may be read cannot be opened."""
    if Path(f"{os.path.realpath(path)}-wal").exists():
        return "the run that wrote it did not end, and this user may not write in its folder; copy both files"
    return "name another file"


def _connected(path: Path, *, write: bool) -> sqlite3.Connection:
    """Connect to a store. Texts come as bytes, since a flipped bit may leave no UTF-8."""
    if write:
        db = sqlite3.connect(path, isolation_level=None)
    else:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            db.execute("select 1 from sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            db.close()
            if "unable to open" not in str(error) or Path(f"{path.resolve()}-wal").exists():
                raise
            # A folder in which this user may not write; nobody writes the store, or there would be a log.
            db = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    db.text_factory = bytes
    return db


def _locked(path: Path) -> BaseFileLock:
    """Return the lock of a store's only writer; raises StoreError that names who has it."""
    # By the file itself: links to it are other names of the same store.
    lock = FileLock(f"{os.path.realpath(path)}.lock", timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"{path} is being written by {_writer(path)}; wait for its end, or name another file with --store"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path} cannot be written ({reason}); name another file with --store") from error
    return lock


def _writer(path: Path) -> str:
    """Return in words who writes a store now; the lock is theirs also where nothing says who they are."""
    with suppress(sqlite3.Error, ValueError):
        db = _connected(path, write=False)
        try:
            row = db.execute("select value from facts where name = ?", (WRITER,)).fetchone()
        finally:
            db.close()
        if row:
            return str(Writer.model_validate_json(row[0]))
    return "another process"


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _json(texts: Mapping[str, str]) -> str:
    return json.dumps(dict(texts), sort_keys=True)


def _checksum(*values: Any) -> bytes:
    """Return the checksum of a row; a text and its bytes have the same."""
    parts = [
        value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
        for value in values
    ]
    lengths = ",".join(
        "-" if value is None else str(len(part)) for value, part in zip(values, parts, strict=True)
    )
    return blake2b(lengths.encode() + b"".join(parts), digest_size=16).digest()


def _checksum_of_plan(rows: Iterable[Sequence[Any]]) -> str:
    return blake2b(b"".join(_checksum(*row) for row in rows), digest_size=16).hexdigest()


def _cells(record: Record, ingredients: str | bytes) -> Cells:
    """Return the columns of a record."""
    error = record.error
    if error is not None:
        # A file's name may hold bytes that are no UTF-8, which SQLite does not take.
        error = error.encode(errors="backslashreplace").decode()
    return (
        record.key,
        record.kind,
        json.dumps(record.spec),
        ingredients,
        record.status,
        json.dumps(record.metrics),
        record.info.as_json(),
        record.costs.as_json(),
        error,
        json.dumps(dict(_size(name, values) for name, values in record.arrays.items())),
        b"".join(_packed(values) for values in record.arrays.values()),
    )


def _size(name: str, values: NDArray[np.uint8]) -> tuple[str, int]:
    """Return the name and the number of bits of an array as it is stored; marked unless it holds bits."""
    return (name + WHOLE, 8 * int(values.size)) if values.max(initial=0) > 1 else (name, int(values.size))


def _packed(values: NDArray[np.uint8]) -> bytes:
    return (values if values.max(initial=0) > 1 else np.packbits(values)).tobytes()


def _record(cells: Cells) -> Record:
    """Return the record of these columns; raises ValueError for some that are none."""
    key, kind, spec, _, status, metrics, info, costs, error, sizes, bits = cells
    arrays: Arrays = {}
    start = 0
    for name, size in _SIZES.validate_json(sizes).items():
        of, whole, _ = name.partition(WHOLE)
        end = start + (size + 7) // 8
        values = np.frombuffer(bits[start:end], dtype=np.uint8)
        arrays[of] = values.copy() if whole else np.unpackbits(values, count=size)
        start = end
    if start != len(bits) or status not in (b"ok", b"failed", b"not_applicable"):
        raise ValueError("no status, or arrays of other sizes")
    return Record(
        key.decode(),
        task_of(kind.decode(), json.loads(spec)),
        status.decode(),
        _metrics(metrics),
        arrays,
        Info.model_validate_json(info),
        Costs.model_validate_json(costs),
        None if error is None else error.decode(),
    )


def _metrics(text: bytes) -> Metrics:
    if b"NaN" in text or b"Infinity" in text:
        # No comparison notices them: such a metric was not measured.
        text = json.dumps(json.loads(text, parse_constant=lambda _: None)).encode()
    return _METRICS.validate_json(text)


def _readable(cells: Cells) -> bool:
    try:
        _record(cells)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def _of_cells(number: int, cells: Cells) -> _Known:
    key, kind, spec, ingredients, status = (
        each.decode() if isinstance(each, bytes) else str(each) for each in cells[:5]
    )
    return _Known(key, kind, spec, ingredients, status, number)


def _title(cells: Cells) -> str:
    """Return a record's spec in words, as far as it can be read, else its key."""
    with suppress(ValueError, TypeError, AttributeError):
        return f"{cells[1].decode()} " + " ".join(map(str, json.loads(cells[2]).values()))
    return repr(cells[0])


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
