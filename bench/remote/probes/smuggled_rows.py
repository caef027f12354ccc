"""Whether requests whose number of inputs can be read in two ways are refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

from bench.remote.probing.base import Bounds, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen, Shot
from bench.remote.target import Target

ROWS = 5
"""Inputs of a request that says another number."""
BOMB = 10_000_000
"""Bytes of a body after it is unpacked; it has one input."""
REMAINING = ("x-ratelimit-remaining", "ratelimit-remaining", "x-quota-remaining")
"""Headers in which servers say what is left."""


def bounds(_: Target) -> Bounds:
    """Return what five requests of five inputs, and one each before, need."""
    return Bounds(inputs=6 * ROWS + 6, requests=12)


def run(context: Context) -> Verdict:
    """Send shapes that do not go with the data, a field twice, and a body that grows when unpacked."""
    bad: list[tuple[str, Seen, int]] = []
    tried = []
    for what, shot in _shots(context):
        plain = context.ask(1)
        if not plain.answered:
            break
        before = _remaining(plain)
        seen = context.send(shot)
        rows = context.answered_rows(seen)
        tried.append(f"{what}: {seen.status or 'no answer'}")
        left = _remaining(seen)
        counted = before is not None and left is not None and before - left == rows
        if seen.answered and not counted:
            bad.append((what, seen, rows))
    if bad:
        said = "; ".join(f"{what} ({rows} answered)" for what, _, rows in bad)
        return fails(
            f"{len(bad)} of {len(tried)} requests that two readers count differently were answered: {said}.",
            requests=tuple(seen.id for _, seen, _ in bad),
        )
    context.require_answer()
    return holds(
        f"{len(tried)} requests that two readers count differently were refused or rightly counted "
        f"({'; '.join(tried)})."
    )


def _shots(context: Context) -> Iterator[tuple[str, Shot]]:
    oip = context.target.protocol == "oip"
    shape = json.loads(context.body(context.inputs(ROWS)))["inputs"][0]["shape"] if oip else []
    shapes = {"the shape −1": [-1, *shape[1:]], "a shape of fewer inputs than the data": [1, *shape[1:]]}
    for what, changed in shapes.items() if oip else ():
        one, several, name = _bodies(context)
        document = json.loads(several)
        document["inputs"][0]["shape"] = changed
        yield what, context.shot(ROWS, body=json.dumps(document).encode(), identity=name)
    one, several, name = _bodies(context)
    if one.startswith(b"{") and context.takes_several:
        # Both bodies are objects with the same fields, so that the joint has each of them twice.
        twice = one.rstrip()[:-1] + b"," + several.lstrip()[1:]
        yield "each field twice", context.shot(ROWS, body=twice, identity=name)
    one, _, name = _bodies(context)
    bomb = gzip.compress(one + b" " * BOMB, 6)
    compressed = [("Content-Encoding", "gzip")]
    yield (
        f"{len(bomb):,} bytes that unpack to {BOMB:,}",
        context.shot(1, body=bomb, identity=name, headers=compressed),
    )


def _bodies(context: Context) -> tuple[bytes, bytes, str]:
    """Return bodies of one input and of several, and the id that both have."""
    name = context.new_id()
    return context.body(context.inputs(1), name), context.body(context.inputs(ROWS), name), name


def _remaining(seen: Seen) -> int | None:
    values = (seen.reply.headers.get(name, "") for name in REMAINING)
    return next((int(value) for value in values if value.isascii() and value.isdigit()), None)


PROBE = Probe(
    name="smuggled-rows",
    asks="Are requests refused whose number of inputs can be read in two ways?",
    controls=(7,),
    atlas=("AML.M0004",),
    exchange=("#RATE LIMIT",),
    bounds=bounds,
    run=run,
)
