"""Whether a target may be tested: one on this machine may, any other needs its owner's word and limits."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from bench.errors import UsageError
from bench.remote.addresses import Resolve, is_loopback, resolve
from bench.remote.target import Target
from bench.remote.target_faults import split

LOOPBACK = "loopback"
FLAG = "--i-am-allowed-to-test"


@dataclass(frozen=True)
class Permitted:
    """A target that may be tested.

    ``host``: as the URL has it, lower case. ``addresses``: what it was resolved to. ``text``: who allows it,
    until when, with which reference; "loopback" where nobody has to.
    """

    host: str
    port: int
    addresses: tuple[str, ...]
    text: str


def permitted(
    target: Target,
    allowed_host: str | None,
    *,
    resolver: Resolve = resolve,
    today: dt.date | None = None,
) -> Permitted:
    """Return what was checked, once; raises UsageError that says what is missing.

    ``allowed_host``: the host that the user says they may test. ``today``: in UTC, by default by the clock.
    """
    if target.protocol == "python":
        host, port = (target.host or "").lower(), 443
    else:
        parts = split(target.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
    if allowed_host is not None and allowed_host.lower() != host:
        raise UsageError(f"{FLAG} names {allowed_host}, but the target's host is {host}")
    addresses = resolver(host, port)
    if all(map(is_loopback, addresses)):
        return Permitted(host, port, addresses, LOOPBACK)
    _check(target, host, allowed_host, today or dt.datetime.now(dt.UTC).date())
    return Permitted(host, port, addresses, permission_text(target))


def permission_text(target: Target) -> str:
    """Return who allows to test the target, until when, with which reference; "loopback" if nobody is."""
    given = target.permission
    return f"{given.who}, until {given.until}, {given.reference}" if given else LOOPBACK


def _check(target: Target, host: str, allowed_host: str | None, today: dt.date) -> None:
    fields = {
        'permission = {who = "…", until = YYYY-MM-DD, reference = "…"}': target.permission,
        "budget": target.budget,
        "money_cap": target.money_cap,
        "rate": target.rate,
    }
    missing = [name for name, value in fields.items() if value is None]
    needed = [f"add {', '.join(missing)} to the target file"] if missing else []
    needed += [f"pass {FLAG} {host}"] if allowed_host is None else []
    if needed:
        raise UsageError(
            f"{host} is not this machine; its owner has to allow the test: {', and '.join(needed)}"
        )
    if target.permission is not None and target.permission.until < today:
        raise UsageError(
            f"the permission to test {host} ended on {target.permission.until}; ask for a new one"
        )
