"""What a cell costs: wall and CPU seconds by name, and memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Clock:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def share(self, among: int) -> Clock:
        """Return each one's part of what ``among`` cells took together."""
        part = Clock()
        part.wall = {name: seconds / among for name, seconds in self.wall.items()}
        part.cpu = {name: seconds / among for name, seconds in self.cpu.items()}
        return part

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = time.perf_counter() - wall
        self.cpu[name] = time.process_time() - cpu


def memory_mib() -> float:
    """Return the high-water mark of this process's memory, in MiB."""
    try:
        # What getrusage says of a new process on Linux begins with the mark of the one that started it.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) / 2**10
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
