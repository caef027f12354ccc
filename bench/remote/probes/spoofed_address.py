"""Whether the limit can be passed by claims on where a request comes from."""

from __future__ import annotations

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.target import Target

HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X_FORWARDED_FOR")
"""Headers by which proxies pass on an address."""
ADDRESSES = ("203.0.113.7", "203.0.113.8", "203.0.113.9")
"""Addresses for documentation (RFC 5737), which nobody has."""


def bounds(target: Target) -> Bounds:
    """Return what the limit and a dozen requests past it need."""
    return limits.bounds(target, 1.1 * limits.size(target) + 15, refusals=15)


def run(context: Context) -> Verdict:
    """Go to the limit, then send requests with each header and rotating addresses."""
    limit = limits.known_limit(context)
    limits.clear(context, limit)
    refused = limits.at_limit(context, limit)
    claimed = [
        (header, context.ask(1, headers=[(header, f"for={address}" if header == "Forwarded" else address)]))
        for header in HEADERS
        for address in ADDRESSES
    ]
    last = context.ask(1)
    limits.require_answers([seen for _, seen in claimed])
    allowed = limit.refilled(last.at - refused.at)
    through = [(header, seen) for header, seen in claimed if seen.answered]
    if len(through) > allowed:
        if last.answered:
            raise CannotTestError("requests without a claim pass again too, as the window has ended")
        names = ", ".join(dict.fromkeys(header for header, _ in through))
        return fails(
            f"At the limit of {limit.inputs:,} inputs, {len(through)} of {len(claimed)} requests that claim "
            f"another address were answered ({names}), and one without a claim was refused.",
            requests=limits.ids([seen for _, seen in through]),
        )
    return holds(
        f"At the limit of {limit.inputs:,} inputs, {len(claimed) - len(through)} of {len(claimed)} requests "
        "that claim another address were refused.",
        requests=limits.ids([seen for _, seen in claimed]),
    )


PROBE = Probe(
    name="spoofed-address",
    asks="Does the limit hold for requests that claim to come from another address?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    paced=False,
    run=run,
)
