"""Whether a one-time code is accepted once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from urllib.parse import urlsplit

from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.line import Request
from bench.remote.probing.shots import Shot
from bench.remote.target import SecondFactor, Target

STEP, DIGITS = 30, 6
"""Seconds that a code is valid, and its digits (RFC 6238 as authenticators have it)."""
CODE = "$code"
"""What stands for the code in a body."""


def bounds(_: Target) -> Bounds:
    """Return what one code, sent twice, needs: no input."""
    return Bounds(inputs=0, requests=2, seconds=60.0)


def missing(context: Context) -> str:
    """Return what is missing to test it."""
    if context.target.second_factor is None or context.secrets.code_secret is None:
        return "the target file names no second_factor, which says where a code is asked for"
    return ""


def run(context: Context) -> Verdict:
    """Send one code, and the same again at once."""
    place, secret = context.target.second_factor, context.secrets.code_secret
    if place is None or secret is None:
        raise CannotTestError(missing(context))
    now = context.clock()
    if now % STEP > STEP - 5:  # a code that expires between the two would be refused anyway
        context.wait(STEP - now % STEP + 0.5)
    code = one_time_code(secret, context.clock())
    line = context.line_to(place.url)
    first = context.send(_shot(context, place, code), line=line)
    if not first.answered:
        raise CannotTestError(f"the first use of a code was answered with {first.status or 'nothing'}")
    second = context.send(_shot(context, place, code), line=line)
    if second.answered:
        return fails(
            f"One code was accepted twice ({first.status}, then {second.status}).",
            requests=(first.id, second.id),
        )
    if second.undecided:
        raise CannotTestError(
            f"the second use of a code was answered with {second.status or 'nothing'}, which does not tell "
            "whether the code was refused"
        )
    return holds(f"A code was accepted once ({first.status}), and refused again ({second.status}).")


def one_time_code(secret: str, at: float) -> str:
    """Return the code of a base32 ``secret`` (RFC 6238: HMAC-SHA1, 30 s, 6 digits) at a time."""
    padded = secret.upper().replace(" ", "")
    try:
        key = base64.b32decode(padded + "=" * (-len(padded) % 8))
    except ValueError:
        raise CannotTestError("the secret of the second factor is not base32") from None
    digest = hmac.digest(key, struct.pack(">Q", int(at) // STEP), hashlib.sha1)
    start = digest[-1] & 15
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def _shot(context: Context, place: SecondFactor, code: str) -> Shot:
    parts = urlsplit(place.url)
    headers = [("Accept", "application/json"), ("User-Agent", "moatbench")]
    headers += list(context.secrets.headers(place.account or context.accounts.first).items())
    body = b""
    if place.header is not None:
        headers.append((place.header, code))
    if place.body is not None:
        headers.append(("Content-Type", "application/json"))
        body = place.body.replace(CODE, json.dumps(code)[1:-1]).encode()
    return Shot(Request(place.method, parts.path or "/", tuple(headers), body), 0, "", context.new_id())


PROBE = Probe(
    name="second-factor",
    asks="Is a one-time code accepted only once?",
    controls=(2,),
    atlas=("AML.M0019",),
    exchange=("#MODEL ACCESS CONTROL",),
    bounds=bounds,
    run=run,
    missing=missing,
)
