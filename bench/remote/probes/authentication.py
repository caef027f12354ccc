"""Whether a request without a valid key is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import Any

from bench.remote.probing.base import Bounds, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.target import Target

EXPIRED = 3_600
"""Seconds since which an expired token is no longer valid."""


def bounds(_: Target) -> Bounds:
    """Return what four keys, four tokens and an ordinary request need at most."""
    return Bounds(inputs=10, requests=10, refusals=10)


def run(context: Context) -> Verdict:
    """Send one input with no key, an empty, a random one, and with tokens that are not valid.

    The random key is drawn once and is not a guess. The true key goes into the address, where logs keep it,
    only on this machine. Tokens are sent where the account's key is one; those that need its signature, where
    the target file names the signing key.
    """
    tried: list[tuple[str, Seen]] = []
    wrong = secrets.token_urlsafe(24)
    tried.append(("no key", context.ask(1, key=False)))
    tried.append(("an empty key", _with(context, "")))
    tried.append(("a wrong key", _with(context, wrong)))
    key = context.secrets.headers(context.accounts.first).get(context.target.key_header, "")
    plain = key.removeprefix("Bearer ")
    skipped = []
    if plain and context.on_loopback:
        joint = "&" if "?" in context.path else "?"
        path = f"{context.path}{joint}api_key={plain}"
        tried.append(("the key in the address alone", context.ask(1, key=False, path=path)))
    elif plain:
        skipped.append("A key in the address was not tried, as it would stand in logs.")
    tokens = _tokens(plain, context)
    tried += [(what, _with(context, token)) for what, token in tokens]
    if not tokens:
        skipped.append("Tokens were not tried, as the account's key is none.")
    elif context.secrets.signing_key is None:
        skipped.append(
            "Tokens that are expired, without an end or for another audience were not tried: name the key "
            "that signs tokens as token_key_env in the target file."
        )
    open_ = [(what, seen) for what, seen in tried if context.answered_rows(seen)]
    if open_:
        names = ", ".join(what for what, _ in open_)
        return fails(
            f"{len(open_)} of {len(tried)} requests without a valid key were answered: {names}.",
            requests=tuple(seen.id for _, seen in open_),
        )
    if any(seen.undecided for _, seen in tried):
        context.require_answer()
    statuses = ", ".join(f"{what}: {seen.status or 'no answer'}" for what, seen in tried)
    return holds(f"{len(tried)} requests without a valid key were refused ({statuses}).", *skipped)


def _with(context: Context, key: str) -> Seen:
    header = context.target.key_header
    before = "Bearer " if header.lower() == "authorization" else ""
    return context.ask(1, key=False, headers=[(header, (before + key).strip())])


def _tokens(key: str, context: Context) -> list[tuple[str, str]]:
    """Return tokens that are not valid, made from the account's own; [] if its key is no token."""
    parts = key.split(".")
    claims = _read(parts[1]) if len(parts) == 3 and _read(parts[0]) is not None else None
    if claims is None:
        return []
    found = [("a token without signature", f"{_written({'alg': 'none', 'typ': 'JWT'})}.{_written(claims)}.")]
    signing = context.secrets.signing_key
    if signing is None:
        return found
    now = int(context.clock())
    fresh = {**claims, "iat": now - 2 * EXPIRED, "exp": now + EXPIRED}
    without = {name: value for name, value in fresh.items() if name != "exp"}
    found.append(("an expired token", _signed({**fresh, "exp": now - EXPIRED}, signing)))
    found.append(("a token without an end", _signed(without, signing)))
    found.append(("a token for another audience", _signed({**fresh, "aud": "another-audience"}, signing)))
    return found


def _read(part: str) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _written(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document, separators=(",", ":")).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _signed(claims: dict[str, Any], key: str) -> str:
    """Return a token signed by HMAC-SHA256 (RFC 7515)."""
    content = f"{_written({'alg': 'HS256', 'typ': 'JWT'})}.{_written(claims)}"
    return f"{content}.{_base64(hmac.digest(key.encode(), content.encode(), hashlib.sha256))}"


PROBE = Probe(
    name="authentication",
    asks="Is a request without a valid key or token refused?",
    controls=(2,),
    atlas=("AML.M0019",),
    exchange=("#MODEL ACCESS CONTROL",),
    bounds=bounds,
    run=run,
)
