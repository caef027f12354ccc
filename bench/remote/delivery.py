"""One request after another until its inputs are answered, or it is certain that they will not be.

Who may have billed what, and what is done then, is decided by the exchange (:class:`AttemptError`). Here it
is done, within bounds: tries, waits, halves, and what may be booked.
"""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.exchange import AttemptError, Exchange, Reply
from bench.remote.ledger import Ledger, Purchase
from bench.remote.lots import Lot, Means
from bench.remote.money import RunLimitError
from bench.remote.target import Target
from bench.remote.waits import Waits, at, duration, times

LONGEST_PAUSE = 60.0
"""Seconds; the longest pause before a further try, where the target does not say how long."""
UNREADABLE = 3
"""Answers of a run that cannot be read, at which it stops."""
GO_ON = "what was answered is kept: run the same command to go on"


@dataclass(frozen=True)
class _Aside:
    """One input that the target did not answer alone, while it is open whether it answers any."""

    lot: Lot
    error: AttemptError
    requests: int  # that were sent before the target had refused it


@dataclass
class _Tries:
    """Tries of one logical request.

    ``rejected``, ``unknown``: requests that were not billed, and that may have been. ``failed``: requests in
    a row that the target failed on, those of the larger lot too. ``waited``: seconds of pauses that the
    target asked for. ``token``: its idempotency key.
    """

    rejected: int = 0
    unknown: int = 0
    failed: int = 0
    waited: float = 0.0
    token: str = field(default_factory=lambda: secrets.token_hex(16))


