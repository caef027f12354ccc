"""Which inputs the attacks of a campaign will send, found out without sending any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import NotApplicable, PluginError
from bench.inputs import Array
from bench.plan.live import Bill
from bench.remote.target import Target
from bench.runner.live import LiveContext, required
from bench.tasks import Cell


class _SeenError(Exception):
    """The first query of an attack, which is not sent."""

    def __init__(self, x: Array) -> None:
        super().__init__("a query that is not sent")
        self.x = x


def bill(
    cells: Sequence[Cell],
    attacks: Mapping[str, Any],
    context: LiveContext,
    target: Target,
    *,
    canary: int,
    buy_repeats: int,
) -> Bill:
    """Return what the cells have to buy at most, the test inputs and ``canary`` inputs included.

    Of attacks whose queries do not depend on answers, inputs that several of them send count once.
    """
    known: set[tuple[bytes, int]] = set()
    inputs: dict[str, int] = {}
    trips: dict[str, int] = {}
    test = len(context.victim(cells[0].victim).splits.test.x)
    for cell in cells:
        attack = attacks[cell.attack]
        if cell.repeat >= buy_repeats or not attack.queries or _reason(cell, attack, context):
            continue
        same = [each.budget for each in cells if replace(each, budget=cell.budget) == cell]
        trips_here = attack.round_trips(cell.budget)
        if trips_here > 1:
            trips[cell.attack] = max(trips.get(cell.attack, 0), trips_here)
        if attack.prefix and cell.budget < max(same):
            continue
        sent = _first_query(cell, attack, context) if trips_here == 1 else None
        if sent is None or len(sent) != cell.budget:
            inputs[cell.attack] = inputs.get(cell.attack, 0) + cell.budget
            continue
        fresh = set(_numbered(sent)) - known
        known |= fresh
        inputs[cell.attack] = inputs.get(cell.attack, 0) + len(fresh)
    return Bill(target, test, canary, inputs, trips)


def _reason(cell: Cell, attack: Any, context: LiveContext) -> str:
    """Return why a cell will not be run, or an empty string."""
    try:
        required(cell, attack, context)
    except (NotApplicable, PluginError) as reason:
        return str(reason)
    return ""


def _first_query(cell: Cell, attack: Any, context: LiveContext) -> Array | None:
    """Return the inputs (n, …) of an attack's first query; None where it sends none."""

    def seen(x: Array, _account: str) -> NDArray[np.float64]:
        raise _SeenError(x)

    pool = context.pool(cell.victim, cell.threat.pool, cell.seed)
    try:
        context.acquire(cell, attack, pool, seen)
    except _SeenError as query:
        return query.x
    except (PluginError, NotApplicable):
        return None
    return None


def _numbered(x: Array) -> list[tuple[bytes, int]]:
    """Return inputs (n, …) as bytes, each with how often it came before."""
    times: dict[bytes, int] = {}
    found = []
    for row in np.ascontiguousarray(x):
        key = row.tobytes()
        found.append((key, times.get(key, 0)))
        times[key] = times.get(key, 0) + 1
    return found
