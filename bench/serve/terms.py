"""The terms of use: which version an account accepted, when, and the SHA-256 of its text."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.files import user_file, user_text
from bench.serve import audit

LARGEST = 200_000
"""Most bytes of a text."""
EVENT = "terms accepted"
"""The event of the audit log."""
_TABLE = """
CREATE TABLE IF NOT EXISTS terms (
    account TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (account, version, digest)
) WITHOUT ROWID, STRICT
"""


@dataclass(frozen=True)
class Terms:
    """A version of the terms: its name, its text, and the text's SHA-256 as hexadecimal digits."""

    version: str
    text: str
    digest: str


def load(file: Path, version: str) -> Terms:
    """Return the terms in a text file, as they are there, so that its SHA-256 is that of the text.

    Raises UsageError.
    """
    path = user_file(file, "file of terms")
    if not user_text(path, LARGEST).strip():
        raise UsageError(f"{file}: the terms have no text")
    content = path.read_bytes()
    return Terms(version, content.decode(), hashlib.sha256(content).hexdigest())


def prepare(connection: sqlite3.Connection, terms: Terms) -> None:
    """Make the table, in the caller's transaction; raises UsageError for a version that had another text."""
    connection.execute(_TABLE)
    query = "SELECT 1 FROM terms WHERE version = ? AND digest <> ? LIMIT 1"
    if connection.execute(query, (terms.version, terms.digest)).fetchone():
        raise UsageError(
            f"the terms of version {terms.version} have another text than accounts accepted; give the new "
            "text a new version"
        )


def accept(connection: sqlite3.Connection, account: str, version: str, digest: str, *, now: float) -> bool:
    """Note that an account accepts a version, with its row of the log, in the caller's transaction.

    Return whether it is new for the account's key. ``digest``: SHA-256 of the text, as hexadecimal digits.
    """
    connection.execute(_TABLE)
    if _accepted(connection, account, version, digest):
        return False
    row = (account, version, digest, now)
    connection.execute("INSERT OR REPLACE INTO terms VALUES (?, ?, ?, ?)", row)
    fields = {"time": now, "account": account, "version": version, "sha256": digest}
    audit.append(connection, EVENT, fields)
    return True


def has_accepted(connection: sqlite3.Connection, account: str, terms: Terms) -> bool:
    """Return whether an account has accepted this version with this text, with the key that it has now."""
    return _accepted(connection, account, terms.version, terms.digest)


def _accepted(connection: sqlite3.Connection, account: str, version: str, digest: str) -> bool:
    # Whoever got a new key for an account may be somebody else than who accepted with the one before.
    query = """SELECT 1 FROM terms WHERE account = ? AND version = ? AND digest = ?
               AND at >= coalesce((SELECT renewed FROM accounts WHERE name = account), 0)"""
    return bool(connection.execute(query, (account, version, digest)).fetchone())
