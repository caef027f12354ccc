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

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.exchange import AttemptError, Exchange, Reply
from bench.remote.ledger import Ledger
from bench.remote.lots import InterruptedPurchaseError, Lot, Means
from bench.remote.target import Target

LONGEST_PAUSE = 60.0
"""Seconds; the longest pause before a further try, where the target does not say how long."""
UNREADABLE = 3
"""Answers of a run that cannot be read, at which it stops."""
GO_ON = "what was answered is kept: run the same command to go on"


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

    ``classes``: columns of an answer. ``limit``: inputs a request, lowered where the target takes fewer.
    ``answered``, ``refused``: whether the target did so with any lot of this run. ``identity``: what the
    target says of its model.
    """

    def __init__(
        self, exchange: Exchange, ledger: Ledger, target: Target, means: Means, *, limit: int, classes: int
    ) -> None:
        self._exchange, self._ledger, self._target, self._means = exchange, ledger, target, means
        self.limit, self._classes = limit, classes
        self._lock = threading.Lock()
        self._not_before = self._since = means.clock()
        self._before, self._depth = 0.0, 0
        self._failures = self._unreadable = 0
        self.answered = self.refused = False
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
            try:
                self._record(lot, self._attempt(lot, tries.token))
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
        self._unbook(lot, error)
        verdict: Literal["again", "halves"] = "again"
        if error.action == "isolate":
            tries.failed += 1
            self._bounded(tries.failed, error)
            if tries.failed > 1 and len(lot) == 1:
                self._refused(lot)
                return "done"
            verdict = "again" if tries.failed == 1 else "halves"
        elif error.action == "halve":
            if len(lot) == 1:
                self._give_up(f"the target takes not even one input: {error}")
            with self._lock:
                self.limit = min(self.limit, len(lot) // 2)
        else:
            self._pause(error, tries)
        if error.billed != "no" or error.action == "isolate":
            self._again(lot, error)
        return verdict

    def _rejected(self, lot: Lot, error: AttemptError, tries: _Tries) -> Literal["halves", "done"]:
        """Go on without an input that the target rejects, alone or for all of its request, unbilled.

        It has answered others, so the target file is right. The one input stays booked, as what is not booked
        is not kept.
        """
        tries.failed += 1
        if len(lot) == 1:
            self._refused(lot)
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
            self._sleep_until(self._not_before)
            fresh, wait = self._ledger.sending(lot.purchases, lot.purpose)
            if not wait:
                return lot if len(fresh) == len(lot) else lot.only(fresh)
            self._sleep_until(self._means.clock() + wait)

    def _sleep_until(self, then: float) -> None:
        """Sleep; raises InterruptedPurchaseError when nothing more is to be sent."""
        means = self._means
        while not means.halt.is_set() and (wait := then - means.clock()) > 0:
            means.sleep(wait)
        if means.halt.is_set():
            raise InterruptedPurchaseError

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

    def _record(self, lot: Lot, reply: Reply) -> None:
        """Write what came back, unless another model answered."""
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

    def _unbook(self, lot: Lot, error: AttemptError) -> None:
        if error.billed == "no":
            self._ledger.unsent(lot.purchases, lot.purpose)
        else:
            self._ledger.lost(lot.purchases)

    def _again(self, lot: Lot, error: AttemptError) -> None:
        """Set aside once more what is booked already; raises StoppedError where the caps do not allow it."""
        try:
            self._ledger.hold(len(lot))
        except BudgetError as full:
            raise StoppedError(f"{error}; it may have been billed, and {full}") from full

    def _pause(self, error: AttemptError, tries: _Tries) -> None:
        """Wait before a further try; raises StoppedError where there is none, or the wait is too long."""
        target, means = self._target, self._means
        if error.billed == "unknown":
            tries.unknown += 1
            if tries.unknown > target.retry_unknown:
                raise StoppedError(f"{error} ({_times(tries.unknown)}, perhaps billed); {self._go_on()}")
        else:
            tries.rejected += 1
            if tries.rejected > target.retries:
                raise StoppedError(f"{error} ({_times(tries.rejected)}); {self._go_on()}")
        longest = min(LONGEST_PAUSE, 2.0 ** (tries.rejected + tries.unknown - 1))
        wait = means.random() * longest if error.wait is None else error.wait
        tries.waited += error.wait or 0.0
        if tries.waited > target.patience:
            raise StoppedError(
                f"{error}; it asks to wait {_duration(wait)}, which with earlier waits is more than "
                f"patience = {target.patience:g} s; what was answered is kept: run the same command "
                f"{_at(means.clock() + wait)}"
            )
        until = means.clock() + wait
        if error.wait is not None:  # it holds for every connection
            with self._lock:
                self._not_before = max(self._not_before, until)
        self._sleep_until(until)

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
        self.refused = True
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


def _times(number: int) -> str:
    return "tried once" if number == 1 else f"tried {number} times"


def _duration(seconds: float) -> str:
    if not seconds < 10 * 365 * 86_400:
        return "for ever"
    return f"{seconds:.0f} s" if seconds < 120 else str(dt.timedelta(seconds=round(seconds)))


def _at(seconds: float) -> str:
    """Return when that is, in words."""
    try:
        then = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "when the target allows it"
    return f"after {then:%Y-%m-%d %H:%M} UTC"
