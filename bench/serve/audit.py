"""The audit log: rows of the state file, each with the hash of the one before.

The hash of a row is SHA-256 over its number, the hash before it and the digest of its record. Records hold a
random salt, so that a digest alone tells nothing of what the record says: evidence shows the rows of one
account and the digests of all others (:mod:`bench.serve.evidence`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError

FIRST = "0" * 64
"""What the first row has for the hash of the one before."""
LONGEST = 500
"""Characters of a text in a record; the rest is cut off."""
TABLE = """
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, record TEXT NOT NULL, hash TEXT NOT NULL
) STRICT
"""
_LAST = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=True, allow_nan=False).encode


@dataclass(frozen=True)
class Row:
    """A row as it is stored: its number, from 1, its record as JSON text, and its hash."""

    number: int
    record: str
    hash: str


def append(connection: sqlite3.Connection, event: str, fields: Mapping[str, Any]) -> int:
    """Append a row, inside the caller's transaction, and return its number, from 1.

    ``event``: what happened, as "admitted", "answered", "refused", "key added". ``fields``: texts, numbers,
    truth values or None, no secret and no input; raises TypeError for another value.
    """
    record = {"event": event, "salt": os.urandom(16).hex()}
    for name, value in fields.items():
        if isinstance(value, str):
            record[name] = value[:LONGEST]
        elif value is None or isinstance(value, bool | int | float):
            record[name] = value  # type: ignore[assignment]  # any JSON value
        else:
            raise TypeError(f"the audit log takes no {type(value).__name__} ({name})")
    text = _encode(record)
    try:
        last = connection.execute(_LAST).fetchone()
    except sqlite3.OperationalError:  # the first row of a new file
        connection.execute(TABLE)
        last = connection.execute(_LAST).fetchone()
    number, before = (last[0] + 1, last[1]) if last else (1, FIRST)
    connection.execute(
        "INSERT INTO audit VALUES (?, ?, ?)", (number, text, link(number, before, digest_of(text)))
    )
    return int(number)


def digest_of(record: str) -> str:
    """Return the SHA-256 of a record as it is stored."""
    return hashlib.sha256(record.encode()).hexdigest()


def link(number: int, before: str, digest: str) -> str:
    """Return the hash of row ``number``: of the hash ``before`` it and the ``digest`` of its record."""
    return hashlib.sha256(f"moatbench audit 1\n{number}\n{before}\n{digest}".encode()).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a state file that can only read it, at one point in time; raises UsageError."""
    if not path.is_file():
        raise UsageError(f"no state file {path}; name the folder that moatbench serve was given as --state")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as found:
            found.execute("BEGIN")
            yield found
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{path}: it is no state file of a server, or it is damaged: {error}") from error


def rows(connection: sqlite3.Connection, after: int = 0) -> Iterator[Row]:
    """Yield the rows with numbers above ``after``, in order."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit'").fetchone():
        return
    query = "SELECT number, record, hash FROM audit WHERE number > ? ORDER BY number"
    for number, record, digest in connection.execute(query, (after,)):
        yield Row(number, record, digest)


def row_hash(connection: sqlite3.Connection, number: int) -> str | None:
    """Return the hash that row ``number`` has, :data:`FIRST` for 0; None where there is no such row."""
    if number == 0:
        return FIRST
    try:
        found = connection.execute("SELECT hash FROM audit WHERE number = ?", (number,)).fetchone()
    except sqlite3.OperationalError:
        return None
    return str(found[0]) if found else None


def break_in(before: Row, row: Row) -> str:
    """Return how ``row`` fails to follow the row ``before`` it; "" if it follows."""
    if row.number != before.number + 1:
        missing = f"row {before.number + 1}"
        if row.number > before.number + 2:
            missing = f"rows {before.number + 1} to {row.number - 1}"
        return f"{missing} missing: row {row.number} follows row {before.number}"
    if link(row.number, before.hash, digest_of(row.record)) != row.hash:
        return f"row {row.number}: its record, or a row before it, is not as it was written"
    return ""


START = Row(0, "", FIRST)
"""What the first row follows."""
