"""Counts of what a server did, in the state file, so that they are those of all its workers."""

from __future__ import annotations

import sqlite3


def count(
    connection: sqlite3.Connection, name: str, amount: float, control: str = "", status: int = 0
) -> None:
    """Add ``amount`` to a count, inside the caller's transaction.

    ``name``: "requests", by the ``control`` that refused (or "") and the HTTP ``status``; "inputs", whose
    ``control`` is "admitted", "refused", "flagged" or "unanswered"; "seconds" of answered requests.
    """
    connection.execute(
        """insert into tallies values (?, ?, ?, ?) on conflict (name, control, status)
           do update set total = total + excluded.total""",
        (name, control, status, amount),
    )
