"""Checkpoints of the audit log: signed lines in a file that the server does not write.

A chain of hashes shows an edited, deleted or exchanged row. A log that was cut off, or written anew from
its first row, has a chain that holds; it differs from the checkpoints. Each checkpoint has the SHA-256 of
the line before it, so that none can be taken out of the middle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.serve.audit import FIRST
from bench.serve.signatures import canonical, is_signed, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KIND = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Row ``number`` of the log had this ``hash`` at ``time``, in seconds since 1970.

    ``before``: SHA-256 of the line before. ``signature``: of all the rest.
    """

    number: int
    hash: str
    time: float
    before: str
    signature: str

    @property
    def body(self) -> dict[str, Any]:
        """What is signed."""
        return {"number": self.number, "hash": self.hash, "time": self.time, "before": self.before}

    @property
    def line(self) -> bytes:
        """The line of the file, with its end."""
        return canonical(self.body | {"signature": self.signature}) + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line."""
        return hashlib.sha256(self.line).hexdigest()


class BrokenCheckpointsError(Exception):
    """Checkpoints are not as they were written; the message says which."""


def made(
    key: Ed25519PrivateKey, number: int, row_hash: str, time: float, last: Checkpoint | None
) -> Checkpoint:
    """Return the checkpoint of a row that follows the checkpoint ``last``; its time never goes back."""
    time = max(time, last.time) if last else time
    unsigned = Checkpoint(number, row_hash, time, last.digest if last else FIRST, "")
    return Checkpoint(**unsigned.body, signature=sign(key, KIND, unsigned.body))


def parsed(value: Any) -> Checkpoint:
    """Return a checkpoint from its JSON value; raises ValueError."""
    kinds = {"number": int, "hash": str, "time": float, "before": str, "signature": str}
    if not isinstance(value, Mapping) or value.keys() != kinds.keys():
        raise ValueError
    if any(type(value[name]) is not kind for name, kind in kinds.items()):
        raise ValueError
    return Checkpoint(**value)


def check(checkpoints: list[Checkpoint], key: Ed25519PublicKey) -> None:
    """Raise BrokenCheckpointsError where one is not signed with ``key`` or does not follow the one before."""
    before, number = FIRST, 0
    for place, each in enumerate(checkpoints, 1):
        if not is_signed(key, KIND, each.body, each.signature):
            raise BrokenCheckpointsError(f"checkpoint {place} is not signed with this key")
        if each.before != before or each.number < number:
            raise BrokenCheckpointsError(f"checkpoint {place} does not follow the one before it")
        before, number = each.digest, each.number


def read(path: Path, key: Ed25519PublicKey) -> list[Checkpoint]:
    """Return the checkpoints of a file, oldest first; raises BrokenCheckpointsError, UsageError for no file.

    An unfinished last line, which a process that was killed leaves behind, is no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the checkpoints cannot be read: {error.strerror or error}") from error
    found = []
    for place, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            found.append(parsed(json.loads(line)))
        except (ValueError, RecursionError):
            raise BrokenCheckpointsError(f"{path}, line {place}: it is no checkpoint") from None
        if found[-1].line != line + b"\n":
            raise BrokenCheckpointsError(f"{path}, line {place}: it is not as it was written")
    check(found, key)
    return found


def cut_unfinished(path: Path) -> None:
    """Remove an unfinished last line."""
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def add(path: Path, checkpoint: Checkpoint) -> None:
    """Append a checkpoint; it is on the disk when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        line = checkpoint.line
        if os.write(handle, line) != len(line):
            raise OSError(28, "no space left for a checkpoint", str(path))
        os.fsync(handle)
    finally:
        os.close(handle)
