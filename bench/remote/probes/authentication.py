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
    """Return what four keys, four tokens, one that is valid and an ordinary request need at most."""
    return Bounds(inputs=10, requests=10, refusals=10)


def run(context: Context) -> Verdict:
    """Send one input with no key, an empty, a random one, and with tokens that are not valid.

    The random key is drawn once and is not a guess. The true key goes into the address, where logs keep it,
    only on this machine. Tokens are sent where the account's key is one; those that need its signature, where
    the target file names the signing key, and only if the account's own claims pass with this signature:
    under another key or algorithm every token is refused, whatever its claims.
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
    claims = _claims(plain)
    if claims is None:
        skipped.append("Tokens were not tried, as the account's key is none.")
    else:
        unsigned = f"{_written({'alg': 'none', 'typ': 'JWT'})}.{_written(claims)}."
        tried.append(("a token without signature", _with(context, unsigned)))
        found, why = _signed_tokens(claims, context)
        tried += [(what, _with(context, token)) for what, token in found]
        skipped += [why] if why else []
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


def _claims(key: str) -> dict[str, Any] | None:
    """Return what an account's token says; None if its key is no token."""
    parts = key.split(".")
    return _read(parts[1]) if len(parts) == 3 and _read(parts[0]) is not None else None


def _signed_tokens(claims: dict[str, Any], context: Context) -> tuple[list[tuple[str, str]], str]:
    """Return tokens that are not valid, each for one reason; or [] and why there are none."""
    untried = "Tokens that are expired, without an end or for another audience were not tried"
    signing = context.secrets.signing_key
    if signing is None:
        return [], f"{untried}: name the key that signs tokens as token_key_env in the target file."
    if not context.answered_rows(_with(context, _signed(claims, signing))):
        return [], (
            f"{untried}: the account's own claims got no answer when signed anew, by HMAC-SHA256 with the "
            "key of token_key_env; name the key by which the target verifies them."
        )
    now = int(context.clock())
    past = {**claims, "iat": now - 2 * EXPIRED, "exp": now - EXPIRED}
    past.pop("nbf", None)
    without = {name: value for name, value in claims.items() if name != "exp"}
    return [
        ("an expired token", _signed(past, signing)),
        ("a token without an end", _signed(without, signing)),
        ("a token for another audience", _signed({**claims, "aud": "another-audience"}, signing)),
    ], ""


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
