"""Whether asking again tells more than asking once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.remote.canary import ROUNDING
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

TIMES = 20
"""How often one input is asked, one by one and in one request."""


def bounds(_: Target) -> Bounds:
    """Return what 20 requests, and requests of 20 in all, need."""
    return Bounds(inputs=2 * TIMES, requests=2 * TIMES)


def run(context: Context) -> Verdict:
    """Ask one input 20 times, then 20 times in one request."""
    one = [_table(context, context.ask(1)) for _ in range(TIMES)]
    size = min(TIMES, context.batch)
    batch = _table(context, context.ask(context.source.take([0] * size)))
    single = np.concatenate(one)
    apart = max(_spread(single), _spread(batch))
    between = float(np.abs(single[0] - batch[0]).max())
    if apart > ROUNDING:
        deviation = float(np.concatenate([single, batch]).std(axis=0).max())
        return fails(
            f"{TIMES + size} answers to one input differ by up to {apart:.2g} (standard deviation "
            f"{deviation:.2g}): fresh noise, whose average over {TIMES + size} answers is "
            f"{np.sqrt(TIMES + size):.1f} times closer to the model's."
        )
    if between > ROUNDING:
        return fails(
            f"One input gets one answer alone and another in a request of {size}, apart by {between:.2g}: "
            "noise that depends on the request, and averages out over requests of other sizes."
        )
    return holds(
        f"{TIMES + size} answers to one input are equal: there is no noise, or the input alone determines it."
    )


def _table(context: Context, seen: Seen) -> NDArray[np.float64]:
    if not seen.answered:
        raise CannotTestError(f"an ordinary request was answered with {seen.status or 'nothing'}")
    table = context.table(seen)
    if table is None:
        raise CannotTestError("an answer is not as the target file says")
    if np.isnan(table).any():
        raise CannotTestError("the target withholds answers to this input; name others by --data FILE")
    return table


def _spread(answers: NDArray[np.float64]) -> float:
    return float((answers.max(axis=0) - answers.min(axis=0)).max())


PROBE = Probe(
    name="noise",
    asks="Does asking the same again tell no more than asking once?",
    controls=(4,),
    atlas=("AML.M0002",),
    exchange=("#OBSCURE CONFIDENCE",),
    bounds=bounds,
    run=run,
)
