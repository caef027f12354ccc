"""Progress of a purchase on standard error: inputs, money, rate, and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bench.cli.progress import duration
from bench.plan.live import Bill
from bench.remote.buying import Buyer
from bench.remote.target import Target
from bench.run_facts import CampaignFacts

EVERY = 5.0
"""Seconds between lines, at the least."""


class Purchases:
    """Says how far a purchase is, at most every few seconds; ``clock``: seconds that only increase."""

    def __init__(
        self, buyer: Buyer, bill: Bill, target: Target, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buyer, self._bill, self._target, self._clock = buyer, bill, target, clock

    def __enter__(self) -> Self:
        self._first = self._last_facts = self._buyer.facts()
        self._started = self._printed = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the last facts, for :meth:`last_lines`."""
        if error is None:
            self._last_facts = self._buyer.facts()

    def bought(self, number: int) -> None:
        """Say how far it is, where the last line was a while ago."""
        if self._clock() - self._printed >= EVERY:
            self._printed = self._clock()
            print(self.line(), file=sys.stderr)

    def line(self) -> str:
        """Return how far the purchase is."""
        facts = self._buyer.facts()
        inputs, seconds = paid(facts), self._clock() - self._started
        rate = (inputs - paid(self._first)) / seconds if seconds > 0 else 0.0
        allowed = self._target.rate_per_hour
        left = max(0, self._bill.inputs - inputs)
        words = f"{inputs:,} of up to {self._bill.inputs:,} inputs paid, {money(facts):,.2f}"
        words += f", {rate:,.1f} inputs/s"
        if rate > 0:
            expected = left / (min(rate, allowed / 3600) if allowed else rate)
            words += f", at most about {duration(expected)} left"
        return words

    def last_lines(self) -> list[str]:
        """Return what the whole purchase came to."""
        facts = self._last_facts
        fresh = paid(facts) - paid(self._first)
        unknown = sum(each.unknown for each in facts.purposes.values())
        more = f", {unknown:,} of them without an answer" if unknown else ""
        return [f"{paid(facts):,} inputs paid ({fresh:,} now){more}: {money(facts):,.2f}"]


def paid(facts: CampaignFacts) -> int:
    """Return the inputs that were paid, for all purposes."""
    return sum(each.paid for each in facts.purposes.values())


def money(facts: CampaignFacts) -> float:
    """Return the money that was spent, for all purposes."""
    return sum(each.money for each in facts.purposes.values())
