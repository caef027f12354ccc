"""Sessions of those who read metrics: a key and a code give a token that soon expires."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3

from bench.serve import audit
from bench.serve.second_factor import perform
from bench.serve.secret_values import Secret
from bench.serve.state import State


def log_in(state: State, pepper: Secret, account: str, code: str, seconds: float) -> str:
    """Return the token of a new session of ``seconds``; raises SecondFactorError for a wrong code.

    The state file holds the token's SHA-256 alone; it has 256 random bits.
    """
    token = secrets.token_urlsafe(32)

    def begin(connection: sqlite3.Connection, now: float) -> str:
        connection.execute("delete from sessions where until <= ?", (now,))
        connection.execute("insert into sessions values (?, ?, ?)", (_digest(token), account, now + seconds))
        audit.append(connection, "logged in", {"time": now, "account": account})
        return token

    return perform(state, pepper, account, code, begin)


def is_open(state: State, token: str) -> bool:
    """Return whether a token's session has not expired, and its account is not revoked."""
    now = max(state.clock(), state.last_seen())
    return bool(
        state.rows(
            """select 1 from sessions join accounts on name = account
               where sessions.digest = ? and until > ? and revoked is null""",
            _digest(token),
            now,
        )
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
