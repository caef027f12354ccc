"""Standard output and error that never end a command: a closed pipe, a full disk or an ASCII terminal."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

STDOUT, STDERR = 1, 2


class TolerantWriter(io.RawIOBase):
    """Writes to a file descriptor. After the first error, which it keeps, it drops what it is given."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write some of ``data``; return how many bytes are done with, all of them after an error."""
        while self.error is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                # The other end of the pipe made it non-blocking, and is slow.
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.error = error
        return len(data)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make standard output and error tolerant inside the block.

    What a stream cannot encode is written as an escape. A stream that is closed, or whose reader has gone,
    drops what it gets, so that a command ends with the code of its outcome. Streams that a caller has put
    in place of the process's own are left as they are.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = _tolerant(sys.stdout, sys.__stdout__, STDOUT)
    sys.stderr = _tolerant(sys.stderr, sys.__stderr__, STDERR)
    ours = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream in ours:
            with suppress(ValueError):  # it was closed
                stream.flush()
        sys.stdout, sys.stderr = before


def output_error() -> OSError | None:
    """Return why standard output could not be written; None if it could, or if its reader ended first."""
    sys.stdout.flush()
    error = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "error", None)
    return error if isinstance(error, OSError) and error.errno != errno.EPIPE else None


def _open_closed_descriptors() -> None:
    """Open the null device on closed standard descriptors; else the next file would take their place."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _tolerant(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    if stream is not original:
        return stream or io.StringIO()
    if os.name == "nt" and isinstance(stream, io.TextIOWrapper):
        # Writing to the descriptor would lose what the console shows beyond its code page.
        stream.reconfigure(errors="backslashreplace")
        return stream
    if stream is not None:
        stream.flush()
    raw = TolerantWriter(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or descriptor == STDERR,
    )
