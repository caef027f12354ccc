"""The audit log: rows of the state file, each with the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

FIRST = "0" * 64
"""What the first row has for the hash of the one before."""
TABLE = """
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, record TEXT NOT NULL, hash TEXT NOT NULL
) STRICT
"""


def append(connection: sqlite3.Connection, event: str, fields: Mapping[str, Any]) -> int:
    """Append a row, inside the caller's transaction, and return its number, from 1.

    ``event``: what happened, as "admitted", "answered", "refused", "key added". ``fields``: JSON values, no
    secret and no input.
    """
    connection.execute(TABLE)
    last = connection.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, before = (last[0] + 1, last[1]) if last else (1, FIRST)
    record = json.dumps({"event": event, **fields}, sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(f"{number}\n{before}\n{record}".encode()).hexdigest()
    connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (number, record, digest))
    return number
