"""The file of a ledger: its tables, its runs, and what is left of those that died."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from bench.errors import UsageError
from bench.remote.money import Prices

APPLICATION = 0x6D6F6C67
"""Tells a ledger from other SQLite files."""
TABLES = (
    "create table facts (name text primary key, value text not null) without rowid",
    # held: inputs that a run may still send. granted: the most that it can have sent, on the disk first.
    """create table runs (id integer primary key, boot text not null, open integer not null default 1,
       held integer not null default 0, booked integer not null default 0, granted integer not null default 0,
       seconds real not null default 0)""",
    "create table totals (inputs integer not null, units integer not null, money integer not null)",
    """create table purposes (purpose text primary key, paid integer not null default 0,
       answered integer not null default 0, refused integer not null default 0,
       money integer not null default 0) without rowid""",
    """create table asked (session text primary key, purpose text not null, inputs integer not null)
       without rowid""",
    # state: sent, answered, unknown, or rejected, which was not billed. answers: (inputs, classes) float64.
    """create table requests (id integer primary key, run integer not null, at real not null,
       inputs integer not null, state text not null default 'sent', seconds real, answers blob)""",
    "create index request_times on requests (at, inputs)",
    # The last request that an input was sent in, and its place there.
    """create table purchases (key blob, occurrence integer, request integer not null, place integer not null,
       primary key (key, occurrence)) without rowid""",
    "insert into totals values (0, 0, 0)",
)
GRANT = 4_096
"""Inputs that are written to the disk as sendable at a time; after a power loss that many may be unknown."""
LOG_PAGES = 16_384
"""Pages of the log of changes (64 MB), after which they are moved to the file; that waits for the disk."""
POWER_LOSS = "power loss"
"""The purpose under which is booked what may have been sent before the machine lost its memory."""


def boot_id() -> str:
    """Return what changes when the machine starts anew; "" where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class LedgerFile:
    """The file of the ledger of one target, and this process's run of it.

    ``fingerprint``: of the target; a ledger of another one is refused. Errors of the file are UsageErrors of
    one sentence. Transactions are safe when the process is killed; durable ones also when power is lost.
    """

    def __init__(
        self, path: Path, fingerprint: str, prices: Prices, *, boot: Callable[[], str] = boot_id
    ) -> None:
        self.path, self.prices = path, prices
        self._lock = threading.RLock()
        self._run, self._durable = 0, False
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
            try:
                self._db.execute("pragma synchronous = normal")
                self._open(fingerprint)
                self._start(boot())
            except BaseException:
                self._db.close()
                raise

    def _open(self, fingerprint: str) -> None:
        """Make the tables, or see that they are those of this target."""
        path, db = self.path, self._db
        db.execute("pragma journal_mode = wal")
        db.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")
        with self._transaction(durable=True):
            (application,) = db.execute("pragma application_id").fetchone()
            if not application and not db.execute("select 1 from sqlite_master").fetchone():
                for statement in TABLES:
                    db.execute(statement)
                db.execute(f"pragma application_id = {APPLICATION}")
                self.note("fingerprint", fingerprint)
            elif application != APPLICATION:
                raise UsageError(f"{path} is not a ledger of moatbench; name another folder")
        if self.noted("fingerprint") != fingerprint:
            raise UsageError(
                f"{path} is the ledger of another target (its address, protocol, model or answers differ); "
                "name another folder for this one"
            )

    def _start(self, boot: str) -> None:
        """Begin a run, and settle those that died."""
        with self._transaction(durable=True):
            self._run = int(self._db.execute("insert into runs (boot) values (?)", (boot,)).lastrowid or 0)
            self._alive = self._lock_of(self._run)
            self._alive.acquire(timeout=0)
            others = self._db.execute(
                "select id, boot from runs where open and id < ?", (self._run,)
            ).fetchall()
            for run, then in others:
                self._settle(run, lost_power=then != boot)

    @property
    def run(self) -> int:
        """The number of this run."""
        return self._run

    def _lock_of(self, run: int) -> FileLock:
        """Return the lock that a run's process holds while it lives."""
        return FileLock(f"{os.path.realpath(self.path)}.run{run}.lock", timeout=0, thread_local=False)

    def _settle(self, run: int, *, lost_power: bool = False) -> bool:
        """Return whether a run's process is alive; if not, what it left is unknown and what it held free."""
        if run == self._run:
            return True
        lock = self._lock_of(run)
        try:
            lock.acquire()
        except Timeout:
            return True
        try:
            db = self._db
            db.execute("update requests set state = 'unknown' where state = 'sent' and run = ?", (run,))
            row = db.execute("select booked, granted from runs where id = ?", (run,)).fetchone()
            if row and lost_power and row[1] > row[0]:
                # It may have sent what the disk allowed, and the rows that say so are gone with the memory.
                self._book(row[1] - row[0], POWER_LOSS, run)
            db.execute("update runs set open = 0, held = 0, granted = booked where id = ?", (run,))
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Give back what is held, and close the file."""
        with self._lock:
            with suppress(sqlite3.Error):
                self._db.execute(
                    "update runs set open = 0, held = 0, granted = booked where id = ?", (self._run,)
                )
                self._db.execute("pragma wal_checkpoint(truncate)")
            self._db.close()
            self._alive.release()
            Path(self._alive.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = str(error).replace("\n", " ")
            if isinstance(error, sqlite3.OperationalError | OSError):
                raise UsageError(
                    f"the ledger {self.path} cannot be read or written ({reason}): make room or give access, "
                    "then run the same command; nothing is sent that it does not hold"
                ) from error
            raise UsageError(
                f"the ledger {self.path} is damaged or not a ledger ({reason}); move it away, and note that "
                "what it held was paid"
            ) from error

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        with self._lock, self._errors():
            if self._db.in_transaction:  # a part of a larger one
                yield
                return
            if durable is not self._durable:
                self._db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
                self._durable = durable
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise

    # Facts.

    def note(self, name: str, value: str) -> None:
        """Keep a fact on the target."""
        with self._transaction():
            self._db.execute("insert or replace into facts values (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """Return a fact that was kept."""
        with self._lock, self._errors():
            row = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query that changes nothing; ``values`` replace its question marks."""
        with self._lock, self._errors():
            return list(self._db.execute(query, values))

    # Booking.

    def _book(self, inputs: int, purpose: str, run: int) -> None:
        """Move inputs from what is held to what is booked; a negative number moves them back."""
        units, money = self._db.execute("select units, money from totals").fetchone()
        more, cost = self.prices.further(units, inputs)
        cost = max(cost, -money)
        self._db.execute(
            "update totals set inputs = inputs + ?, units = units + ?, money = money + ?",
            (inputs, more, cost),
        )
        self._db.execute(
            """update runs set held = max(0, held - :n), booked = booked + :n,
               granted = max(granted, case when booked + :n > granted then booked + :n + max(0, min(:most,
               held - :n)) else granted end) where id = :run""",
            {"n": inputs, "run": run, "most": GRANT},
        )
        self._db.execute(
            """insert into purposes (purpose, paid, money) values (?, ?, ?) on conflict do update
               set paid = paid + excluded.paid, money = money + excluded.money""",
            (purpose, inputs, cost),
        )
