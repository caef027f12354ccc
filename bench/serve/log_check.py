"""Whether an audit log is as it was written: its chain of hashes, and the checkpoints outside the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.serve import audit
from bench.serve.checkpoints import BrokenCheckpointsError, Checkpoint, read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Outcome:
    """What was found, in ``lines`` for people. ``holds``: None where nothing outside could tell."""

    holds: bool | None
    lines: tuple[str, ...]


def verify_log(state: Path, checkpoints: Path | None, key: Ed25519PublicKey | None) -> Outcome:
    """Compare the log in the state file ``state`` with itself and with ``checkpoints``, signed with ``key``.

    Without checkpoints, ``holds`` is None unless the chain is broken. Raises UsageError for files that cannot
    be read.
    """
    try:
        known = read(checkpoints, key) if checkpoints and key else []
    except BrokenCheckpointsError as error:
        return Outcome(False, (f"broken: {error}",))
    with audit.reading(state) as connection:
        return _compared(audit.rows(connection), known)


def _compared(rows: Iterable[audit.Row], known: list[Checkpoint]) -> Outcome:
    last, waiting = audit.START, iter(known)
    agreed: Checkpoint | None = None
    due = next(waiting, None)
    for row in rows:
        if fault := audit.break_in(last, row):
            return _broken(fault, agreed)
        last = row
        while due is not None and due.number <= row.number:
            if due.number == row.number and due.hash != row.hash:
                start = agreed.number + 1 if agreed else 1
                which = f"row {start}" if start == row.number else f"rows {start} to {row.number}"
                return _broken(
                    f"{which} were written anew: the checkpoint of row {row.number} differs", agreed
                )
            agreed, due = due, next(waiting, None)
    if due is not None:
        end = known[-1].number
        which = f"row {end}" if end == last.number + 1 else f"rows {last.number + 1} to {end}"
        return _broken(f"{which} missing: the log was cut after row {last.number}", agreed)
    if agreed is None:
        unknown = "no checkpoint to compare with: a log that was cut or written anew looks the same"
        return Outcome(None, (f"{_count(last.number, 'row')}; the chain holds", unknown))
    counts = f"{_count(last.number, 'row')}, {_count(len(known), 'checkpoint')}"
    lines = [f"{counts}; holds up to row {agreed.number}, {_when(agreed)}"]
    if last.number > agreed.number:
        lines.append(
            f"rows {agreed.number + 1} to {last.number} are later than the last checkpoint: their chain "
            "holds, but whether some were cut off or written anew cannot be known"
        )
    else:
        lines.append(
            "no row is later than the last checkpoint; whether later ones were cut off cannot be known"
        )
    return Outcome(True, tuple(lines))


def _broken(fault: str, agreed: Checkpoint | None) -> Outcome:
    if agreed is None:
        return Outcome(False, (f"broken: {fault}", "no checkpoint before that agrees with the log"))
    return Outcome(False, (f"broken: {fault}", f"holds up to row {agreed.number}, {_when(agreed)}"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _when(checkpoint: Checkpoint) -> str:
    return datetime.fromtimestamp(checkpoint.time, UTC).strftime("checkpoint of %Y-%m-%d %H:%M:%S UTC")
