"""Waits before a request: for what the target asks, up to the last day on which it may be tested."""

from __future__ import annotations

import datetime as dt
import threading

from bench.errors import StoppedError
from bench.remote.lots import InterruptedPurchaseError, Means


class Waits:
    """Waits of one run; safe to use from several threads.

    ``until``: the last day, in UTC, on which may be sent; None: without an end. No wait is longer than it was
    to be when it began, also if the clock is set back.
    """

    def __init__(self, means: Means, until: dt.date | None) -> None:
        self._means, self._until = means, until
        self._lock = threading.Lock()
        self._not_before, self._longest = means.clock(), 0.0

    def ask(self, seconds: float) -> None:
        """Send nothing for ``seconds``, over no connection."""
        with self._lock:
            self._not_before = max(self._not_before, self._means.clock() + seconds)
            self._longest = max(self._longest, seconds)

    def as_asked(self) -> None:
        """Wait until the target may be asked; raises as :meth:`sleep`, and StoppedError where it may not."""
        until = self._not_before
        self.sleep(min(until - self._means.clock(), self._longest))
        with self._lock:
            if self._not_before == until:
                self._longest = 0.0
        last = self._until
        if last is not None and dt.datetime.fromtimestamp(self._means.clock(), dt.UTC).date() > last:
            raise StoppedError(
                f"the permission to test this target ended on {last}; ask for a new one and write it into "
                "the target file, then run the same command: what was answered is kept"
            )

    def sleep(self, seconds: float) -> None:
        """Sleep; raises InterruptedPurchaseError when nothing more is to be sent."""
        means, left = self._means, seconds
        then = means.clock() + seconds
        while not means.halt.is_set() and (wait := min(left, then - means.clock())) > 0:
            means.sleep(wait)
            left -= wait
        if means.halt.is_set():
            raise InterruptedPurchaseError


def times(number: int) -> str:
    """Return how often something was tried, in words."""
    return "tried once" if number == 1 else f"tried {number} times"


def duration(seconds: float) -> str:
    """Return a wait in words."""
    if not seconds < 10 * 365 * 86_400:
        return "for ever"
    return f"{seconds:.0f} s" if seconds < 120 else str(dt.timedelta(seconds=round(seconds)))


def at(seconds: float) -> str:
    """Return when that is, in words."""
    try:
        then = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "when the target allows it"
    return f"after {then:%Y-%m-%d %H:%M} UTC"
