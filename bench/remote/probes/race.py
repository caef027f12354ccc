"""Whether requests at the same time can overrun what is left of a quota."""

from __future__ import annotations

import math

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

LEFT = 10
"""Inputs that are left when all requests come at once."""
AT_ONCE = 50
"""Requests at once."""
BATCH = 32
"""Inputs of a request before that."""
SHARE = 0.8
"""Of the rate limit, that is used on the way to the quota."""
FEWEST = 2 * LEFT
"""The smallest limit at which a race can be seen."""


def _quota(target: Target) -> int | None:
    return target.quota if target.quota is not None and target.quota <= limits.LARGEST else None


def bounds(target: Target) -> Bounds:
    """Return what the way to the quota, or to the rate limit where none is stated, and the race need."""
    quota, limit = _quota(target), limits.stated_limit(target)
    most = limits.size(target) if quota is None else quota
    windows = 1 if quota is None or limit is None else 2 + math.ceil(most / max(1, SHARE * limit.inputs))
    return limits.bounds(target, most + AT_ONCE, refusals=AT_ONCE + 2, windows=windows)


def run(context: Context) -> Verdict:
    """Use the quota up to its last 10 inputs, then send 50 requests at once."""
    quota = _quota(context.target)
    if quota is not None:
        return _run_quota(context, quota)
    limit = limits.known_limit(context)
    if limit.inputs < FEWEST:
        raise CannotTestError(f"a limit of {limit.inputs} inputs is too small for a race; state a quota")
    limits.clear(context, limit)
    start = context.clock()
    _use(context, limit.inputs - LEFT, context.accounts.first)
    seen = context.send_together([context.shot(1) for _ in range(AT_ONCE)])
    limits.require_answers(seen)
    passed = limits.passed(seen)
    said = (
        f"Of {AT_ONCE} requests at once on the last {LEFT} inputs of the rate limit, {passed} were answered."
    )
    allowed = LEFT + limit.refilled(context.clock() - start) + limit.most - limit.inputs
    if passed > allowed:
        return fails(said, requests=limits.ids([each for each in seen if each.answered]))
    _require_race(passed)
    if passed > LEFT and allowed >= AT_ONCE:
        raise CannotTestError(f"{said[:-1]}; of so large a limit that may be what it refills: state a quota")
    return holds(said)


def _require_race(passed: int) -> None:
    if not passed:
        raise CannotTestError("none of the requests at once was answered, so none could pass beside another")


def _run_quota(context: Context, quota: int) -> Verdict:
    account = context.accounts.spare
    used = context.memory.accepted.get(account, 0)
    limit = limits.stated_limit(context.target)
    at_once = AT_ONCE if limit is None else min(AT_ONCE, limit.inputs)
    if at_once < FEWEST:
        raise CannotTestError("the rate limit is too small to send enough requests at once")
    if used > quota - LEFT:
        raise CannotTestError(
            f"{used:,} inputs of the quota of {quota:,} are used already; add another account to the file"
        )
    _use(context, quota - LEFT - used, account)
    if limit is not None:
        limits.clear(context, limit, account)
    seen = context.send_together([context.shot(1, account=account) for _ in range(at_once)])
    limits.require_answers(seen)
    passed = limits.passed(seen)
    said = (
        f"{at_once} requests came at once on the last {LEFT} inputs of a quota of {quota:,}; {passed} were "
        "answered."
    )
    if passed > LEFT:
        return fails(said, requests=limits.ids([each for each in seen if each.answered]))
    _require_race(passed)
    return holds(said)


def _use(context: Context, inputs: int, account: str) -> None:
    """Have so many inputs answered, below the rate limit that is stated."""
    limit = limits.stated_limit(context.target)
    share = None if limit is None else max(1, math.floor(SHARE * limit.inputs))
    whole = limit is not None and inputs <= limit.inputs and context.target.quota is None
    left, in_window = inputs, 0
    while left:
        size = min(BATCH, context.target.batch, left)
        if limit is not None and share is not None and not whole:
            size = min(size, share)
            if in_window + size > share:
                limits.clear(context, limit, account)
                in_window = 0
        seen = context.ask(size, account=account)
        if not seen.answered:
            raise CannotTestError(
                f"the target answered {seen.status or 'nothing'} with {left:,} inputs to go to the last "
                f"{LEFT}: something else may have used the account"
            )
        left -= size
        in_window += size


PROBE = Probe(
    name="race",
    asks="Does the quota hold when requests come at the same time?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
    uses_up=True,
)
