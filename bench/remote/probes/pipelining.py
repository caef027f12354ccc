"""Whether requests in one write on one connection are counted one by one."""

from __future__ import annotations

import math

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

MOST = 24
"""Requests in one write at most, beyond those that the limit may let pass."""


def bounds(target: Target) -> Bounds:
    """Return what the limit and one write past it need."""
    most = math.ceil(limits.OVER * limits.size(target)) + MOST
    return limits.bounds(target, most, refusals=most - limits.size(target))


def run(context: Context) -> Verdict:
    """Use all but one input of the limit, then send several requests in one write."""
    limit = limits.known_limit(context)
    limits.clear(context, limit)
    used = limits.fill(context, limit.inputs - 1) if limit.inputs > 1 else []
    if used and used[-1].limited:
        raise CannotTestError(
            f"the target refused after {limits.passed(used):,} inputs, before its limit of {limit.inputs:,}"
        )
    start = used[0].at if used else context.clock()
    over = limit.most - limit.inputs  # so much more than it states a limit may let pass
    number = over + min(MOST, 4 + limit.refilled(2 * (context.clock() - start)))
    seen = context.send_at_once([context.shot(1) for _ in range(number)])
    passed = limits.passed(seen)
    allowed = 1 + over + limit.refilled(seen[-1].at - start)
    said = (
        f"With {limits.passed(used):,} inputs of {limit.inputs:,} used, {number} requests were written at "
        f"once on one connection and {passed} answered."
    )
    if passed > allowed:
        return fails(said, requests=limits.ids(seen))
    if number <= allowed:
        raise CannotTestError("the target answers too slowly to stay at its limit")
    if not any(each.answered or each.limited for each in seen):
        raise CannotTestError(f"{said[:-1]}, and none refused for its rate")
    return holds(said, requests=limits.ids(seen))


PROBE = Probe(
    name="pipelining",
    asks="Are several requests in one write on one connection counted one by one?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
