"""Whether the rate limit counts inputs, or requests however many inputs they have."""

from __future__ import annotations

import math

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

BATCH = 32
"""Inputs of a request in the second series."""
APART = 1.10
"""Both series may differ by so much."""


def bounds(target: Target) -> Bounds:
    """Return what two series need, the second with batches."""
    return limits.bounds(target, 2 * (1.1 * limits.size(target) + 2) + 2 * BATCH, windows=2)


def run(context: Context) -> Verdict:
    """Send single inputs until one is refused, let the window pass, then the same in batches."""
    limit = limits.stated_limit(context.target)
    most = limits.UNSTATED
    if limit is not None:
        limit = limits.known_limit(context)
        limits.clear(context, limit)
        most = limit.most + math.ceil(0.05 * limit.inputs) + 1
    else:
        limits.require_pace(context, most)
    seen = limits.fill(context, most)
    limits.require_passed(seen)
    seconds = seen[-1].at - seen[0].at
    single = limits.passed(seen)
    if not seen[-1].limited:
        if limit and single <= limit.most + limit.inputs * seconds / limit.window:
            raise CannotTestError(
                f"the target answers too slowly to reach its limit: {single:,} inputs took {seconds:.1f} s"
            )
        than = f", more than the stated {limit.inputs:,}" if limit else ""
        return fails(
            f"{single:,} inputs were sent one by one in {seconds:.1f} s and all answered{than}.",
            *(
                ()
                if limit
                else ("A higher limit can be tested if the target file states it as stated_rate.",)
            ),
            requests=limits.ids(seen[-1:]),
        )
    window = limit.window if limit else limits.retry_window(seen[-1])
    if limit is None:
        context.memory.limit = (single, window)
        limit = limits.Limit(single, window, stated=False)
    if single > limit.most + limit.refilled(seconds):
        return fails(
            f"{single:,} inputs were answered in {seconds:.1f} s, more than the stated {limit.inputs:,}."
        )
    size = min(BATCH, context.target.batch, max(1, limit.inputs // 2))
    if size == 1:
        raise CannotTestError(
            f"after {single:,} inputs the next was refused, but with batch = 1 requests of several inputs "
            "cannot be compared"
        )
    limits.clear(context, limit)
    enough = math.ceil(max(single * APART, limit.inputs * APART)) + size
    batches = context.until_refused(lambda: context.shot(size), math.ceil(enough / size))
    first = batches[0]
    if not first.answered:
        raise CannotTestError(f"a request of {size} inputs was answered with {first.status or 'nothing'}")
    limits.require_answers(batches)
    together = limits.passed(batches)
    took = batches[-1].at - batches[0].at
    counts = f"{single:,} inputs passed one by one and {together:,} in requests of {size}"
    if together > single * APART + limit.refilled(took):
        return fails(
            f"{counts}: the limit counts requests rather than inputs.", requests=limits.ids(batches[-2:])
        )
    if not batches[-1].limited:
        raise CannotTestError(f"{counts}, and no refusal came: the target answers too slowly")
    return holds(f"{counts}, then the next was refused.", requests=limits.ids([seen[-1], batches[-1]]))


PROBE = Probe(
    name="rate-unit",
    asks="Is there a rate limit, and does it count inputs rather than requests?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
