"""What attacks on a live target are run, and what they come to before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.data import query_pools
from bench.errors import UsageError, nearest, shown
from bench.plan import feasibility
from bench.plan.matrix import SURROGATES as KNOWN
from bench.remote.canary import PLANNED
from bench.remote.money import MICRO, Prices
from bench.remote.target import Target
from bench.tasks import OWN, Cell, ThreatModel, VictimSpec

PROBABILITIES = ("copycat(use_probability=true)", "labels")
"""Attacks where nothing else is said: they send the same inputs, which are paid once."""
LABELS = ("labels",)
SURROGATE = "mlp"
"""What an attacker trains where nothing else is said: it fits any inputs."""
CANARY = PLANNED
"""Inputs that show whether the model changes: a few, twice at the start, in the middle and at the end."""


@dataclass(frozen=True)
class LiveScope:
    """What is run: every attack with every surrogate and pool at every budget.

    ``attacks`` and ``surrogates``: empty for those that fit the answers and the inputs.
    """

    budgets: tuple[int, ...]
    attacks: tuple[str, ...] = ()
    surrogates: tuple[str, ...] = ()
    pools: tuple[str, ...] = ("in-distribution",)
    repeats: int = 5
    buy_repeats: int = 1
    seed: int = 0


def live_cells(
    name: str, target: Target, scope: LiveScope, facts: feasibility.PlannedVictim, attacks: Mapping[str, Any]
) -> list[Cell]:
    """Return the cells of a campaign, those of the largest budget of an attack first.

    ``attacks``: built, by their text. Raises UsageError for what cannot be run.
    """
    for surrogate in scope.surrogates:
        if surrogate not in KNOWN:
            raise UsageError(f"surrogate {shown(surrogate)}: {nearest(surrogate, KNOWN)}")
    spec = VictimSpec(OWN + name, "", scope.seed)
    cells: list[Cell] = []
    for pool in scope.pools:
        access = query_pools.access(pool, spec.data)
        for surrogate in scope.surrogates or (SURROGATE,):
            threat = ThreatModel(pool, access, "none", surrogate, target.answers)
            for text, attack in attacks.items():
                listed = feasibility.budgets(attack, text, scope.budgets)
                for budget in sorted(set(listed), reverse=True):
                    cell = Cell(spec, (), threat, text, budget, 0, scope.repeats, scope.seed)
                    feasibility.check_cell(cell, attack, facts)
                    cells += cell.group()
    return cells


def default_attacks(target: Target) -> tuple[str, ...]:
    """Return the attacks where nothing else is said."""
    return PROBABILITIES if target.answers == "probabilities" else LABELS


@dataclass(frozen=True)
class Bill:
    """Inputs to pay for, at most, by purpose; and what they come to.

    ``attacks``: by attack, without inputs that an earlier one pays for. ``round_trips``: of attacks that
    wait for answers.
    """

    target: Target
    test: int
    canary: int
    attacks: Mapping[str, int] = field(default_factory=dict)
    round_trips: Mapping[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """All inputs."""
        return self.test + self.canary + sum(self.attacks.values())

    @property
    def money(self) -> float:
        """The money for all inputs, in the currency of the target's price."""
        return cost(self.target, self.inputs)

    @property
    def hours(self) -> float | None:
        """The hours that all inputs take at the allowed rate; None without one."""
        rate = self.target.rate_per_hour
        return None if rate is None else self.inputs / rate

    def require_allowed(self) -> None:
        """Raise UsageError where a cap of the target file does not allow all of it."""
        target = self.target
        if target.budget is not None and self.inputs > target.budget:
            raise UsageError(
                f"this needs up to {self.inputs:,} inputs, and the target file allows budget = "
                f"{target.budget}; give smaller --budget or --test, or fewer attacks"
            )
        if target.money_cap is not None and self.money > target.money_cap:
            raise UsageError(
                f"this costs up to {self.money:,.2f}, and the target file allows money_cap = "
                f"{target.money_cap:g}; give smaller --budget or --test, or fewer attacks"
            )

    def hours_allowed(self, now: dt.datetime) -> float | None:
        """Return the hours from ``now`` to the end of the permission's last day, in UTC; None without one."""
        given = self.target.permission
        if given is None:
            return None
        last = dt.datetime.combine(given.until, dt.time(23, 59, 59), dt.UTC)
        return (last - now).total_seconds() / 3600

    def lines(self, latency: float | None = None, *, now: dt.datetime | None = None) -> list[str]:
        """Return what is planned in plain text, and a warning where the permission ends before that.

        ``latency``: seconds of one request, as measured. ``now``: by default by the clock.
        """
        parts = [f"{self.test:,} for the evaluation", f"{self.canary:,} to see whether the model changes"]
        parts += [f"{number:,} for {text}" for text, number in self.attacks.items()]
        hours = "" if self.hours is None else f", {hours_text(self.hours)} at {self.target.rate}"
        found = [
            f"up to {self.inputs:,} inputs: {', '.join(parts)}",
            f"up to {self.money:,.2f} at {self.target.price_per_1000:g} per 1,000{hours}",
        ]
        permission, left = self.target.permission, self.hours_allowed(now or dt.datetime.now(dt.UTC))
        if permission is not None and self.hours is not None and left is not None and self.hours > left:
            found.append(
                f"the permission ends on {permission.until}, in {hours_text(max(0.0, left))}, before all of "
                "this can be sent; nothing is sent after it: ask for a longer one, or give smaller --budget"
            )
        for text, number in self.round_trips.items():
            takes = (
                "" if latency is None else f", {hours_text(number * latency / 3600)} at {latency:.3g} s each"
            )
            found.append(f"{text} waits for answers: up to {number:,} requests one after another{takes}")
        return found


def cost(target: Target, inputs: int) -> float:
    """Return the money for ``inputs``, in the currency of the target's price."""
    return Prices.of(target).further(0, inputs)[1] / MICRO


def hours_text(hours: float) -> str:
    """Return hours as text: minutes or seconds where they are few."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def require_repeats(scope: LiveScope) -> None:
    """Raise UsageError for numbers of repeats that do not go together."""
    if not 1 <= scope.buy_repeats <= scope.repeats:
        raise UsageError(
            f"--buy-repeats {scope.buy_repeats}: [1, {scope.repeats}] is allowed, as --repeats says"
        )
