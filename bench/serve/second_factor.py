"""Second factors of those who administer a server: time-based codes (RFC 6238), each accepted once."""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.errors import UsageError
from bench.serve import audit
from bench.serve.extra import needs_serve
from bench.serve.secret_values import Secret
from bench.serve.state import State

if TYPE_CHECKING:
    from pyotp import TOTP

T = TypeVar("T")
ADMIN = "admin"
"""The account that administers by the command line."""
ISSUER = "moatbench"
MOST_FAILURES = 5
"""Failed codes of an account in :data:`FAILURE_SECONDS`, after which none is looked at."""
FAILURE_SECONDS = 900.0
STEPS = 1
"""Time steps of 30 s that a code may be older or newer, for clocks that differ."""
KIND = "second factor"
_NONCE = 12


class SecondFactorError(UsageError):
    """A code was not accepted. ``wait``: seconds until one is looked at again, 0 if it is now."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def enrol(connection: sqlite3.Connection, pepper: Secret, account: str, *, now: float) -> str:
    """Make a new second factor for an account, and return its ``otpauth`` URI, which is kept nowhere.

    The state file holds its secret encrypted under a key of the pepper, with the account as associated data.
    """
    with needs_serve():
        from pyotp import TOTP, random_base32
    secret = random_base32(52)  # 260 bits
    connection.execute(
        "insert or replace into factors values (?, ?, 0)", (account, _sealed(pepper, account, secret))
    )
    audit.append(connection, "second factor made", {"time": now, "account": account})
    return TOTP(secret).provisioning_uri(name=account, issuer_name=ISSUER)


def require_none(connection: sqlite3.Connection, pepper: Path) -> None:
    """Raise UsageError where second factors were made under a pepper whose file is not there any more."""
    if connection.execute("select 1 from factors").fetchone():
        raise UsageError(
            f"the pepper {pepper} is gone, without which no key of this server works: put it back from where "
            "it is kept, or name a new folder by --state"
        )


def check_pepper(connection: sqlite3.Connection, pepper: Secret) -> None:
    """Raise UsageError where the second factors, and so the keys, were made with another pepper."""
    row = connection.execute("select account, secret from factors order by account").fetchone()
    if row is not None:
        _opened(pepper, row[0], row[1])


def enrol_admin(connection: sqlite3.Connection, pepper: Secret, *, now: float) -> str:
    """Make the second factor of the admin, once; raises UsageError where there is one already."""
    if connection.execute("select 1 from factors where account = ?", (ADMIN,)).fetchone():
        raise UsageError("this server has an admin already; moatbench keys add makes further keys")
    return enrol(connection, pepper, ADMIN, now=now)


def perform(
    state: State, pepper: Secret, account: str, code: str, act: Callable[[sqlite3.Connection, float], T]
) -> T:
    """Verify a code and do what it allows in one transaction, so that no code allows two things.

    ``act``: called with the connection and the time; what it raises undoes the acceptance too. Raises
    SecondFactorError for a code that is wrong or was used; that is counted, in a transaction of its own.
    """
    with state.transaction() as connection:
        now, steady = state.moment()
        if not connection.execute("select 1 from factors where account = ?", (account,)).fetchone():
            raise UsageError(f"the account {account} has no second factor here; moatbench keys init makes it")
        wait = _wait(connection, account, steady)
        fault = f"too many wrong codes; try again in {wait / 60:.0f} minutes" if wait else ""
        if not fault and _accept(connection, pepper, account, code, state.clock()):
            return act(connection, now)
        if not fault:
            fault = "the code is wrong or was used before; wait for the next one"
            connection.execute("insert into failures values (?, ?, ?)", (KIND, account, steady))
            audit.append(connection, "second factor failed", {"time": now, "account": account})
    raise SecondFactorError(fault, wait)


def _wait(connection: sqlite3.Connection, account: str, now: float) -> float:
    """Return how many seconds no code of the account is looked at; ``now``: the steady time."""
    connection.execute("delete from failures where kind = ? and at <= ?", (KIND, now - FAILURE_SECONDS))
    count, first = connection.execute(
        "select count(*), min(at) from failures where kind = ? and who = ?", (KIND, account)
    ).fetchone()
    return max(1.0, first + FAILURE_SECONDS - now) if count >= MOST_FAILURES else 0.0


def _accept(connection: sqlite3.Connection, pepper: Secret, account: str, code: str, clock: float) -> bool:
    """Return whether the code is right and newer than all that were accepted, and note its time step."""
    with needs_serve():
        from pyotp import TOTP, OTPVerificationError
    row = connection.execute("select secret from factors where account = ?", (account,)).fetchone()
    if row is None:
        return False
    factor: TOTP = TOTP(_opened(pepper, account, row[0]))
    try:
        step = factor.verify_and_get_timecode(code.strip(), for_time=clock, valid_window=STEPS)
    except (OTPVerificationError, ValueError):
        return False
    changed = connection.execute(
        "update factors set last = ? where account = ? and last < ?", (step, account, step)
    )
    return changed.rowcount == 1


def _key(pepper: Secret) -> bytes:
    """Return the key for second factors: another use of the pepper gets another key (HKDF's expand step)."""
    return hmac.digest(pepper.reveal(), b"moatbench second factors\x01", hashlib.sha256)


def _sealed(pepper: Secret, account: str, secret: str) -> bytes:
    with needs_serve():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(_key(pepper)).encrypt(nonce, secret.encode(), account.encode())


def _opened(pepper: Secret, account: str, sealed: bytes) -> str:
    with needs_serve():
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    try:
        secret: bytes = AESGCM(_key(pepper)).decrypt(sealed[:_NONCE], sealed[_NONCE:], account.encode())
    except InvalidTag:
        raise UsageError(
            "the second factor cannot be read with this pepper; name the pepper that the keys were made with"
        ) from None
    return secret.decode()
