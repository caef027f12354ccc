"""Whether a second key of the same customer has a limit of its own."""

from __future__ import annotations

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

TRIES = 3
"""Requests with each key past the limit."""


def bounds(target: Target) -> Bounds:
    """Return what the limit and a few requests past it need."""
    return limits.bounds(target, 1.1 * limits.size(target) + 2 * TRIES + 3, refusals=2 * TRIES + 2)


def missing(context: Context) -> str:
    """Return what is missing to test it."""
    if context.accounts.second is None:
        return "an account with a further key of the first one's customer has to be named by --second-account"
    return ""


def run(context: Context) -> Verdict:
    """Bring the first key to its limit, then ask with both by turns."""
    second = context.accounts.second or ""
    limit = limits.known_limit(context)
    if limit.inputs < TRIES + 2:
        raise CannotTestError(f"a limit of {limit.inputs} inputs is too small to tell two from one")
    limits.clear(context, limit)
    limits.clear(context, limit, second)
    before = context.ask(1, account=second)
    if not before.answered:
        raise CannotTestError(
            f"the second key gets no answer before its limit ({before.status or 'nothing'} came)"
        )
    limits.at_limit(context, limit)
    pairs = [(context.ask(1), context.ask(1, account=second)) for _ in range(TRIES)]
    firsts, others = ([pair[place] for pair in pairs] for place in (0, 1))
    limits.require_answers([*firsts, *others])
    if limits.passed(others) == TRIES:
        if limits.passed(firsts):
            raise CannotTestError("the first key passes again too, as the window has ended")
        return fails(
            f"The first key was refused at its limit of {limit.inputs:,} inputs, and all {TRIES} with "
            "the second key were answered: the limit is one for each key.",
            requests=limits.ids(others),
        )
    return holds(
        f"With the first key at its limit of {limit.inputs:,} inputs, {TRIES - limits.passed(others)} of "
        f"{TRIES} with the second were refused: both count together.",
        requests=limits.ids(others),
    )


PROBE = Probe(
    name="second-key",
    asks="Do two keys of one customer share one limit?",
    controls=(2,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
    missing=missing,
)
