"""The file that the workers of one server share: accounts, counters, audit log. SQLite, WAL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple, Self

from bench.errors import MoatbenchError
from bench.remote.ledger_file import boot_id

APPLICATION = 0x6D6F7376
"""Tells a state file from other SQLite files."""
SCHEMA_VERSION = 1
WAIT_SECONDS = 30.0
"""How long a transaction waits for those of other workers."""
TABLES = (
    # steady: NULL in files of versions that had no such time.
    "create table seen (at real not null, elapsed real not null, boot text not null, steady real) strict",
    # renewed: when an account that had been revoked got a new key; older tokens of it are not valid.
    """create table accounts (name text primary key, role text not null, prefix text unique not null,
       digest blob not null, made real not null, revoked real, renewed real) without rowid, strict""",
    # spent: inputs ever; recent: those of the rows in spending, which are those of the window.
    """create table counters (account text primary key, spent integer not null default 0,
       recent integer not null default 0, flagged integer not null default 0, suspended real)
       without rowid, strict""",
    "create table spending (account text not null, at real not null, inputs integer not null) strict",
    "create index spending_times on spending (account, at)",
    # secret: sealed under the pepper. last: the time step of the last code that was accepted.
    """create table factors (account text primary key, secret blob not null,
       last integer not null default 0) without rowid, strict""",
    # Failed keys by address, failed second factors by account.
    "create table failures (kind text not null, who text not null, at real not null) strict",
    "create index failure_times on failures (kind, who, at)",
    """create table sessions (digest blob primary key, account text not null, until real not null)
       without rowid, strict""",
    """create table tallies (name text not null, control text not null, status integer not null,
       total real not null, primary key (name, control, status)) without rowid, strict""",
)


class Moment(NamedTuple):
    """A time, in seconds since 1970, as a state file has it. ``now`` never goes back.

    ``steady``: for windows. While the machine runs it goes on as fast as time passes, wherever its clock is
    set; so it may be another time than ``now``.
    """

    now: float
    steady: float


class StateError(MoatbenchError):
    """The state file cannot be read or written: nothing may be answered that it does not count."""


class State:
    """A connection to the state file of a server, one a worker.

    ``clock``: seconds since 1970. ``elapsed``: seconds since the machine started, which no change of the
    clock moves; a ``clock`` of the caller's own stands for both, if it is not given. All that has to hold
    together happens in one :meth:`transaction`. Errors of the file are StateErrors of one sentence.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time,
        elapsed: Callable[[], float] | None = None,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self.path, self.clock = path, clock
        self._elapsed = elapsed or (monotonic if clock is time else clock)
        self._boot = boot()
        self._lock = threading.RLock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite gives its further files the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def __repr__(self) -> str:
        return f"State({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Make the tables, or see that they are those of a server; raises StateError."""
        db, path = self._connection, self.path
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        with self.transaction():
            (application,) = db.execute("pragma application_id").fetchone()
            (version,) = db.execute("pragma user_version").fetchone()
            if not application and not db.execute("select 1 from sqlite_master").fetchone():
                for statement in TABLES:
                    db.execute(statement)
                db.execute(f"pragma application_id = {APPLICATION}")
                db.execute(f"pragma user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION:
                raise StateError(f"{path} is not the state of a server; name another folder by --state")
            elif version > SCHEMA_VERSION:
                raise StateError(
                    f"{path} was written by a newer version of moatbench (schema {version}, here "
                    f"{SCHEMA_VERSION}); use that version"
                )
            elif "steady" not in {name for _, name, *_ in db.execute("pragma table_info(seen)")}:
                db.execute("alter table seen add column steady real")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = " ".join(str(error).split())
            raise StateError(
                f"the state {self.path} cannot be read or written ({reason}); make room or give access, then "
                "start the server again"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside BEGIN IMMEDIATE; committed at the end, rolled back on any error.

        Inside another transaction of the same connection it is a part of that one. What was committed
        survives the end of the process; if the machine loses power, the last transactions may be missing.
        """
        with self._lock, self._errors():
            db = self._connection
            if db.in_transaction:
                yield db
                return
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("rollback")
                raise

    def now(self) -> float:
        """Return seconds since 1970, never less than any earlier call on this file returned.

        Where the clock was set back, time goes on from the latest one seen, at the pace of ``elapsed``; so
        nothing that has expired comes back. To be called in a transaction, which keeps what was seen.
        """
        return self.moment().now

    def moment(self) -> Moment:
        """Return :meth:`now`, and the time by which windows are counted.

        A clock that is set forward frees no window. Only when the machine was started again since the last
        call, the clock has to say how much time has passed. To be called in a transaction.
        """
        at, elapsed, db = self.clock(), self._elapsed(), self._connection
        row = db.execute("select at, elapsed, boot, steady from seen").fetchone()
        if row is None:
            db.execute("insert into seen values (?, ?, ?, ?)", (at, elapsed, self._boot, at))
            return Moment(at, at)
        last = float(row[0])
        steady = last if row[3] is None else float(row[3])
        if row[2] == self._boot:
            passed = max(0.0, elapsed - float(row[1]))
            at, steady = max(at, last + passed), steady + passed
        else:
            at = max(at, last)
            steady += at - last
        db.execute(
            "update seen set at = ?, elapsed = ?, boot = ?, steady = ?", (at, elapsed, self._boot, steady)
        )
        return Moment(at, steady)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for queries that change nothing; each sees what was committed before it."""
        with self._lock, self._errors():
            yield self._connection

    def last_seen(self) -> float:
        """Return the latest time that :meth:`now` returned, 0 if none."""
        row = self.rows("select at from seen")
        return float(row[0][0]) if row else 0.0

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query that changes nothing; ``values`` replace its question marks."""
        with self._lock, self._errors():
            return list(self._connection.execute(query, values))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


def state_file(folder: Path) -> Path:
    """Return the path of the state file in the folder of a server."""
    return folder / "state.sqlite"
