"""Which processes a process has started."""

import contextlib
from pathlib import Path


def children(pid, word):
    """Return the children of ``pid`` whose command line holds ``word``, in bytes; oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and word in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)
