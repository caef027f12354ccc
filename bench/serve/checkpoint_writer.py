"""The process that writes checkpoints of a server's audit log: ``python -m bench.serve.checkpoint_writer``.

It alone reads the signing key. It reads the log from the state file, checks that the log goes on from the
last checkpoint, and ends with one sentence if it does not. It ends with a last checkpoint when its
standard input is closed, so also when the server is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import MoatbenchError, UsageError
from bench.exit_codes import ExitCode
from bench.serve import audit, checkpoints, signatures

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

READY = "ready"
"""What the process prints once the log so far was checked."""
POLL = 0.2
"""Seconds between two looks at the log."""
ALIVE = 1.0
"""Seconds between two words to the server, after a look, which show that this process does not hang."""


class LogError(Exception):
    """The log does not go on from the last checkpoint."""


class Writer:
    """Appends checkpoints of the log in the state file ``state`` to ``file``.

    A checkpoint is due after ``rows`` new rows, or ``seconds`` after the last one where there is any new row.
    ``clock``: seconds since 1970. ``timer``: seconds since any point, which never go back.
    """

    def __init__(
        self,
        state: Path,
        file: Path,
        key: Ed25519PrivateKey,
        *,
        rows: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state, self.file, self.key = state, file, key
        self.rows, self.seconds, self.clock, self.timer = rows, seconds, clock, timer
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            checkpoints.cut_unfinished(file)
        known = checkpoints.read(file, key.public_key()) if file.exists() else []
        self.last = known[-1] if known else None
        self.written_at = timer()
        number = self.last.number if self.last else 0
        self.seen = audit.Row(number, "", self.last.hash if self.last else audit.FIRST)

    def step(self, *, final: bool = False) -> bool:
        """Read what is new in the log; write a checkpoint if one is due, or at the end (``final``).

        Return whether one was written. Raises LogError where the log does not go on from the last one.
        """
        if self.seen.number and not self.state.exists():
            # The server may still write to the file, which has no name any more.
            raise LogError(f"{self.state} is gone, and the audit log with it; restore a backup")
        if self.state.exists():
            with audit.reading(self.state) as connection:
                if audit.row_hash(connection, self.seen.number) != self.seen.hash:
                    raise LogError(
                        f"row {self.seen.number} of the audit log is gone or is not as it was; if a backup "
                        "was restored, or the machine lost power, name a new file for checkpoints"
                    )
                for row in audit.rows(connection, self.seen.number):
                    if fault := audit.break_in(self.seen, row):
                        raise LogError(f"audit log: {fault}")
                    self.seen = row
        new = self.seen.number - (self.last.number if self.last else 0)
        if not new or not (final or new >= self.rows or self.timer() - self.written_at >= self.seconds):
            return False
        self.last = checkpoints.made(self.key, self.seen.number, self.seen.hash, self.clock(), self.last)
        checkpoints.add(self.file, self.last)
        self.written_at = self.timer()
        return True


def run(writer: Writer, stopped: threading.Event, alive: Callable[[], None] = lambda: None) -> None:
    """Write checkpoints until ``stopped``, then the last one; ``alive``: called about once a second."""
    said = writer.timer()
    while not stopped.wait(POLL):
        writer.step()
        if writer.timer() - said >= ALIVE:
            alive()
            said = writer.timer()
    writer.step(final=True)


def _say_alive() -> None:
    # A server that was killed, or does not listen, must not keep the last checkpoint from being written.
    with suppress(OSError):
        os.write(sys.stdout.fileno(), b"alive\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve.checkpoint_writer")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args(arguments)
    for each in (signal.SIGINT, signal.SIGTERM):  # they may reach all processes; the server ends this one
        signal.signal(each, signal.SIG_IGN)
    stopped = threading.Event()
    try:
        writer, _lock = _opened(given)  # held to the end of the process
        writer.step()
        print(READY, flush=True)
        os.set_blocking(sys.stdout.fileno(), False)
        threading.Thread(target=_wait_for_end, args=(stopped,), daemon=True).start()
        run(writer, stopped, _say_alive)
    except (MoatbenchError, LogError, checkpoints.BrokenCheckpointsError) as error:
        print(error, file=sys.stderr)
        return ExitCode.USAGE
    except OSError as error:
        print(f"{error.filename or given.file}: {error.strerror or error}", file=sys.stderr)
        return ExitCode.USAGE
    return ExitCode.FINE


def _opened(given: argparse.Namespace) -> tuple[Writer, object]:
    """Return the writer, and the lock on its file; raises UsageError where another one holds that."""
    from filelock import FileLock, Timeout

    key = signatures.read_private_key(given.key)
    given.file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{given.file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"{given.file}: another server writes its checkpoints there; name another file"
        ) from error
    public = given.file.with_name(f"{given.file.name}.pub")
    if not public.exists():
        signatures.write_public_key(public, key.public_key())
    elif signatures.pem(signatures.read_public_key(public)) != signatures.pem(key.public_key()):
        raise UsageError(
            f"{public} is the public key of another one than {given.key}: a new key needs a new file for "
            "checkpoints"
        )
    return Writer(given.state, given.file, key, rows=given.rows, seconds=given.seconds), lock


def _wait_for_end(stopped: threading.Event) -> None:
    sys.stdin.buffer.read()
    stopped.set()


if __name__ == "__main__":
    sys.exit(main())
