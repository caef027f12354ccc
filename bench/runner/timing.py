"""The cost of a cell: wall and CPU seconds by name, and memory."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Timings:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def share(self, cells: int) -> Timings:
        """Return the seconds divided by ``cells``: the part of each cell that took them together."""
        part = Timings()
        part.wall = {name: seconds / cells for name, seconds in self.wall.items()}
        part.cpu = {name: seconds / cells for name, seconds in self.cpu.items()}
        return part

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure the seconds of the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = time.perf_counter() - wall
        self.cpu[name] = time.process_time() - cpu


def memory_mib() -> float:
    """Return the peak memory of this process, in MiB; 0 on Windows, which has no such count."""
    try:
        # On Linux, getrusage starts a new process with the peak of its parent process.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:
        return 0.0
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
