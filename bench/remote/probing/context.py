"""What a probe sends through: everything is booked before it is sent, and nothing goes beyond its bounds."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets as random_bytes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.errors import StoppedError
from bench.remote import answers, verdicts
from bench.remote.exchange import AttemptError, Inputs
from bench.remote.ledger import Ledger, Purchase
from bench.remote.pace import Pace
from bench.remote.probing.base import Bounds, CannotTestError, OutageError
from bench.remote.probing.line import Line, Reply, Request
from bench.remote.protocols.base import Wire, decoded, shaped
from bench.remote.retry_after import timestamp as date_of
from bench.remote.secrets import Secrets
from bench.remote.target import Target

TOGETHER = 20
"""Connections at a time, where a probe sends many."""
SILENT = 3
"""Requests in a row without any answer after which the target is taken to be gone."""
LONGEST = 120.0
"""The longest window of a limit, in seconds, that is waited for."""
MARGIN = 1.0
"""Seconds beyond a window that are waited, as clocks differ."""
_ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)
PURPOSE = "probe "
"""What the purposes of probes in the ledger begin with."""


def stated_pace(target: Target) -> Pace | None:
    """Return the limit that the target file states of the target, None where it states none."""
    return (
        None
        if target.stated_rate is None
        else Pace.of(target.model_copy(update={"rate": target.stated_rate}))
    )


@dataclass(frozen=True)
class Shot:
    """A request that is to be sent. ``inputs``: the most that the target may answer, which are booked."""

    request: Request
    inputs: int
    account: str = ""
    id: str = ""


@dataclass(frozen=True)
class Seen:
    """What came of a request. ``id``: the target's word for it, else ours. ``at``: when it was answered."""

    shot: Shot
    reply: Reply
    id: str
    at: float

    @property
    def status(self) -> int:
        """The status of the answer, 0 where none came."""
        return self.reply.status

    @property
    def answered(self) -> bool:
        """Whether the target answered with success."""
        return 200 <= self.reply.status < 300

    @property
    def limited(self) -> bool:
        """Whether the target says that it was asked too much."""
        return self.reply.status in {429, 503}

    @property
    def undecided(self) -> bool:
        """Whether nothing shows that the target judged the request: a rate, a fault, or silence."""
        return self.limited or not self.reply.status or self.reply.status >= 500


@dataclass
class _Spent:
    """What a probe has used of its bounds."""

    bounds: Bounds
    purpose: str
    started: float
    inputs: int = 0
    requests: int = 0
    refusals: int = 0


@dataclass(frozen=True)
class Accounts:
    """Accounts of the target file, "" for none.

    ``first``: that most probes use. ``second``: a further key of the same customer, None if there is none.
    ``spare``: that may be used up; ``first`` where there is none.
    """

    first: str = ""
    second: str | None = None
    spare: str = ""


@dataclass(frozen=True)
class Triggers:
    """Inputs that a watermark gives a wrong class. ``wrong``, ``own``: (n,) that class, and the model's."""

    inputs: Inputs
    wrong: NDArray[np.int64]
    own: NDArray[np.int64]


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


