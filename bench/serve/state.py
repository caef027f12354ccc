"""The file that the workers of one server share: accounts, counters, audit log. SQLite, WAL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time

SCHEMA_VERSION = 1


class State:
    """A connection to the state file of a server, one a worker.

    ``clock``: seconds since 1970. All that has to hold together happens in one :meth:`transaction`.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time) -> None:
        self.path, self.clock = path, clock
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside BEGIN IMMEDIATE; committed at the end, rolled back on any error."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def state_file(folder: Path) -> Path:
    """Return the path of the state file in the folder of a server."""
    return folder / "state.sqlite"
