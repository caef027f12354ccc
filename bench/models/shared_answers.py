"""Answers of a user's model that the processes of a run share: it is asked about an input once in a run."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

Images = NDArray[np.float32]
Array = NDArray[np.float64]

BUSY_SECONDS = 60.0
"""How long a process waits for another one that reads or writes."""
AT_ONCE = 500
"""Keys in one query; SQLite allows 999 in its oldest versions."""


@dataclass(frozen=True)
class SharedAnswers:
    """A file of a model's probabilities by input, and of what is known of the model, for one run.

    ``path``: of the file, which is made where there is none. Nothing in it outlives the run, so it needs no
    key: the process that starts the run names a new file. One process at a time asks the model.
    """

    path: Path

    def answers(self, x: Images, ask: Callable[[Images], Array]) -> Array:
        """Return the answers to inputs (n, …); ``ask`` gives those not there yet."""
        keys = [_key(row) for row in np.ascontiguousarray(x, dtype=np.float32)]
        with self._open() as file:
            found = _read(file, keys)
        if len(found) < len(keys):
            with FileLock(f"{self.path}.lock"):
                with self._open() as file:
                    found = _read(file, keys)
                new = {key: place for place, key in enumerate(keys) if key not in found}
                if new:
                    asked = dict(zip(new, ask(x[list(new.values())]), strict=True))
                    with self._open() as file:
                        _write(file, asked)
                    found |= asked
        return np.stack([found[key] for key in keys])

    def add(self, x: Images, answers: Array) -> None:
        """Add answers (n, classes) to inputs (n, …)."""
        rows = np.ascontiguousarray(x, dtype=np.float32)
        with self._open() as file:
            _write(file, dict(zip(map(_key, rows), answers, strict=True)))

    def put(self, name: str, content: bytes) -> None:
        """Keep ``content`` under a name."""
        with self._open() as file:
            file.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (name, content))

    def get(self, name: str) -> bytes | None:
        """Return what was kept under a name, or None."""
        with self._open() as file:
            row = file.execute("SELECT content FROM known WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: one that is kept open would outlive its removal."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as file, file:
            file.execute("PRAGMA synchronous = OFF")  # what the machine loses is asked again
            file.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID"
            )
            file.execute("CREATE TABLE IF NOT EXISTS known (name TEXT PRIMARY KEY, content BLOB)")
            yield file


def _key(row: Images) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _read(file: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Array]:
    found: dict[bytes, Array] = {}
    for start in range(0, len(keys), AT_ONCE):
        part = keys[start : start + AT_ONCE]
        marks = ",".join("?" * len(part))
        rows = file.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part)  # noqa: S608  # only question marks
        found |= {bytes(key): np.frombuffer(answer, dtype=np.float64) for key, answer in rows}
    return found


def _write(file: sqlite3.Connection, answers: dict[bytes, Array]) -> None:
    rows = [
        (key, np.ascontiguousarray(answer, dtype=np.float64).tobytes()) for key, answer in answers.items()
    ]
    file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