class Delivery:
    """Sends lots, whose inputs the ledger holds, until they are answered; safe to use from several threads.

    ``limit``: inputs a request, lowered where the target takes fewer. ``until``: the last day, in UTC, on
    which may be sent; None: without an end. ``answered``: whether the target answered any lot of this run.
    ``identity``: what the target says of its model.
    """

    def __init__(
        self,
        exchange: Exchange,
        ledger: Ledger,
        target: Target,
        means: Means,
        *,
        limit: int,
        until: dt.date | None = None,
    ) -> None:
        self._exchange, self._ledger, self._target, self._means = exchange, ledger, target, means
        self.limit, self._classes = limit, len(target.classes)
        self._lock = threading.Lock()
        self._waits, self._since = Waits(means, until), means.clock()
        self._before, self._depth = 0.0, 0
        self._failures = self._unreadable = self._requests = 0
        self._aside: list[_Aside] = []
        self.answered = False
        self.digits = 0
        self.identity = ledger.noted("identity") or ""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the seconds of the block among those of the run; blocks may be nested."""
        if not self._depth:
            self._since = self._means.clock()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._before += self._means.clock() - self._since

    @property
    def seconds(self) -> float:
        """Seconds that the run spent on requests and waits."""
        return self._before + (self._means.clock() - self._since if self._depth else 0.0)

    def deliver(self, lot: Lot, *, failed: int = 0) -> int:
        """Send a lot; its answers are in the ledger then.

        ``failed``: requests of the larger lot that failed in a row; returns the same. Raises StoppedError
        where the same command can go on later, UsageError where the target or its file is wrong.
        """
        tries = _Tries(failed=failed)
        while lot:
            if len(lot) > self.limit:
                return self._halves(lot, tries.failed)
            booked = self._booked(lot)
            if len(booked) < len(lot):
                lot, tries.token = booked, secrets.token_hex(16)
                if not lot:
                    break
            with self._lock:
                self._requests += 1
                number = self._requests
            try:
                self._record(lot, self._attempt(lot, tries.token), number)
            except AttemptError as error:
                verdict = self._handle(lot, error, tries)
                if verdict == "done":
                    break
                if verdict == "halves":
                    return self._halves(lot, tries.failed)
            else:
                return 0
        return tries.failed

    def _handle(self, lot: Lot, error: AttemptError, tries: _Tries) -> Literal["again", "halves", "done"]:
        """Return what to do with a lot that brought no answers; it is held again unless it is done."""
        unbilled = error.action == "isolate" and error.billed == "no"
        if error.action == "stop" or (unbilled and not self.answered):
            self._stopped(lot, error)
            return "done"
        if unbilled:
            return self._rejected(lot, error, tries)
        if error.action == "isolate":
            return self._failed(lot, error, tries)
        self._unbook(lot, error)
        if error.action == "halve":
            if len(lot) == 1:
                self._give_up(f"the target takes not even one input: {error}")
            with self._lock:
                self.limit = min(self.limit, len(lot) // 2)
        else:
            self._pause(error, tries)
        if error.billed != "no":
            self._again(lot, error)
        return "again"

    def _failed(self, lot: Lot, error: AttemptError, tries: _Tries) -> Literal["again", "halves", "done"]:
        """Go on after a request that the target failed on, and that may have been billed."""
        tries.failed += 1
        if self._target.retry_unknown == 0:
            self._unbook(lot, error)
            raise StoppedError(
                f"{error} (perhaps billed, and retry_unknown = 0 allows no further try); {self._go_on()}"
            )
        if tries.failed > 1 and not self.answered:
            self._unbook(lot, error)
            fewer = "; if it answers fewer inputs at a time, lower batch" if len(lot) > 1 else ""
            self._give_up(f"{error} ({times(tries.failed)}){fewer}")
        if tries.failed > 1 and len(lot) == 1:
            self._set_aside(lot, error)
            self._bounded(tries.failed, error)
            return "done"
        self._unbook(lot, error)
        self._bounded(tries.failed, error)
        self._again(lot, error)
        return "again" if tries.failed == 1 else "halves"

    def _rejected(self, lot: Lot, error: AttemptError, tries: _Tries) -> Literal["halves", "done"]:
        """Go on without an input that the target rejects, alone or for all of its request, unbilled.

        It has answered others, so the target file is right. The one input stays booked, as what is not booked
        is not kept.
        """
        tries.failed += 1
        if len(lot) == 1:
            self._set_aside(lot, error)
            self._bounded(tries.failed, error)
            return "done"
        self._unbook(lot, error)
        self._bounded(tries.failed, error)
        return "halves"

    def _halves(self, lot: Lot, failed: int) -> int:
        middle = (len(lot) + 1) // 2
        for half in (lot.part(0, middle), lot.part(middle, len(lot))):
            failed = self.deliver(half, failed=failed)
        return failed

    def _booked(self, lot: Lot) -> Lot:
        """Return what of a lot is booked and to be sent now; waits for the rate and the target."""
        while True:
            self._waits.as_asked()
            fresh, wait = self._ledger.sending(lot.purchases, lot.purpose)
            if not wait:
                return lot if len(fresh) == len(lot) else lot.only(fresh)
            self._waits.sleep(wait)

    def _attempt(self, lot: Lot, token: str) -> Reply:
        try:
            reply = self._exchange.attempt(lot.inputs, account=lot.account, idempotency=token)
        except AttemptError:
            raise
        except BaseException:
            self._ledger.lost(lot.purchases)
            raise
        if reply.answers.shape != (len(lot), self._classes):
            raise AttemptError(
                f"the target answers {reply.answers.shape} where {(len(lot), self._classes)} is due",
                billed="yes",
                action="stop",
            )
        return reply

    def _record(self, lot: Lot, reply: Reply, number: int) -> None:
        """Write what came back of request ``number``, unless another model answered."""
        with self._lock:
            before = self.identity
            if reply.identity and not before:
                self.identity = reply.identity
                self._ledger.note("identity", reply.identity)
            self.digits = max(self.digits, reply.digits)
        if reply.identity and before and reply.identity != before:
            self._ledger.lost(lot.purchases)
            raise UsageError(
                f"the target now says that its model is {reply.identity!r}, not {before!r}: its answers do "
                "not belong to those that were bought; name another folder for this model"
            )
        self._ledger.answered(
            lot.purchases, reply.answers, purpose=lot.purpose, seconds=reply.seconds, run_seconds=self.seconds
        )
        with self._lock:
            self.answered, self._failures = True, 0
            settled = [each for each in self._aside if each.requests < number]
            self._aside = [each for each in self._aside if each.requests >= number]
        for each in settled:  # the target answers, only not these
            self._refused(each.lot)

    # What is refused is known only once the target answers something else: in an outage it answers nothing.

    def _set_aside(self, lot: Lot, error: AttemptError) -> None:
        with self._lock:
            self._aside.append(_Aside(lot, error, self._requests))

    def open_refusals(self) -> dict[Purchase, NDArray[np.float64]]:
        """Return NaN (classes,) for inputs that were refused, and nothing was answered since."""
        with self._lock:
            return {each.lot.purchases[0]: np.full(self._classes, np.nan) for each in self._aside}

    def forget_refusals(self) -> None:
        """Take back refusals since the last answer, so that another run asks for these inputs again."""
        with self._lock:
            forgotten, self._aside = self._aside, []
        for each in forgotten:
            self._unbook(each.lot, each.error)

    def _unbook(self, lot: Lot, error: AttemptError) -> None:
        if error.billed == "no":
            self._ledger.unsent(lot.purchases, lot.purpose)
        else:
            self._ledger.lost(lot.purchases)

    def _again(self, lot: Lot, error: AttemptError) -> None:
        """Set aside once more what is booked already; raises StoppedError where the caps do not allow it."""
        try:
            self._ledger.hold(len(lot))
        except RunLimitError:
            raise
        except BudgetError as full:
            raise StoppedError(f"{error}; it may have been billed, and {full}") from full

    def _pause(self, error: AttemptError, tries: _Tries) -> None:
        """Wait before a further try; raises StoppedError where there is none, or the wait is too long."""
        target, means = self._target, self._means
        if error.billed == "unknown":
            tries.unknown += 1
            if tries.unknown > target.retry_unknown:
                raise StoppedError(f"{error} ({times(tries.unknown)}, perhaps billed); {self._go_on()}")
        else:
            tries.rejected += 1
            if tries.rejected > target.retries:
                raise StoppedError(f"{error} ({times(tries.rejected)}); {self._go_on()}")
        longest = min(LONGEST_PAUSE, 2.0 ** (tries.rejected + tries.unknown - 1))
        wait = means.random() * longest if error.wait is None else error.wait
        tries.waited += error.wait or 0.0
        if tries.waited > target.patience:
            raise StoppedError(
                f"{error}; it asks to wait {duration(wait)}, which with earlier waits is more than "
                f"patience = {target.patience:g} s; what was answered is kept: run the same command "
                f"{at(means.clock() + wait)}"
            )
        if error.wait is None:
            self._waits.sleep(wait)
        else:  # it holds for every connection
            self._waits.ask(wait)
            self._waits.as_asked()

    def _bounded(self, failed: int, error: AttemptError) -> None:
        """Raise StoppedError where more fails in a row than one bad input of a request explains."""
        most = 4 + self._target.batch.bit_length()
        with self._lock:
            self._failures += 1
            everywhere = self._failures
        if failed > most or everywhere > most * self._target.connections:
            self._give_up(f"{error} ({max(failed, everywhere)} requests in a row)")

    def _refused(self, lot: Lot) -> None:
        """Write that the target does not answer these inputs."""
        nothing = np.full((len(lot), self._classes), np.nan)
        self._ledger.answered(lot.purchases, nothing, purpose=lot.purpose, run_seconds=self.seconds)

    def _stopped(self, lot: Lot, error: AttemptError) -> None:
        """Raise what ends the run; return where an answer cannot be read and was not the first or third."""
        if error.billed != "yes":
            self._unbook(lot, error)
            self._give_up(str(error))
        if not self.answered:
            self._ledger.lost(lot.purchases)
            self._give_up(str(error))
        self._refused(lot)
        with self._lock:
            self._unreadable += 1
            stops = self._unreadable >= UNREADABLE
        if stops:
            self._give_up(f"{error} (the {UNREADABLE}rd answer of this run that cannot be read)")

    def _go_on(self) -> str:
        """Return what to do after a stop."""
        return GO_ON if self.answered else "run the same command to try again"

    def _give_up(self, message: str) -> NoReturn:
        if self.answered:
            raise StoppedError(f"{message}; {GO_ON}")
        raise UsageError(f"{message}; nothing was answered yet: change the target or its file")
