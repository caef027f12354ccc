"""Whether the rate limit holds across the edge of a window."""

from __future__ import annotations

import math

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen, Shot
from bench.remote.target import Target

SHORTEST = 5.0
"""Seconds of the shortest window whose edge can be met."""
BATCH = 32
"""Inputs of a request."""
AFTER = 0.5
"""Seconds after an edge at which it has certainly passed."""


def bounds(target: Target) -> Bounds:
    """Return what one early input and two bursts need."""
    return limits.bounds(target, 2 * limits.size(target) + 2, refusals=4, windows=4)


def run(context: Context) -> Verdict:
    """Send 1 input early, nearly all of the limit just before the edge, and all of it just after.

    The early input comes just after an edge by the target's clock, so that windows that begin with the first
    input and windows of the clock end at nearly the same time.
    """
    limit = limits.known_limit(context)
    if limit.window < SHORTEST:
        raise CannotTestError(f"a window of {limit.window:g} s is too short to meet its edge")
    limits.clear(context, limit)
    now = context.clock() + context.memory.offset
    edge = (math.floor(now / limit.window) + 1) * limit.window
    context.wait(edge - now + AFTER)
    early = limits.fill(context, 1)
    if not early[0].answered:
        raise CannotTestError("the account is at its limit although its window has passed")
    ends = early[0].at + limit.window
    requests = math.ceil(limit.inputs / min(BATCH, context.target.batch))
    burst = 1.5 * requests * max(early[0].reply.seconds, 0.002) + AFTER
    if 2 * burst + 2 * AFTER > limit.window / 2:
        raise CannotTestError("the target answers too slowly to send the whole limit at an edge")
    context.wait(ends - 2 * AFTER - burst - context.clock())
    before = _burst(context, limit.inputs - 1)
    context.wait(ends + AFTER - context.clock())
    after = _burst(context, limit.inputs)
    took = after[-1].at - before[0].at
    together = limits.passed(before) + limits.passed(after)
    said = (
        f"{limits.passed(before):,} inputs passed just before the edge of a window and "
        f"{limits.passed(after):,} just after it, within {took:.1f} s, under a limit of {limit.inputs:,} in "
        f"{limit.window:.0f} s."
    )
    if together > limit.most + limit.refilled(took):
        return fails(said, requests=limits.ids([before[-1], after[0], after[-1]]))
    if limits.passed(before) < limit.inputs / 2:
        raise CannotTestError(f"{said[:-1]}: too few before the edge to show whether it matters")
    return holds(said, requests=limits.ids(after[-1:]))


def _burst(context: Context, inputs: int) -> list[Seen]:
    """Send ``inputs`` inputs in batches, until one is refused."""
    left = inputs

    def next_one() -> Shot:
        nonlocal left
        size = min(BATCH, context.target.batch, left)
        left -= size
        return context.shot(size)

    seen = context.until_refused(next_one, math.ceil(inputs / min(BATCH, context.target.batch)))
    limits.require_answers(seen)
    return seen


PROBE = Probe(
    name="straddle",
    asks="Does the rate limit hold across the edge of a window?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
