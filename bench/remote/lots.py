"""Inputs of one request, and when nothing more is to be sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bench.remote.exchange import Inputs
from bench.remote.ledger import Purchase


class InterruptedPurchaseError(Exception):
    """The user interrupts, or the process that asked has ended."""


@dataclass(frozen=True)
class Lot:
    """Inputs of one request: what they are known by, what they are booked under, and who asks."""

    inputs: Inputs
    purchases: list[Purchase]
    purpose: str
    account: str

    def __len__(self) -> int:
        return len(self.purchases)

    def part(self, start: int, stop: int) -> Lot:
        """Return the inputs from ``start`` up to ``stop``."""
        return Lot(self.inputs.part(start, stop), self.purchases[start:stop], self.purpose, self.account)

    def only(self, kept: list[Purchase]) -> Lot:
        """Return the inputs of ``kept``, in order."""
        wanted = set(kept)
        places = [place for place, each in enumerate(self.purchases) if each in wanted]
        return Lot(self.inputs.take(places), kept, self.purpose, self.account)


class Halt:
    """Whether nothing more is to be sent: from now on, or by the purchase that is going on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._for_good = False
        self.is_set, self.wait = self._event.is_set, self._event.wait

    def set(self) -> None:
        """Send nothing more."""
        self._for_good = True
        self._event.set()

    def pause(self) -> None:
        """Send nothing more until :meth:`resume`."""
        self._event.set()

    def resume(self) -> None:
        """Send again, unless it was stopped for good."""
        self._event.clear()
        if self._for_good:
            self._event.set()


@dataclass
class Means:
    """What time and chance are, so that tests need neither; ``halt``: when nothing more is to be sent."""

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    random: Callable[[], float]
    halt: Halt
