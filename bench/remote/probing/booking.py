"""The books of a run of probes: what is sent is booked before, is within bounds, and is settled after."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets as random_bytes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bench.errors import StoppedError
from bench.remote import verdicts
from bench.remote.ledger import Ledger, Purchase
from bench.remote.pace import Pace
from bench.remote.probing.base import Bounds, CannotTestError
from bench.remote.probing.line import Reply
from bench.remote.probing.shots import Seen, Shot
from bench.remote.retry_after import timestamp as date_of
from bench.remote.target import Target

LONGEST = 120.0
"""The longest window of a limit, in seconds, that is waited for."""
MARGIN = 1.0
"""Seconds beyond a window that are waited, as clocks differ."""
PURPOSE = "probe "
"""What the purposes of probes in the ledger begin with."""
_ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)


def stated_pace(target: Target) -> Pace | None:
    """Return the limit that the target file states of the target, None where it states none."""
    return (
        None
        if target.stated_rate is None
        else Pace.of(target.model_copy(update={"rate": target.stated_rate}))
    )


@dataclass
class _Spent:
    """What a probe has used of its bounds."""

    bounds: Bounds
    purpose: str
    started: float
    inputs: int = 0
    requests: int = 0
    refusals: int = 0


@dataclass
class Memory:
    """What probes of a run learn of the target for those after them.

    ``limit``: inputs a window that were let pass. ``accepted``: inputs that each account was answered.
    ``last``: when each account was answered last; ``limited``: when it was refused last. ``sent``: when how
    many inputs of each were sent. ``offset``: seconds that the target's clock, as its answers tell it, is
    ahead of ours.
    """

    limit: tuple[int, float] | None = None
    accepted: dict[str, int] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    limited: dict[str, float] = field(default_factory=dict)
    sent: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    offset: float = 0.0


class Booking:
    """Books requests of one probe after the other; safe to use from several threads.

    ``memory``: what is seen of the target. ``until``: the last day, in UTC, on which may be sent. ``clock``:
    seconds since 1970. ``silent``: requests in a row that got no answer at all.
    """

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        until: dt.date | None,
    ) -> None:
        self.memory, self.silent = Memory(), 0
        self._target, self._ledger, self._until = target, ledger, until
        self._clock, self._sleep = clock, sleep
        self._run, self._number = random_bytes.token_hex(8), 0
        self._lock = threading.Lock()
        self._spent = _Spent(Bounds(0, 0), "", clock())
        self._pace: Pace | None = None

    # One probe.

    def begin(self, name: str, bounds: Bounds, *, paced: bool) -> None:
        """Start a probe, see :meth:`bench.remote.probing.context.Context.begin`."""
        self._pace = stated_pace(self._target) if paced else None
        if self._pace is not None and self._pace.window <= LONGEST:
            windows = 1 + bounds.inputs / self._pace.most
            bounds = replace(bounds, seconds=bounds.seconds + windows * (self._pace.window + MARGIN))
        self._spent = _Spent(bounds, f"{PURPOSE}{name}", self._clock())

    @property
    def spent(self) -> tuple[int, int, float]:
        """Inputs that this probe has booked, requests that it has sent, and seconds since it began."""
        used = self._spent
        return used.inputs, used.requests, self._clock() - used.started

    @property
    def refusals(self) -> int:
        """Answers of this probe that said that the target was asked too much."""
        return self._spent.refusals

    @property
    def seconds_left(self) -> float:
        """Seconds that this probe may still take."""
        return self._spent.bounds.seconds - (self._clock() - self._spent.started)

    @property
    def seconds_of_request(self) -> float:
        """Seconds that one request may take."""
        return max(0.1, min(self._target.timeout, self.seconds_left))

    @property
    def batch(self) -> int:
        """Inputs of an ordinary request: what the target file says, within the rate that is kept to."""
        return self._target.batch if self._pace is None else min(self._target.batch, self._pace.most)

    def wait(self, seconds: float) -> None:
        """Wait; raises CannotTestError where that takes longer than the probe may."""
        if seconds > self.seconds_left:
            raise CannotTestError(
                f"it would have to wait {seconds:,.0f} s, which with the rest is more than its "
                f"{self._spent.bounds.seconds:,.0f} s"
            )
        if seconds > 0:
            self._sleep(seconds)

    # Before a request is sent.

    def new_id(self) -> str:
        """Return an id for a request."""
        with self._lock:
            self._number += 1
            return f"probe-{self._run}-{self._number}"

    def require_room(self, shots: Sequence[Shot]) -> None:
        """Raise CannotTestError where the probe's bounds do not allow these requests."""
        used, bounds = self._spent, self._spent.bounds
        inputs = sum(shot.inputs for shot in shots)
        if used.inputs + inputs > bounds.inputs or used.requests + len(shots) > bounds.requests:
            raise CannotTestError(
                f"it came to its bounds of {bounds.inputs:,} inputs and {bounds.requests:,} requests first"
            )
        if used.refusals > bounds.refusals:
            raise CannotTestError(f"the target refused {used.refusals:,} requests as too many, so it ended")
        if self.seconds_left <= 0:
            raise CannotTestError(f"it came to its bound of {bounds.seconds:,.0f} s first")

    def book(self, shot: Shot) -> list[Purchase]:
        """Book what a request may come to, and wait for the rate that the target file allows."""
        last = self._until
        if last is not None and dt.datetime.fromtimestamp(self._clock(), dt.UTC).date() > last:
            raise StoppedError(f"the permission to test this target ended on {last}; ask for a new one")
        pace = Pace.of(self._target)
        if pace is not None and shot.inputs > pace.most:
            raise CannotTestError(
                f"rate = {self._target.rate!r} does not allow {shot.inputs:,} inputs at a time"
            )
        self._keep_pace(shot)
        with self._lock:
            self.require_room([shot])
            self._spent.inputs += shot.inputs
            self._spent.requests += 1
            if shot.inputs:
                self.memory.sent.setdefault(shot.account, []).append((self._clock(), shot.inputs))
        if not shot.inputs:
            return []
        name = self.new_id()  # of its own, so that no purchase is known by two requests
        digests = (hashlib.sha256(f"{name} {place}".encode()).digest() for place in range(shot.inputs))
        purchases = [Purchase(digest[:16], 0) for digest in digests]
        while True:
            _, wait = self._ledger.sending(purchases, self._spent.purpose)
            if not wait:
                return purchases
            self.wait(wait)

    def _keep_pace(self, shot: Shot) -> None:
        """Wait until the target lets these inputs pass by what it states; not for more than it ever does."""
        if self._pace is None or not 0 < shot.inputs <= self._pace.most:
            return
        sent = self.memory.sent.get(shot.account, [])
        if (wait := self._pace.wait(sent, shot.inputs, self._clock())) > 0:
            self.wait(wait + MARGIN)

    # After it was sent.

    def seen(self, shot: Shot, reply: Reply) -> Seen:
        """Remember what came of a request, and return it."""
        told = reply.headers.get("x-request-id", "")
        seen = Seen(shot, reply, told if _ID.fullmatch(told) else shot.id, self._clock())
        date = date_of(reply.headers.get("date", ""))
        with self._lock:
            if date is not None:
                self.memory.offset = date + 0.5 - seen.at  # dates have no fractions
            self.silent = 0 if reply.status else self.silent + 1
            if seen.limited:
                self._spent.refusals += 1
                self.memory.limited[shot.account] = seen.at
            if seen.answered and shot.inputs:
                known = self.memory
                known.accepted[shot.account] = known.accepted.get(shot.account, 0) + shot.inputs
                known.last[shot.account] = seen.at
        return seen

    def settle(self, seen: Seen, purchases: list[Purchase], table: NDArray[np.float64] | None) -> None:
        """Write what was booked as answered, lost, or taken back.

        ``table``: (n, classes) the answers; None where they are not as stated, or there is none.
        """
        if not purchases:
            return
        if seen.answered:
            nothing = np.full((len(purchases), len(self._target.classes)), np.nan)
            values = nothing if table is None or table.shape != nothing.shape else table
            self._ledger.answered(purchases, values, purpose=self._spent.purpose, seconds=seen.reply.seconds)
            return
        if seen.reply.status:
            billed = verdicts.of_status(
                seen.status, seen.reply.headers, bills_rejected=self._target.bills_rejected, now=seen.at
            ).billed
        else:
            billed = "unknown" if seen.reply.connected else "no"
        if billed == "no":
            self._ledger.unsent(purchases, self._spent.purpose)
            with self._lock:
                self._spent.inputs -= len(purchases)
        else:
            self.lose(purchases)

    def lose(self, purchases: list[Purchase]) -> None:
        """Write that nothing is known of what was sent: it stays booked."""
        if purchases:
            self._ledger.lost(purchases)

    def heard(self) -> None:
        """Forget that requests got no answer."""
        with self._lock:
            self.silent = 0
