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
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import BudgetError
from bench.remote.exchange import Inputs
from bench.remote.ledger_file import LedgerFile, boot_id
from bench.remote.money import MICRO, Prices, RunLimitError
from bench.remote.pace import Pace

TOGETHER = 500
"""Purchases that are looked up at a time."""


class Purchase(NamedTuple):
    """An input of a target and how often it was bought before, from 0."""

    key: bytes
    occurrence: int


@dataclass(frozen=True)
class Totals:
    """What is booked: inputs, and micro-units of money."""

    inputs: int
    money: int


def input_keys(identity: str, account: str, inputs: Inputs) -> list[bytes]:
    """Return what inputs are known by: digests of what is sent, and of whom they are asked from.

    Not of ``inputs.x``: a category's number there depends on the categories of the file that it was read
    from. 16 bytes of SHA-256: a million inputs are confused with a chance below 1e-26.
    """
    rows = inputs.rows
    if isinstance(rows, np.ndarray):
        what, sent = (rows.shape[1:], rows.dtype.str), [row.tobytes() for row in np.ascontiguousarray(rows)]
    else:
        what, sent = ((), "json"), [json.dumps(list(row), default=str).encode() for row in rows]
    start = hashlib.sha256(repr((identity, account, what, inputs.columns)).encode())
    keys = []
    for row in sent:
        digest = start.copy()
        digest.update(row)
        keys.append(digest.digest()[:16])
    return keys


@dataclass(frozen=True)
class _Known:
    """The last request that a purchase was sent in, its place there, and whose it is."""

    request: int
    place: int
    state: str
    run: int


