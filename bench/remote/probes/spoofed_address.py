"""Whether the limit can be passed by claims on where a request comes from."""

from __future__ import annotations

from bench.remote.probing import limits
from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X_FORWARDED_FOR")
"""Headers by which proxies pass on an address."""
EACH = 3
"""Addresses for each header."""
ADDRESSES = "203.0.113.{}"
"""Addresses for documentation (RFC 5737), which nobody has."""


def bounds(target: Target) -> Bounds:
    """Return what the limit and two dozen requests past it need."""
    past = 2 * EACH * len(HEADERS)
    return limits.bounds(target, 1.1 * limits.size(target) + past + 2, refusals=past + 2)


def run(context: Context) -> Verdict:
    """Go to the limit, then send requests with each header and rotating addresses, and as many without.

    A header by which the limit can be passed has all its requests answered, while those without a claim in
    between are refused; a limit that refills answers both alike.
    """
    limit = limits.known_limit(context)
    limits.clear(context, limit)
    limits.at_limit(context, limit)
    claimed: dict[str, list[Seen]] = {}
    plain: dict[str, list[Seen]] = {}
    for place in range(EACH * len(HEADERS)):
        header = HEADERS[place // EACH]
        address = ADDRESSES.format(7 + place)
        claim = f"for={address}" if header == "Forwarded" else address
        plain.setdefault(header, []).append(context.ask(1))
        claimed.setdefault(header, []).append(context.ask(1, headers=[(header, claim)]))
    sent = [seen for each in claimed.values() for seen in each]
    limits.require_answers([*sent, *(seen for each in plain.values() for seen in each)])
    through = [header for header, each in claimed.items() if all(seen.answered for seen in each)]
    passing = [header for header in through if not limits.passed(plain[header])]
    if passing:
        return fails(
            f"At the limit of {limit.inputs:,} inputs, all {EACH * len(passing)} requests that claim another "
            f"address by {', '.join(passing)} were answered, and as many without a claim were refused.",
            requests=limits.ids(claimed[passing[0]]),
        )
    if through:
        raise CannotTestError("requests without a claim pass again too, as the window has ended")
    return holds(
        f"At the limit of {limit.inputs:,} inputs, {len(sent) - limits.passed(sent)} of {len(sent)} requests "
        "that claim another address were refused.",
        requests=limits.ids(sent),
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
