"""A cache of images in memory-mapped files: converted once, and in memory once for all workers.

Pages that no worker reads take no memory: most workers never read their victim's training data.
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
"""Rows that are converted at a time."""


def cached_images(
    name: str, key: str, rows: int, read: Callable[[], Callable[[slice], tuple[Images, Labels]]]
) -> tuple[Images, Labels, str]:
    """Return memory-mapped images (rows, …), their labels (rows,), and the SHA-256 of both.

    ``key``: everything that they depend on, as part of a file name. ``read`` is called if they are not in
    the cache; it returns a function from a slice to these rows. Writing to the images changes them in this
    process alone. Raises OSError if the cache cannot be written to.
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
        # Another process may have been faster; it wrote the same.
        if not folder.is_dir():
            raise
    return _open(folder, rows)


def digest(x: NDArray[np.generic], y: NDArray[np.generic]) -> str:
    """Return the SHA-256 of the bytes of ``x``, then ``y``, without copying them."""
    found = hashlib.sha256(np.ascontiguousarray(x).data)
    found.update(np.ascontiguousarray(y).data)
    return found.hexdigest()


def _open(folder: Path, rows: int) -> tuple[Images, Labels, str]:
    # Mapped copy-on-write: torch does not accept read-only arrays.
    x, y = np.asarray(np.load(folder / "x.npy", mmap_mode="c")), np.load(folder / "y.npy")
    checksum = (folder / "sha256").read_text()
    if len(x) != rows or len(y) != rows or len(checksum) != 64:
        raise ValueError("wrong number of rows")
    return x, y, checksum


def _write(folder: Path, rows: int, take: Callable[[slice], tuple[Images, Labels]]) -> None:
    folder.mkdir(parents=True)
    shape = (rows, *take(slice(0, 0))[0].shape[1:])
    y = np.empty(rows, dtype=np.int64)
    # Written, not mapped: on a full disk a mapped write kills the process (SIGBUS) instead of raising.
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
