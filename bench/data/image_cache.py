"""Images as files that processes map: read and converted once, and in memory once for all workers.

Pages that a worker does not look at cost it nothing: most never look at what their victim was trained on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.files import cache_root, replacement

log = logging.getLogger(__name__)

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
SLICE = 4096
"""Rows that are converted at once."""


def mapped(
    name: str, key: str, rows: int, read: Callable[[], Callable[[slice], tuple[Images, Labels]]]
) -> tuple[Images, Labels, str]:
    """Return images (rows, …), mapped, their labels (rows,), and the SHA-256 of both.

    ``key``: all that they depend on, in a file's name. ``read`` is called where they are not in the
    cache, and what it returns gives the rows of a slice. Writing to the images changes this process's
    alone. Raises OSError where the cache cannot be written to.
    """
    folder = cache_root() / "images" / f"{name}-{key}"
    try:
        return _open(folder, rows)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        log.warning("cached images %s are damaged (%s); reading them again", folder.name, error)
    try:
        with replacement(folder) as part:
            _write(part, rows, read())
    except OSError:
        # Another process may have been faster: what it wrote is the same.
        if not folder.is_dir():
            raise
    return _open(folder, rows)


def digest(x: NDArray[np.generic], y: NDArray[np.generic]) -> str:
    """Return the SHA-256 of both arrays' bytes, one after the other, copying neither."""
    found = hashlib.sha256(np.ascontiguousarray(x).data)
    found.update(np.ascontiguousarray(y).data)
    return found.hexdigest()


def _open(folder: Path, rows: int) -> tuple[Images, Labels, str]:
    # Mapped copy on write: torch takes no array that it may not write to.
    x, y = np.asarray(np.load(folder / "x.npy", mmap_mode="c")), np.load(folder / "y.npy")
    checksum = (folder / "sha256").read_text()
    if len(x) != rows or len(y) != rows or len(checksum) != 64:
        raise ValueError("not as many as there should be")
    return x, y, checksum


def _write(folder: Path, rows: int, take: Callable[[slice], tuple[Images, Labels]]) -> None:
    folder.mkdir(parents=True)
    shape = (rows, *take(slice(0, 0))[0].shape[1:])
    y = np.empty(rows, dtype=np.int64)
    # Written, not mapped: a disk that is full would kill the process instead of raising.
    with (folder / "x.npy").open("wb") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, head)
        found = hashlib.sha256()
        for start in range(0, rows, SLICE):
            here = slice(start, min(start + SLICE, rows))
            x, y[here] = take(here)
            content = np.ascontiguousarray(x, dtype="<f4").data
            file.write(content)
            found.update(content)
    found.update(y.data)
    np.save(folder / "y.npy", y)
    (folder / "sha256").write_text(found.hexdigest())
