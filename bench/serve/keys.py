"""Accounts and their API keys, of which the state file holds digests under a pepper alone."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Literal

from bench.errors import UsageError, nearest, shown
from bench.serve import audit
from bench.serve.secret_values import Secret

Role = Literal["client", "metrics"]
"""A client may query; ``metrics`` may read metrics. The admin has a second factor and no key."""
START = "mb_"
"""What every key begins with, so that scanners for leaked secrets can know one."""
RESERVED = frozenset({"admin"})
"""Names that no account of a key has."""
_PREFIX = len(START) + 12
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NOBODY = bytes(32)
"""The digest that a key is compared with which nobody has."""


@dataclass(frozen=True)
class Account:
    """An account whose key or token was verified."""

    name: str
    role: str


@dataclass(frozen=True)
class AccountFacts:
    """What a list shows of an account; times are seconds since 1970, None: never."""

    name: str
    role: str
    made: float
    revoked: float | None
    suspended: float | None
    spent: int
    flagged: int


def checked_name(name: str) -> str:
    """Return the name of an account; raises UsageError for one that is none, or is reserved."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)} cannot be the name of an account: 1 to 64 of a-z, 0-9, '.', '_' and '-', first a "
            "letter or digit"
        )
    if name in RESERVED:
        raise UsageError(f"the name {name} is reserved; take another one")
    return name


def digest_of(pepper: Secret, key: str) -> bytes:
    """Return what is stored of a key: HMAC-SHA-256 under the pepper.

    A key has 256 random bits, so a slow hash would add nothing but its time (some 400 ms a request).
    """
    return hmac.digest(pepper.reveal(), key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def add(connection: sqlite3.Connection, pepper: Secret, name: str, role: Role, *, now: float, by: str) -> str:
    """Make an account, or a new key for one that was revoked, and return the key: 256 random bits.

    An account keeps its counters when it gets a new key. ``by``: the admin, for the audit log. Raises
    UsageError for a name that has a key, or had another role.
    """
    checked_name(name)
    row = connection.execute("select role, revoked from accounts where name = ?", (name,)).fetchone()
    if row is not None and row[1] is None:
        raise UsageError(f"the account {name} has a key; revoke it first: moatbench keys revoke {name}")
    if row is not None and row[0] != role:
        raise UsageError(f"the account {name} had the role {row[0]}; take another name for the role {role}")
    prefix = START + secrets.token_hex((_PREFIX - len(START)) // 2)
    key = f"{prefix}_{secrets.token_urlsafe(32)}"
    connection.execute(
        """insert into accounts values (?, ?, ?, ?, ?, null, null) on conflict (name) do update
           set prefix = excluded.prefix, digest = excluded.digest, revoked = null, renewed = excluded.made""",
        (name, role, prefix, digest_of(pepper, key), now),
    )
    audit.append(connection, "key added", {"time": now, "account": name, "role": role, "by": by})
    return key


def revoke(connection: sqlite3.Connection, name: str, *, now: float, by: str) -> None:
    """Revoke an account's key, its tokens and its sessions; raises UsageError for one that has none."""
    _require(connection, name)
    changed = connection.execute(
        "update accounts set revoked = ? where name = ? and revoked is null", (now, name)
    )
    if not changed.rowcount:
        raise UsageError(f"the key of the account {name} is revoked already")
    connection.execute("delete from sessions where account = ?", (name,))
    audit.append(connection, "key revoked", {"time": now, "account": name, "by": by})


def restore(connection: sqlite3.Connection, name: str, *, now: float, by: str) -> None:
    """End an account's suspension and forget its flagged inputs; raises UsageError if it is not suspended."""
    _require(connection, name)
    changed = connection.execute(
        "update counters set suspended = null, flagged = 0 where account = ? and suspended is not null",
        (name,),
    )
    if not changed.rowcount:
        raise UsageError(f"the account {name} is not suspended")
    audit.append(connection, "account restored", {"time": now, "account": name, "by": by})


def listed(connection: sqlite3.Connection) -> list[AccountFacts]:
    """Return all accounts, by name."""
    return [
        AccountFacts(*row)
        for row in connection.execute(
            """select name, role, made, revoked, suspended, coalesce(spent, 0), coalesce(flagged, 0)
               from accounts left join counters on account = name order by name"""
        )
    ]


def account_of_key(connection: sqlite3.Connection, pepper: Secret, key: str) -> Account | None:
    """Return the account that a key belongs to; None for a wrong, missing or revoked one.

    All of these take the same way: a digest is made, and compared in constant time.
    """
    digest = digest_of(pepper, key)
    row = connection.execute(
        "select digest, name, role, revoked from accounts where prefix = ?", (key[:_PREFIX],)
    ).fetchone()
    stored, name, role, revoked = row or (_NOBODY, "", "", None)
    equal = hmac.compare_digest(digest, stored)
    return Account(name, role) if equal and name and revoked is None else None


def account_named(connection: sqlite3.Connection, name: str, issued: float | None) -> Account | None:
    """Return the account that a token of the time ``issued`` names, None if there is none.

    A revoked account has none, and one that got a new key has none of before, nor of an unknown time.
    """
    row = connection.execute(
        """select name, role from accounts where name = ? and revoked is null
           and (renewed is null or coalesce(?, 0.0) >= renewed)""",
        (name, issued),
    ).fetchone()
    return Account(*row) if row else None


def _require(connection: sqlite3.Connection, name: str) -> None:
    names = [row[0] for row in connection.execute("select name from accounts")]
    if name not in names:
        known = nearest(name, names) if names else "there are none"
        raise UsageError(f"there is no account {shown(name)}; {known}")