class Ledger(LedgerFile):
    """The ledger of one target; safe to use from several threads and several processes.

    ``prices``: may change from run to run; what is booked stays. ``pace``: the rate at which may be sent.
    ``run_limit``: most inputs that this run may book; None: what the caps allow.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        prices: Prices,
        *,
        pace: Pace | None = None,
        run_limit: int | None = None,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        super().__init__(path, fingerprint, prices, boot=boot)
        self._pace, self._clock, self._run_limit = pace, clock, run_limit
        self._sent: dict[Purchase, int] = {}  # requests of this run, by their first purchases
        self._flying: set[int] = set()  # those of which this process still awaits the end

    # What was bought.

    def answers(self, purchases: Sequence[Purchase]) -> dict[Purchase, NDArray[np.float64]]:
        """Return the answers (classes,) that were bought; rows of NaN are inputs that the target refused."""
        found = {each: at for each, at in self._known(purchases).items() if at.state == "answered"}
        with self._lock, self._errors():
            blocks = {
                request: np.frombuffer(content, dtype="<f8").reshape(inputs, -1)
                for request in {at.request for at in found.values()}
                for inputs, content in self._db.execute(
                    "select inputs, answers from requests where id = ?", (request,)
                )
            }
        return {each: blocks[at.request][at.place] for each, at in found.items()}

    def _known(self, purchases: Sequence[Purchase]) -> dict[Purchase, _Known]:
        """Return what is known of those of the purchases that were ever sent."""
        found = {}
        with self._lock, self._errors():
            for start in range(0, len(purchases), TOGETHER):
                some = purchases[start : start + TOGETHER]
                values = ", ".join(["(?, ?)"] * len(some))
                rows = self._db.execute(
                    f"""with wanted (key, occurrence) as (values {values})
                        select key, occurrence, request, place, state, run
                        from wanted join purchases using (key, occurrence)
                        join requests on requests.id = request""",  # noqa: S608  # only question marks
                    [value for each in some for value in each],
                )
                found.update({Purchase(row[0], row[1]): _Known(*row[2:]) for row in rows})
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

    # Booking.

    def hold(self, inputs: int) -> None:
        """Set aside the caps of ``inputs`` to be sent; raises BudgetError, and sets nothing aside, else."""
        prices = self.prices
        with self._transaction(durable=True):
            self._see_run_limit(inputs)
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

    def _see_run_limit(self, inputs: int) -> None:
        if self._run_limit is None:
            return
        own = "select booked, held from runs where id = ?"
        booked, held = self._db.execute(own, (self._run,)).fetchone()
        if booked + held + inputs > self._run_limit:
            raise RunLimitError(
                f"{booked:,} inputs are booked in this run, and {held + inputs:,} more would exceed its "
                f"limit of {self._run_limit:,}"
            )

    def held(self) -> int:
        """Return how many inputs this run may still send of what it set aside."""
        with self._lock, self._errors():
            return int(self._db.execute("select held from runs where id = ?", (self._run,)).fetchone()[0])

    def release(self) -> None:
        """Give back what is held and not sent."""
        with self._transaction():
            self._db.execute("update runs set held = 0, granted = booked where id = ?", (self._run,))

    def sending(self, purchases: Sequence[Purchase], purpose: str) -> tuple[list[Purchase], float]:
        """Book what is about to be sent, of what is held; return it, and seconds to wait first.

        Nothing is booked where there is to wait. What another process bought or is buying is not booked.
        Before anything is sent, the disk has that it may be. :meth:`answered`, :meth:`unsent` and
        :meth:`lost` then take what this returned, as a whole.
        """
        with self._lock, self._transaction(durable=self._grants(len(purchases))):
            fresh = list(purchases)
            now = self._clock()
            if fresh and (wait := self._wait(len(fresh), now)) > 0:
                return [], wait
            if (request := self._request(fresh, now)) is None:
                fresh = self._free(purchases)
                request = self._request(fresh, now)
            if request is None:
                return [], 0.0
            self._book(len(fresh), purpose, self._run)
            self._sent[fresh[0]] = request
            self._flying.add(request)
            return fresh, 0.0

    def _request(self, purchases: Sequence[Purchase], now: float) -> int | None:
        """Return a new request for these; None, and nothing is written, if one of them is not free."""
        if not purchases:
            return None
        db = self._db
        db.execute("savepoint request")
        request = db.execute(
            "insert into requests (run, at, inputs) values (?, ?, ?)", (self._run, now, len(purchases))
        ).lastrowid
        # Looking up each of them first would take as long as all the rest.
        written = db.executemany(
            """insert into purchases values (?, ?, ?, ?) on conflict do update
               set request = excluded.request, place = excluded.place
               where (select state from requests where id = purchases.request) in ('unknown', 'rejected')""",
            [(*each, request, place) for place, each in enumerate(purchases)],
        ).rowcount
        if written != len(purchases):
            db.execute("rollback to request")
        db.execute("release request")
        return request if written == len(purchases) else None

    def free(self, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Return those that nobody bought and no living process is buying."""
        with self._transaction():
            return self._free(purchases)

    def _free(self, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Return those that nobody bought and no living process is buying."""
        sent = [at for at in self._known(purchases).values() if at.state == "sent"]
        for run in {at.run for at in sent}:
            self._settle(run)
        for request in {at.request for at in sent if at.run == self._run} - self._flying:
            # Its answers came and could not be written.
            self._db.execute("update requests set state = 'unknown' where id = ?", (request,))
        states = {each: at.state for each, at in self._known(purchases).items()}
        return [each for each in purchases if states.get(each) not in {"answered", "sent"}]

    def _wait(self, inputs: int, now: float) -> float:
        """Return the seconds until the rate allows to send ``inputs``."""
        pace = self._pace
        if pace is None:
            return 0.0
        # A clock that was set back would else forbid to send until it is there again.
        self._db.execute("update requests set at = ? where at > ?", (now, now))
        since = (now - pace.window,)
        (sent,) = self._db.execute("select total(inputs) from requests where at > ?", since).fetchone()
        if sent + inputs <= pace.most:
            return 0.0
        times = self._db.execute("select at, inputs from requests where at > ? order by at", since)
        return pace.wait(times.fetchall(), inputs, now)

    def _grants(self, inputs: int) -> bool:
        """Return whether more has to be granted before ``inputs`` are sent."""
        with self._lock, self._errors():
            booked, granted = self._db.execute(
                "select booked, granted from runs where id = ?", (self._run,)
            ).fetchone()
        return bool(booked + inputs > granted)

    def answered(
        self,
        purchases: Sequence[Purchase],
        answers: NDArray[np.float64],
        *,
        purpose: str,
        seconds: float | None = None,
        run_seconds: float = 0.0,
    ) -> None:
        """Write the answers (n, classes) of what was sent; a row of NaN: the target refused the input.

        ``seconds``: of the request, None where it was not answered. ``run_seconds``: of the run so far.
        """
        rows = np.ascontiguousarray(answers, dtype="<f8")
        if len(rows) != len(purchases):
            raise ValueError(f"{len(rows)} answers to {len(purchases)} inputs")
        request = self._ended(purchases)
        with self._transaction():
            self._db.execute(
                "update requests set state = 'answered', answers = ?, seconds = ? where id = ?",
                (rows.tobytes(), seconds, request),
            )
            self._db.execute(
                "update purposes set answered = answered + ?, refused = refused + ? where purpose = ?",
                (len(rows), int(np.isnan(rows).any(axis=1).sum()), purpose),
            )
            self._db.execute(
                "update runs set seconds = max(seconds, ?) where id = ?", (run_seconds, self._run)
            )

    def unsent(self, purchases: Sequence[Purchase], purpose: str) -> None:
        """Take back the booking of what the target certainly did not bill; it is held again."""
        with self._transaction():
            self._mark(purchases, "rejected")
            self._book(-len(purchases), purpose, self._run)

    def lost(self, purchases: Sequence[Purchase]) -> None:
        """Mark as unknown what may have been billed and has no answers; it stays booked."""
        with self._transaction():
            self._mark(purchases, "unknown")

    def _mark(self, purchases: Sequence[Purchase], state: str) -> None:
        request = self._ended(purchases)
        self._db.execute("update requests set state = ? where id = ?", (state, request))

    def _ended(self, purchases: Sequence[Purchase]) -> int:
        """Return the request of what was sent; it is in flight no more, also if that cannot be written."""
        request = self._sent[purchases[0]]
        self._flying.discard(request)
        return request


def _elsewhere(held: int) -> str:
    """Return how much another process has set aside, in words."""
    return f", {held:,} are being sent by another process" if held else ""
