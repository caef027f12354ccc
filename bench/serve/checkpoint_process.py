"""The server's side of checkpoints: starts the process that writes them, and ends when that dies or hangs."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UsageError
from bench.serve.checkpoint_writer import READY
from bench.serve.evidence_controls import Audit

STARTING, ENDING = 60.0, 30.0
"""Seconds that the process has to check the log so far, and to write the last checkpoint."""
SILENT = 30.0
"""Seconds without a word of the process after which it is taken to hang; it says one a second."""
_PASSED_ON = (
    *("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"),
)
"""Variables that the process gets; no other, since they may hold secrets of the server."""


@contextmanager
def checkpoints(
    settings: Audit | None,
    state: Path,
    folder: Path,
    died: Callable[[str], None],
    *,
    silent: float = SILENT,
) -> Iterator[None]:
    """Have checkpoints of the state file's log written during the block; None: nothing is done.

    ``folder``: that of the controls file. ``died``: called from a thread, with a sentence, if the process
    ends in between, or says nothing for ``silent`` seconds, as where its disk hangs; it is then killed.
    Nothing may be answered then. Raises UsageError where it cannot start.
    """
    if settings is None:
        yield
        return
    process = _started(settings, state, folder)
    ending = threading.Event()

    def watch() -> None:
        hangs = not _until_end(process, ending, silent)
        if ending.is_set():
            return
        why = f"the process has said nothing for {silent:g} seconds" if hangs else _last_words(process)
        died(f"checkpoints of the audit log are not written any more: {why}")

    watcher = threading.Thread(target=watch, daemon=True, name="checkpoints")
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(timeout=ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
        watcher.join(timeout=ENDING)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def _until_end(process: subprocess.Popen[bytes], ending: threading.Event, silent: float) -> bool:
    """Wait until a process has ended; kill it if it hangs before ``ending``. Return whether it ended."""
    if process.stdout is None:
        raise AssertionError("the process has no standard output")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=silent):
                if not os.read(process.stdout.fileno(), 4096):
                    process.wait()
                    return True
            elif not ending.is_set():
                process.kill()
                process.wait()
                return False


def _started(settings: Audit, state: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Return the process once it has checked the log so far; raises UsageError with what it says."""
    command = [
        *(sys.executable, "-m", "bench.serve.checkpoint_writer", "--state", str(state.resolve())),
        *("--file", str((folder / settings.checkpoints).resolve())),
        *("--key", str((folder / settings.key_file).resolve())),
        *("--rows", str(settings.rows), "--seconds", str(settings.seconds)),
    ]
    process = subprocess.Popen(  # noqa: S603  # our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # so that no word of it waits unseen
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )
    timer = threading.Timer(STARTING, process.kill)
    timer.start()
    try:
        line = process.stdout.readline() if process.stdout else b""
    finally:
        timer.cancel()
    if line.strip().decode() != READY:
        process.kill()
        raise UsageError(f"checkpoints of the audit log cannot be written: {_last_words(process)}")
    return process


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """Return what a process that has ended wrote to standard error, in one line."""
    process.wait()
    said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
    return " ".join(said.split())[-300:] or f"the process ended with exit code {process.returncode}"