class Context:
    """Sends what a probe asks for, within its bounds; safe to use from several threads.

    ``source``: inputs to send, 1 at least. ``until``: the last day, in UTC, on which may be sent. ``clock``:
    seconds since 1970.
    """

    def __init__(
        self,
        target: Target,
        wire: Wire,
        secrets: Secrets,
        line: Line,
        ledger: Ledger,
        source: Inputs,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        accounts: Accounts = Accounts(),
        until: dt.date | None = None,
        triggers: Triggers | None = None,
    ) -> None:
        self.target, self.wire, self.secrets, self.line = target, wire, secrets, line
        self.source, self.clock, self.accounts = source, clock, accounts
        self.triggers, self.memory = triggers, Memory()
        self.path = self.path_of(wire.address)
        self.on_loopback = until is None
        self._ledger, self._sleep, self._until = ledger, sleep, until
        self._run = random_bytes.token_hex(8)
        self._number = self._silent = 0
        self._lock = threading.Lock()
        self._spent = _Spent(Bounds(0, 0), "", clock())
        self._pace: Pace | None = None

    # One probe.

    def begin(self, name: str, bounds: Bounds, *, paced: bool = True) -> None:
        """Start a probe; what follows is within its bounds.

        ``paced``: keep below the rate that the target states, for probes of something else; they may take the
        time of its windows besides.
        """
        self._pace = stated_pace(self.target) if paced else None
        if self._pace is not None and self._pace.window <= LONGEST:
            windows = 1 + bounds.inputs / self._pace.most
            bounds = replace(bounds, seconds=bounds.seconds + windows * (self._pace.window + MARGIN))
        self._spent = _Spent(bounds, f"{PURPOSE}{name}", self.clock())

    @property
    def spent(self) -> tuple[int, int, float]:
        """Inputs that this probe has booked, requests that it has sent, and seconds since it began."""
        used = self._spent
        return used.inputs, used.requests, self.clock() - used.started

    @property
    def seconds_left(self) -> float:
        """Seconds that this probe may still take."""
        return self._spent.bounds.seconds - (self.clock() - self._spent.started)

    # Requests.

    @staticmethod
    def path_of(address: str) -> str:
        """Return path and query of an address."""
        parts = urlsplit(address)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def inputs(self, number: int, *, start: int = 0) -> Inputs:
        """Return ``number`` inputs, the same ones again and again where there are fewer."""
        return self.source.take([(start + place) % len(self.source) for place in range(number)])

    def shot(
        self,
        inputs: Inputs | int = 1,
        *,
        account: str | None = None,
        path: str | None = None,
        body: bytes | None = None,
        booked: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
        identity: str = "",
        key: bool = True,
        content_type: str = "application/json",
    ) -> Shot:
        """Return a request for predictions.

        ``account``: None for the first. ``path``, ``body``: instead of those of the protocol. ``booked``:
        most inputs that may be answered, where it is not the number of ``inputs``. ``identity``: the id that
        ``body`` has. ``key``: whether the account's key is sent.
        """
        asked = self.inputs(inputs) if isinstance(inputs, int) else inputs
        identity = identity or self.new_id()
        who = self.accounts.first if account is None else account
        own = {name.lower() for name in self.target.headers}
        sent = [("Content-Type", content_type)] if "content-type" not in own else []
        sent += [("Accept", "application/json"), ("User-Agent", "moatbench"), ("X-Request-Id", identity)]
        sent += list(self.target.headers.items())
        if key:
            sent += list(self.secrets.headers(who).items())
        if self.target.idempotency_header:
            sent.append((self.target.idempotency_header, identity))
        content = self.body(asked, identity) if body is None else body
        request = Request("POST", path or self.path, (*sent, *headers), content)
        return Shot(request, len(asked) if booked is None else booked, who if key else "", identity)

    def get(self, path: str, *, method: str = "GET", key: bool = False, body: bytes = b"") -> Shot:
        """Return a request that asks for no prediction."""
        identity = self.new_id()
        sent = [("Accept", "*/*"), ("User-Agent", "moatbench"), ("X-Request-Id", identity)]
        sent += [("Content-Type", "application/json")] if body else []
        sent += list(self.secrets.headers(self.accounts.first).items()) if key else []
        return Shot(Request(method, path, tuple(sent), body), 0, "", identity)

    def body(self, inputs: Inputs, identity: str = "probe") -> bytes:
        """Return what the protocol writes for inputs; raises CannotTestError where it cannot."""
        try:
            return self.wire.body(shaped(inputs, self.target), identity)
        except AttemptError as error:
            raise CannotTestError(str(error)) from None

    def new_id(self) -> str:
        """Return an id for a request."""
        with self._lock:
            self._number += 1
            return f"probe-{self._run}-{self._number}"

    # Sending.

    def line_to(self, url: str) -> Line:
        """Return the line to another port of the target's host."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return self.line.to(parts.port or (443 if tls else 80), tls=tls)

    def send(self, shot: Shot, *, line: Line | None = None) -> Seen:
        """Send one request over a connection of its own; ``line``: another than the target's."""
        return self.send_at_once([shot], line=line)[0]

    def ask(self, inputs: Inputs | int = 1, **options: Any) -> Seen:
        """Send one request for predictions; ``options``: of :meth:`shot`."""
        return self.send(self.shot(inputs, **options))

    def send_at_once(self, shots: Sequence[Shot], *, line: Line | None = None) -> list[Seen]:
        """Send requests in one write over one connection."""
        self._room(shots)
        booked = [self._booked(shot) for shot in shots]
        try:
            replies = (line or self.line).send([shot.request for shot in shots], seconds=self._seconds())
        except BaseException:
            for purchases in booked:
                self._lost(purchases)
            raise
        return [self._seen(*each) for each in zip(shots, replies, booked, strict=True)]

    def send_together(self, shots: Sequence[Shot]) -> list[Seen]:
        """Send requests at the same time, each over a connection of its own."""
        self._room(shots)
        with ThreadPoolExecutor(min(TOGETHER, len(shots)) or 1) as pool:
            return list(pool.map(self.send, shots))

    def require_answer(self) -> None:
        """Raise CannotTestError where an ordinary request is not answered: refusals then show nothing."""
        if self._spent.refusals:
            raise CannotTestError(
                "the target refused requests as too many; state what it lets pass as stated_rate, or run the "
                "probe later"
            )
        seen = self.ask(1)
        if not self.answered_rows(seen):
            raise CannotTestError(
                f"an ordinary request afterwards was answered with {seen.status or 'nothing'}, so what was "
                "refused before shows nothing"
            )

    def until_refused(self, shots: Callable[[], Shot], most: int) -> list[Seen]:
        """Send requests one after the other until one is not answered, ``most`` at most."""
        seen: list[Seen] = []
        while len(seen) < most and (not seen or seen[-1].answered):
            seen.append(self.send(shots()))
        return seen

    def wait(self, seconds: float) -> None:
        """Wait; raises CannotTestError where that takes longer than the probe may."""
        if seconds > self.seconds_left:
            raise CannotTestError(
                f"it would have to wait {seconds:,.0f} s, which with the rest is more than its "
                f"{self._spent.bounds.seconds:,.0f} s"
            )
        if seconds > 0:
            self._sleep(seconds)

    @property
    def batch(self) -> int:
        """Inputs of an ordinary request: what the target file says, within the rate that is kept to."""
        return self.target.batch if self._pace is None else min(self.target.batch, self._pace.most)

    @property
    def takes_several(self) -> bool:
        """Whether one request can have several inputs."""
        return self.body(self.inputs(1)) != self.body(self.inputs(2))

    def answered_rows(self, seen: Seen) -> int:
        """Return how many inputs an answer with success has answers for, 0 where none can be found."""
        if not seen.answered:
            return 0
        try:
            document = decoded(seen.reply.body, self.secrets.cleaned)
        except AttemptError:
            return 0
        for number in range(seen.shot.inputs, 0, -1):
            try:
                rows, _ = self.wire.rows(document, number, seen.shot.id)
            except AttemptError:
                continue
            if len(rows) == number:
                return number
        return 0

    def table(self, seen: Seen) -> NDArray[np.float64] | None:
        """Return the answers (n, classes) of a request for n inputs; None where they are not as stated."""
        try:
            document = decoded(seen.reply.body, self.secrets.cleaned)
            rows, _ = self.wire.rows(document, seen.shot.inputs, seen.shot.id)
            return answers.table(rows, seen.shot.inputs, self.target)[0]
        except AttemptError:
            return None

    # Booking.

    def _seconds(self) -> float:
        return max(0.1, min(self.target.timeout, self.seconds_left))

    def _room(self, shots: Sequence[Shot]) -> None:
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

    def _booked(self, shot: Shot) -> list[Purchase]:
        """Book what a request may come to, and wait for the rate that the target file allows."""
        last = self._until
        if last is not None and dt.datetime.fromtimestamp(self.clock(), dt.UTC).date() > last:
            raise StoppedError(f"the permission to test this target ended on {last}; ask for a new one")
        pace = Pace.of(self.target)
        if pace is not None and shot.inputs > pace.most:
            raise CannotTestError(
                f"rate = {self.target.rate!r} does not allow {shot.inputs:,} inputs at a time"
            )
        self._keep_pace(shot)
        with self._lock:
            self._room([shot])
            self._spent.inputs += shot.inputs
            self._spent.requests += 1
            if shot.inputs:
                self.memory.sent.setdefault(shot.account, []).append((self.clock(), shot.inputs))
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
        if (wait := self._pace.wait(sent, shot.inputs, self.clock())) > 0:
            self.wait(wait + MARGIN)

    def _lost(self, purchases: list[Purchase]) -> None:
        if purchases:
            self._ledger.lost(purchases)

    def _seen(self, shot: Shot, reply: Reply, purchases: list[Purchase]) -> Seen:
        """Write what came of a request, and return it."""
        told = reply.headers.get("x-request-id", "")
        seen = Seen(shot, reply, told if _ID.fullmatch(told) else shot.id, self.clock())
        self._settle(seen, purchases)
        date = date_of(reply.headers.get("date", ""))
        with self._lock:
            if date is not None:
                self.memory.offset = date + 0.5 - seen.at  # dates have no fractions
            self._silent = 0 if reply.status else self._silent + 1
            silent = self._silent
            if seen.limited:
                self._spent.refusals += 1
                self.memory.limited[shot.account] = seen.at
            if seen.answered and shot.inputs:
                known = self.memory
                known.accepted[shot.account] = known.accepted.get(shot.account, 0) + shot.inputs
                known.last[shot.account] = seen.at
        if silent >= SILENT:
            self.require_target()
        return seen

    def require_target(self) -> None:
        """Raise OutageError where requests got no answer lately, and one without inputs gets none either."""
        if not self._silent:
            return
        (reply,) = self.line.send([self.get(self.path).request], seconds=self.target.timeout)
        with self._lock:
            self._silent = 0
        if not reply.status:
            raise OutageError("it answers nothing" if reply.connected else "the target takes no connection")

    def _settle(self, seen: Seen, purchases: list[Purchase]) -> None:
        if not purchases:
            return
        if seen.answered:
            table = self.table(seen)
            nothing = np.full((len(purchases), len(self.target.classes)), np.nan)
            values = nothing if table is None or table.shape != nothing.shape else table
            self._ledger.answered(purchases, values, purpose=self._spent.purpose, seconds=seen.reply.seconds)
            return
        if seen.reply.status:
            billed = verdicts.of_status(
                seen.status, seen.reply.headers, bills_rejected=self.target.bills_rejected, now=seen.at
            ).billed
        else:
            billed = "unknown" if seen.reply.connected else "no"
        if billed == "no":
            self._ledger.unsent(purchases, self._spent.purpose)
            with self._lock:
                self._spent.inputs -= len(purchases)
        else:
            self._lost(purchases)
