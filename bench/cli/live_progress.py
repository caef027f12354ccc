"""Progress of a purchase on standard error: inputs, money, rate, and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.cli.progress import duration
from bench.remote.progress import Progress
from bench.run_facts import CampaignFacts

if TYPE_CHECKING:
    from bench.plan.live import Bill  # which loads torch and ART

EVERY = 5.0
"""Seconds between lines, at the least."""
LONG = 5.0
"""Seconds of a wait from which on it is said; a shorter one does not look like a hang."""


class Waits:
    """Says when nothing is sent for a while: once, though every connection waits.

    ``clock``: seconds that only increase.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock()

    def __call__(self, progress: Progress) -> None:
        """Print a line where a long wait begins, or becomes longer."""
        until = self._clock() + progress.waits
        if progress.waits >= LONG and until > self._until + 1:
            self._until = until
            asked = "the target asks to wait, or its rate is reached"
            print(f"{asked}: the next request is in {duration(progress.waits)}", file=sys.stderr)


class Purchases:
    """Says how far a purchase is, at most every few seconds, and when it waits.

    ``clock``: seconds that only increase. ``others``: inputs that were booked before for other purposes.
    """

    def __init__(self, bill: Bill, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bill, self._clock, self._printed = bill, clock, clock()
        self._waits = Waits(clock=clock)
        self.others = 0

    def __call__(self, progress: Progress) -> None:
        """Print a line, where the last one was a while ago or a wait begins."""
        self._waits(progress)
        if self._clock() - self._printed >= EVERY:
            self._printed = self._clock()
            print(self.line(progress), file=sys.stderr)

    def line(self, progress: Progress) -> str:
        """Return how far the purchase is."""
        inputs = f"{progress.inputs - self.others:,} of up to {self._bill.inputs:,} inputs"
        words = f"{inputs}, {progress.money:,.2f} spent in all, {progress.per_hour / 3600:,.1f} inputs/s"
        if progress.seconds_left is not None:
            words += f", at most about {duration(progress.seconds_left)} left"
        return words


def outcome(facts: CampaignFacts, before: CampaignFacts) -> str:
    """Return what a purchase came to; ``before``: this run."""
    inputs, earlier = (sum(each.paid for each in known.purposes.values()) for known in (facts, before))
    unknown = sum(each.unknown for each in facts.purposes.values())
    money = sum(each.money for each in facts.purposes.values())
    more = f", {unknown:,} of them without an answer" if unknown else ""
    return f"{inputs:,} inputs paid, {inputs - earlier:,} of them now{more}: {money:,.2f}"
