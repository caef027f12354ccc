"""What the commands that run cells share: signals, progress, and what is said at the end."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from bench.exit_codes import ExitCode

if TYPE_CHECKING:
    from bench.records import Record


def say_outcome(counts: Mapping[str, int], last: Iterable[str]) -> None:
    """Print the outcome of a run: cells by status, then ``last``; raises Exit where cells lack results."""
    print(", ".join(f"{number} {status}" for status, number in counts.items()))
    print("\n".join(last))
    if counts.get("failed") or counts.get("missing"):
        lost = counts.get("failed", 0) + counts.get("missing", 0)
        print(f"{lost} cells have no result; run the same command to retry them", file=sys.stderr)
        raise typer.Exit(ExitCode.INCOMPLETE)


def command_line(words: Iterable[str]) -> str:
    """Return the command as a shell reads it; bytes that are no UTF-8, as in a file's name, are escaped."""
    text = shlex.join(["moatbench", *words])
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a cancelled CI job or a closed terminal end the block like Ctrl-C, workers included."""
    # Windows has no SIGHUP. A handler that is ignored means nohup; None is one that Python did not set.
    present = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in present}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread():
        before = {}  # only the main thread may set handlers
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_progress(records: Iterable[Record], done: int, total: int, *, later: int = 0) -> Iterator[Record]:
    """Yield the records and show progress: a bar on a terminal, else a line every 20 seconds.

    ``later``: how many cells may follow at most, to confirm what these suggest.
    """
    from bench.cli import progress

    if total == done:
        print(f"nothing left to run: {total:,} of {total:,} are stored", file=sys.stderr)
    else:
        more = f"; up to {later:,} more confirm what they suggest" if later else ""
        print(f"{total - done:,} to run, {done:,} are stored{more}", file=sys.stderr)
    return progress.watch(records, done, total, later=later)
