"""Progress of a run on standard error: a bar on a terminal, else a line every 20 seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.records import Record

EVERY = 20.0
"""Seconds between lines if standard error is not a terminal."""


def watch(records: Iterable[Record], done: int, total: int, *, later: int = 0) -> Iterator[Record]:
    """Yield the records and show how many of ``total`` exist; ``done`` existed before.

    ``later``: how many more may follow at most; their time is included in what is left.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    # Said here, since FORCE_COLOR would make rich write control sequences to a file.
    console = Console(file=sys.stderr, force_terminal=terminal)
    if total == done:
        yield from records
        return
    started, failed, printed = time.monotonic(), 0, time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not terminal) as bar:
        task = bar.add_task("cells", total=total, completed=done, left="")
        for number, record in enumerate(records, 1):
            yield record
            failed += record.status == "failed"
            elapsed = time.monotonic() - started
            left = elapsed / number * (total - done - number + later)
            words = f"{'at most about' if later else 'about'} {duration(left)} left"
            words += f", {failed} failed" if failed else ""
            bar.update(task, completed=done + number, left=words)
            if not terminal and time.monotonic() - printed > EVERY:
                printed = time.monotonic()
                _say(f"{done + number} of {total}, {duration(elapsed)} so far, {words}")
    _say(f"{total - done} run in {duration(time.monotonic() - started)}, {done} existed before")


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # a console would break it at the width of a terminal that is not there


def duration(seconds: float) -> str:
    """Return ``seconds`` as text, for example ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
