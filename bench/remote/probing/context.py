"""What a probe sends through: everything is booked before it is sent, and nothing goes beyond its bounds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.remote import answers
from bench.remote.exchange import AttemptError, Inputs
from bench.remote.ledger import Ledger, Purchase
from bench.remote.probing.base import Bounds, CannotTestError, OutageError
from bench.remote.probing.booking import Booking
from bench.remote.probing.line import Line, Reply, Request
from bench.remote.probing.shots import Seen, Shot
from bench.remote.protocols.base import Wire, decoded, shaped
from bench.remote.secrets import Secrets
from bench.remote.target import Target

TOGETHER = 20
"""Connections at a time, where a probe sends many."""
SILENT = 3
"""Requests in a row without any answer after which the target is taken to be gone."""


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
        self.triggers = triggers
        self.path = self.path_of(wire.address)
        self.on_loopback = until is None
        self._booking = Booking(target, ledger, clock=clock, sleep=sleep, until=until)
        self.memory = self._booking.memory

    # One probe.

    def begin(self, name: str, bounds: Bounds, *, paced: bool = True) -> None:
        """Start a probe; what follows is within its bounds.

        ``paced``: keep below the rate that the target states, for probes of something else; they may take the
        time of its windows besides.
        """
        self._booking.begin(name, bounds, paced=paced)

    @property
    def spent(self) -> tuple[int, int, float]:
        """Inputs that this probe has booked, requests that it has sent, and seconds since it began."""
        return self._booking.spent

    @property
    def seconds_left(self) -> float:
        """Seconds that this probe may still take."""
        return self._booking.seconds_left

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
        return self._booking.new_id()

    # Sending.

    def line_to(self, url: str) -> Line:
        """Return the line to another port of the target's host."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return self.line.to(parts.port or (443 if tls else 80), tls=tls)

    def send(self, shot: Shot, *, line: Line | None = None, reset: bool = False) -> Seen:
        """Send one request over a connection of its own.

        ``line``: another than the target's. ``reset``: reset the connection once the answer is there.
        """
        return self.send_at_once([shot], line=line, reset=reset)[0]

    def ask(self, inputs: Inputs | int = 1, **options: Any) -> Seen:
        """Send one request for predictions; ``options``: of :meth:`shot`."""
        return self.send(self.shot(inputs, **options))

    def send_at_once(
        self, shots: Sequence[Shot], *, line: Line | None = None, reset: bool = False
    ) -> list[Seen]:
        """Send requests in one write over one connection; ``reset``: see :meth:`send`."""
        booking = self._booking
        booking.require_room(shots)
        booked = [booking.book(shot) for shot in shots]
        requests = [shot.request for shot in shots]
        try:
            seconds = booking.seconds_of_request
            replies = (line or self.line).send(requests, seconds=seconds, reset=reset)
        except BaseException:
            for purchases in booked:
                booking.lose(purchases)
            raise
        return [self._seen(*each) for each in zip(shots, replies, booked, strict=True)]

    def _seen(self, shot: Shot, reply: Reply, purchases: list[Purchase]) -> Seen:
        """Write what came of a request, and return it."""
        seen = self._booking.seen(shot, reply)
        self._booking.settle(seen, purchases, self.table(seen) if seen.answered and purchases else None)
        if self._booking.silent >= SILENT:
            self.require_target()
        return seen

    def require_target(self) -> None:
        """Raise OutageError where requests got no answer lately, and one without inputs gets none either."""
        if not self._booking.silent:
            return
        (reply,) = self.line.send([self.get(self.path).request], seconds=self.target.timeout)
        self._booking.heard()
        if not reply.status:
            raise OutageError("it answers nothing" if reply.connected else "the target takes no connection")

    def send_together(self, shots: Sequence[Shot]) -> list[Seen]:
        """Send requests at the same time, each over a connection of its own."""
        self._booking.require_room(shots)
        with ThreadPoolExecutor(min(TOGETHER, len(shots)) or 1) as pool:
            return list(pool.map(self.send, shots))

    def require_answer(self) -> None:
        """Raise CannotTestError where an ordinary request is not answered: refusals then show nothing."""
        if self._booking.refusals:
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

    def until_refused(self, shots: Callable[[], Shot], most: int, *, reset: bool = False) -> list[Seen]:
        """Send requests one after the other until one is not answered, ``most`` at most.

        ``reset``: see :meth:`send`.
        """
        seen: list[Seen] = []
        while len(seen) < most and (not seen or seen[-1].answered):
            seen.append(self.send(shots(), reset=reset))
        return seen

    def wait(self, seconds: float) -> None:
        """Wait; raises CannotTestError where that takes longer than the probe may."""
        self._booking.wait(seconds)

    @property
    def batch(self) -> int:
        """Inputs of an ordinary request: what the target file says, within the rate that is kept to."""
        return self._booking.batch

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
