"""What inputs cost, in integers: no sum of a campaign drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from bench.errors import BudgetError
from bench.remote.target import Target

MICRO = 1_000_000
"""Micro-units in one unit of the currency, and in one billed unit."""


class RunLimitError(BudgetError):
    """A run may not book as much, whatever the caps of the target file allow."""


@dataclass(frozen=True)
class Prices:
    """What a target costs.

    ``units``: micro-units billed an input, rounded up; ``free``: that are free in all. ``price``: micro-units
    of the currency for 1,000 billed units. ``inputs_cap``, ``money_cap``: the most that may be booked, in
    inputs and in micro-units of the currency; None: without a cap.
    """

    units: int
    free: int
    price: Fraction
    inputs_cap: int | None
    money_cap: int | None

    @classmethod
    def of(cls, target: Target) -> Prices:
        """Return the prices and caps that a target file states; decimals are taken as they are written."""
        cap = None if target.money_cap is None else math.floor(_exact(target.money_cap) * MICRO)
        return cls(
            units=math.ceil(_exact(target.units_per_input) * MICRO),
            free=math.floor(_exact(target.free_units) * MICRO),
            price=_exact(target.price_per_1000) * MICRO,
            inputs_cap=target.budget,
            money_cap=cap,
        )

    def cost(self, units: int) -> int:
        """Return what the first ``units`` (micro-units) of a campaign cost, in micro-units, rounded up."""
        return math.ceil(max(0, units - self.free) * self.price / (1000 * MICRO))

    def further(self, units: int, inputs: int) -> tuple[int, int]:
        """Return the units of ``inputs`` more, and what they cost once ``units`` are billed."""
        more = inputs * self.units
        return more, self.cost(units + more) - self.cost(units)


def _exact(value: float) -> Fraction:
    """Return the decimal number that a file states, rather than the nearest binary one."""
    return Fraction(repr(value))
