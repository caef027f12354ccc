"""How many inputs one request may have."""

from __future__ import annotations

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.booking import LONGEST, MARGIN
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

START, MOST = 64, 4_096
"""Inputs of the first request, and of the largest one that is sent."""


def bounds(_: Target) -> Bounds:
    """Return what sizes from 64 to 4,096 need, one of them sent twice, and one input need."""
    return Bounds(inputs=2 * MOST + START + 2, requests=18, refusals=8, seconds=120 + 8 * limits.WINDOW)


def run(context: Context) -> Verdict:
    """Double the inputs of a request until one is refused; a refusal for the rate is tried again once."""
    if not context.takes_several:
        raise CannotTestError("a request of this target has one input alone")
    size, accepted = START, 0
    while True:
        seen = _sent(context, size)
        if not seen.answered:
            break
        accepted = size
        if size >= MOST:
            return fails(
                f"A request of {MOST:,} inputs was answered; larger ones were not tried.", requests=(seen.id,)
            )
        size *= 2
    if not seen.status:
        raise CannotTestError(f"a request of {size:,} inputs was not answered at all")
    if seen.status >= 500:
        raise CannotTestError(
            f"a request of {size:,} inputs was answered with {seen.status}, which may be a fault"
        )
    one = _sent(context, 1)
    if not one.answered:
        raise CannotTestError(f"an ordinary request afterwards was answered with {one.status or 'nothing'}")
    largest = f"the largest that was answered has {accepted:,}" if accepted else "none larger was tried"
    return holds(f"A request of {size:,} inputs was refused ({seen.status}); {largest}.", requests=(seen.id,))


def _sent(context: Context, size: int) -> Seen:
    seen = context.ask(size)
    if not seen.limited:
        return seen
    limit = limits.stated_limit(context.target)
    window = limit.window if limit else limits.retry_window(seen)
    if window > LONGEST:
        raise CannotTestError(f"a request of {size:,} inputs was refused for the rate ({seen.status})")
    context.wait(window + MARGIN)
    return context.ask(size)


PROBE = Probe(
    name="size",
    asks="Is the number of inputs of one request limited?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
