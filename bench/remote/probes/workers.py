"""Whether the limit is one for all processes of the server."""

from __future__ import annotations

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import TOGETHER, Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

PROCESSES = 4
"""More than so many processes are not told apart."""


def bounds(target: Target) -> Bounds:
    """Return what the limit of four processes needs."""
    inputs = (PROCESSES + 0.2) * limits.size(target) + 2 * TOGETHER
    return limits.bounds(target, inputs, refusals=int(inputs))


def run(context: Context) -> Verdict:
    """Send single inputs over parallel fresh connections until 20 in a row are refused."""
    limit = limits.known_limit(context)
    limits.require_pace(context, (PROCESSES + 1) * limit.inputs)
    limits.clear(context, limit)
    seen: list[Seen] = []
    while len(seen) < PROCESSES * limit.inputs + TOGETHER:
        wave = context.send_together([context.shot(1) for _ in range(TOGETHER)])
        limits.require_answers(wave)
        seen += wave
        if not limits.passed(wave):
            break
    took = max(each.at for each in seen) - seen[0].at
    limits.require_passed(seen)
    passed = limits.passed(seen)
    said = f"{passed:,} of {len(seen):,} inputs over parallel connections passed a limit of {limit.inputs:,}"
    if passed > limit.most + limit.refilled(took):
        ratio = passed / limit.inputs
        return fails(
            f"{said}, {ratio:.1f} times as many: each of several processes seems to count alone, or counting "
            "and letting pass are two steps.",
            requests=limits.ids([each for each in seen if each.answered][-3:]),
        )
    if limit.most + limit.refilled(took) >= 2 * limit.inputs:
        raise CannotTestError(f"{said} in {took:.1f} s, too slowly to tell two processes from one")
    return holds(f"{said}.", requests=limits.ids(seen[-3:]))


PROBE = Probe(
    name="workers",
    asks="Is the limit one for all connections and processes of the server?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
