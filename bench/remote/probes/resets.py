"""Whether inputs count whose client resets the connection as soon as it has its answer."""

from __future__ import annotations

import math

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

IN_A_ROW = 10
"""Requests on one connection that stays open."""


def bounds(target: Target) -> Bounds:
    """Return what going past the limit twice needs: by requests that are reset, and by others."""
    return limits.bounds(target, 2 * _most(limits.size(target)), refusals=IN_A_ROW + 1)


def _most(inputs: int) -> int:
    return math.ceil(1.1 * inputs) + 2


def run(context: Context) -> Verdict:
    """Send single inputs and reset each connection once its answer is whole, until one is refused.

    A server that counts after it has answered loses what it was about to count, and one that gives back what
    was not delivered gives back what was. A reset before the answer would gain a client nothing.
    """
    limit = limits.known_limit(context)
    limits.clear(context, limit)
    seen = context.until_refused(lambda: context.shot(1), _most(limit.inputs), reset=True)
    limits.require_answers(seen)
    limits.require_passed(seen)
    passed = limits.passed(seen)
    said = f"{passed:,} inputs were answered whose connections were reset after the answer"
    if passed > limit.most + limit.refilled(seen[-1].at - seen[0].at):
        if not _is_limited(context, _most(limit.inputs)):
            raise CannotTestError(f"{said}, and as many others, so there is no limit to go past")
        return fails(f"{said}, of a limit of {limit.inputs:,}.", requests=limits.ids(seen[-3:]))
    if not seen[-1].limited:
        raise CannotTestError(f"{said}; the target answers too slowly to stay at its limit")
    return holds(f"{said}; the next one was refused.", requests=limits.ids(seen[-3:]))


def _is_limited(context: Context, most: int) -> bool:
    """Return whether inputs are refused on connections that stay open.

    For a server, a client that closes its connection after the answer goes away like one that resets it.
    """
    sent = 0
    while sent < most:
        seen = context.send_at_once([context.shot(1) for _ in range(min(IN_A_ROW, most - sent))])
        limits.require_answers(seen)
        if any(each.limited for each in seen):
            return True
        sent += len(seen)
    return False


PROBE = Probe(
    name="resets",
    asks="Do inputs count whose connection is reset once the answer is there?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
