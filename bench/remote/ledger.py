"""What was bought of a target: a file that is right at every moment at which a process may be killed.

Inputs are booked before they are sent. A purchase is known by its key, a digest of the input and of whom it
was asked from, and its occurrence: the same input twice is two purchases. Its row is "sent" from before it is
sent until its answers are written. What a process leaves at "sent" when it dies is unknown: it stays booked,
and may be bought again within the caps.

Counts are kept by purpose in the same transactions as the rows. Transactions that only move rows are safe
when a process is killed; those that allow sending are on the disk before anything is sent, see
:meth:`Ledger.sending`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from bench.errors import BudgetError, UsageError
from bench.inputs import Array
from bench.remote.money import MICRO, Prices
from bench.remote.pace import Pace

APPLICATION = 0x6D6F6C67
"""Tells a ledger from other SQLite files."""
TABLES = (
    "create table facts (name text primary key, value text not null) without rowid",
    # held: inputs that a run may still send. granted: the most that it can have sent, which the disk has
    # first.
    """create table runs (id integer primary key, boot text not null, open integer not null default 1,
       held integer not null default 0, booked integer not null default 0, granted integer not null default 0,
       seconds real not null default 0)""",
    "create table totals (inputs integer not null, units integer not null, money integer not null)",
    """create table purposes (purpose text primary key, paid integer not null default 0,
       answered integer not null default 0, refused integer not null default 0, money integer not null default
       0) without rowid""",
    """create table asked (session text primary key, purpose text not null, inputs integer not null)
       without rowid""",
    """create table purchases (key blob, occurrence integer, state text not null, run integer not null,
       purpose text not null, answers blob, primary key (key, occurrence)) without rowid""",
    "create table requests (at real not null, inputs integer not null)",
    "create index request_times on requests (at, inputs)",
    "create table replies (inputs integer not null, seconds real not null)",
    "insert into totals values (0, 0, 0)",
)
GRANT = 4_096
"""Inputs that are written to the disk as sendable at a time; after a power loss that many may be unknown."""
POWER_LOSS = "power loss"
"""The purpose under which is booked what may have been sent before the machine lost its memory."""


class Purchase(NamedTuple):
    """An input of a target and how often it was bought before, from 0."""

    key: bytes
    occurrence: int


@dataclass(frozen=True)
class Totals:
    """What is booked: inputs, and micro-units of money."""

    inputs: int
    money: int


def input_key(identity: str, account: str, x: Array) -> bytes:
    """Return what one input (…) is known by: a digest of its float32 bytes and of whom it was asked from."""
    digest = hashlib.sha256(repr((identity, account, x.shape)).encode())
    digest.update(np.ascontiguousarray(x, dtype="<f4").tobytes())
    return digest.digest()


def boot_id() -> str:
    """Return what changes when the machine starts anew; "" where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class Ledger:
    """The ledger of one target; safe to use from several threads and several processes.

    ``fingerprint``: of the target; a ledger of another one is refused. ``prices``: may change from run to
    run; what is booked stays. Errors of the file are UsageErrors of one sentence.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        prices: Prices,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self.path, self.prices = path, prices
        self._pace, self._clock = pace, clock
        self._lock = threading.RLock()
        self._run = 0
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
            try:
                self._open(fingerprint)
                self._start(boot())
            except BaseException:
                self._db.close()
                raise

    def _open(self, fingerprint: str) -> None:
        """Make the tables, or see that they are those of this target."""
        path, db = self.path, self._db
        db.execute("pragma journal_mode = wal")
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
            db.execute("update purchases set state = 'unknown' where state = 'sent' and run = ?", (run,))
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
            self._db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
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

    # What was bought.

    def answers(self, purchases: Sequence[Purchase]) -> dict[Purchase, NDArray[np.float64]]:
        """Return the answers (classes,) that were bought; rows of NaN are inputs that the target refused."""
        found = {}
        with self._lock, self._errors():
            for each in purchases:
                row = self._db.execute(
                    "select answers from purchases where key = ? and occurrence = ? and state = 'answered'",
                    each,
                ).fetchone()
                if row:
                    found[each] = np.frombuffer(row[0], dtype="<f8")
        return found

    def occurrences(self, key: bytes) -> int:
        """Return how often an input was sent so far."""
        with self._lock, self._errors():
            (last,) = self._db.execute(
                "select max(occurrence) from purchases where key = ?", (key,)
            ).fetchone()
        return 0 if last is None else int(last) + 1

    def asked(self, session: str, purpose: str, inputs: int) -> None:
        """Count the inputs that a session asked for so far; one that is run again counts once."""
        with self._transaction():
            self._db.execute(
                """insert into asked values (?, ?, ?) on conflict do update
                   set inputs = max(inputs, excluded.inputs)""",
                (session, purpose, inputs),
            )

    def totals(self) -> Totals:
        """Return what is booked."""
        with self._lock, self._errors():
            inputs, money = self._db.execute("select inputs, money from totals").fetchone()
        return Totals(int(inputs), int(money))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query that changes nothing."""
        with self._lock, self._errors():
            return list(self._db.execute(query))

    # Booking.

    def hold(self, inputs: int) -> None:
        """Set aside the caps of ``inputs`` to be sent; raises BudgetError, and sets nothing aside, else."""
        prices = self.prices
        with self._transaction(durable=True):
            for (run,) in self._db.execute("select id from runs where held > 0").fetchall():
                self._settle(run)
            (held,) = self._db.execute("select sum(held) from runs").fetchone()
            booked, units, money = self._db.execute("select * from totals").fetchone()
            _, cost = prices.further(units, held + inputs)
            done = self._db.execute(
                """update runs set held = held + :n where id = :run
                   and (:most is null or (select inputs from totals) + :held + :n <= :most)
                   and (:money is null or (select money from totals) + :cost <= :money)""",
                {
                    "n": inputs,
                    "run": self._run,
                    "held": held,
                    "most": prices.inputs_cap,
                    "cost": cost,
                    "money": prices.money_cap,
                },
            ).rowcount
            if done == 1:
                return
            if prices.inputs_cap is not None and booked + held + inputs > prices.inputs_cap:
                raise BudgetError(
                    f"{inputs:,} inputs more would exceed the target's budget of {prices.inputs_cap:,}: "
                    f"{booked:,} are booked{_elsewhere(held)}; raise budget in its file, or ask for less"
                )
            raise BudgetError(
                f"{inputs:,} inputs more would exceed the target's money_cap of "
                f"{(prices.money_cap or 0) / MICRO:.2f}: they cost {cost / MICRO:.2f}, and "
                f"{money / MICRO:.2f} is booked{_elsewhere(held)}; raise money_cap in its file, or ask "
                "for less"
            )

    def release(self) -> None:
        """Give back what is held and not sent."""
        with self._transaction():
            self._db.execute("update runs set held = 0, granted = booked where id = ?", (self._run,))

    def sending(self, purchases: Sequence[Purchase], purpose: str) -> tuple[list[Purchase], float]:
        """Book what is about to be sent, of what is held; return it, and seconds to wait first.

        Nothing is booked where there is to wait. What another process bought or is buying is not booked.
        Before anything is sent, the disk has that it may be.
        """
        with self._lock, self._transaction(durable=self._grants(len(purchases))):
            now = self._clock()
            fresh = [each for each in purchases if self._free(each)]
            if fresh and self._pace is not None:
                # A clock that was set back would else forbid to send until it is there again.
                self._db.execute("update requests set at = ? where at > ?", (now, now))
                since = now - self._pace.window
                recent = "from requests where at > ?"
                (sent,) = self._db.execute(f"select total(inputs) {recent}", (since,)).fetchone()
                if sent + len(fresh) > self._pace.most:
                    times = self._db.execute(f"select at, inputs {recent} order by at", (since,)).fetchall()
                    return [], self._pace.wait(times, len(fresh), now)
            self._db.executemany(
                """insert into purchases values (?, ?, 'sent', ?, ?, null) on conflict do update
                   set state = 'sent', run = excluded.run, purpose = excluded.purpose""",
                [(*each, self._run, purpose) for each in fresh],
            )
            self._book(len(fresh), purpose, self._run)
            if fresh:
                self._db.execute("insert into requests values (?, ?)", (now, len(fresh)))
            return fresh, 0.0

    def _grants(self, inputs: int) -> bool:
        """Return whether more has to be granted before ``inputs`` are sent."""
        with self._lock, self._errors():
            booked, granted = self._db.execute(
                "select booked, granted from runs where id = ?", (self._run,)
            ).fetchone()
        return bool(booked + inputs > granted)

    def _free(self, purchase: Purchase) -> bool:
        """Return whether nobody has bought this and no living process is about to."""
        row = self._db.execute(
            "select state, run from purchases where key = ? and occurrence = ?", purchase
        ).fetchone()
        return row is None or row[0] == "unknown" or (row[0] == "sent" and not self._settle(row[1]))

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
        self._db.execute("insert or ignore into purposes (purpose) values (?)", (purpose,))
        self._db.execute(
            "update purposes set paid = paid + ?, money = money + ? where purpose = ?",
            (inputs, cost, purpose),
        )

    def answered(
        self,
        purchases: Sequence[Purchase],
        answers: NDArray[np.float64],
        *,
        purpose: str,
        seconds: float | None = None,
        run_seconds: float = 0.0,
    ) -> None:
        """Write the answers (n, classes) of what was sent; a row of NaN: the target refused the input."""
        rows = np.ascontiguousarray(answers, dtype="<f8")
        with self._transaction():
            self._db.executemany(
                "update purchases set state = 'answered', answers = ? where key = ? and occurrence = ?",
                [(row.tobytes(), *each) for each, row in zip(purchases, rows, strict=True)],
            )
            self._db.execute(
                "update purposes set answered = answered + ?, refused = refused + ? where purpose = ?",
                (len(rows), int(np.isnan(rows).any(axis=1).sum()), purpose),
            )
            if seconds is not None:
                self._db.execute("insert into replies values (?, ?)", (len(rows), seconds))
            self._db.execute(
                "update runs set seconds = max(seconds, ?) where id = ?", (run_seconds, self._run)
            )

    def unsent(self, purchases: Sequence[Purchase], purpose: str) -> None:
        """Take back the booking of what the target certainly did not bill; it is held again."""
        with self._transaction():
            self._db.executemany("delete from purchases where key = ? and occurrence = ?", purchases)
            self._book(-len(purchases), purpose, self._run)

    def lost(self, purchases: Sequence[Purchase]) -> None:
        """Mark as unknown what may have been billed and has no answers; it stays booked."""
        with self._transaction():
            self._db.executemany(
                "update purchases set state = 'unknown' where key = ? and occurrence = ?", purchases
            )


def _elsewhere(held: int) -> str:
    """Return how much another process has set aside, in words."""
    return f", {held:,} are being sent by another process" if held else ""
