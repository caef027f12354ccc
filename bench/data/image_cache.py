"""A cache of images in memory-mapped files: converted once, and in memory once for all workers.

Pages that no worker reads take no memory: most workers never read their victim's training data. So a file
is read through, not mapped, when its checksum is compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.files import LINE, cache_root, replacement, sealed, unsealed

log = logging.getLogger(__name__)

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
SLICE = 4096
"""Rows that are converted at a time."""
HEAD = 4096
"""Bytes before the images: a checked description, filled up with spaces."""
PIECE = 2**20
"""Bytes that are read at a time to compare a checksum."""
_compared: set[tuple[str, int, int, int]] = set()


def cached_images(
    name: str, key: str, rows: int, read: Callable[[], Callable[[slice], tuple[Images, Labels]]]
) -> tuple[Images, Labels, str]:
    """Return memory-mapped images (rows, …), their labels (rows,), and the SHA-256 of both.

    ``key``: everything that they depend on, as part of a file name. Files that are equal up to its first "-"
    are older versions of these images, and are removed when new ones are written. ``read`` is called if the
    images are not in the cache, or if their checksum is wrong; it returns a function from a slice to these
    rows. A checksum is compared once in a process. Writing to the images changes them in this process alone.
    Raises OSError if the cache cannot be written to.
    """
    path = cache_root() / "images" / f"{name}-{key}.images"
    try:
        return _open(path, rows)
    except ValueError as error:
        log.warning("cached images %s are damaged (%s); converting them again", path, error)
    except OSError:
        pass  # none yet, or none that can be read, which writing them finds out as well
    with replacement(path) as part:
        _write(part, rows, read())
    for old in path.parent.glob(f"{name}-{key.partition('-')[0]}-*.images"):
        if old != path:
            old.unlink(missing_ok=True)
    try:
        return _open(path, rows)
    except ValueError as error:
        raise OSError(f"{path} is damaged as soon as it is written") from error


def digest(x: NDArray[np.generic], y: NDArray[np.generic]) -> str:
    """Return the SHA-256 of the bytes of ``x``, then ``y``, without copying them."""
    found = hashlib.sha256(np.ascontiguousarray(x).data)
    found.update(np.ascontiguousarray(y).data)
    return found.hexdigest()


def _open(path: Path, rows: int) -> tuple[Images, Labels, str]:
    with path.open("rb") as file:
        content = unsealed(file.read(HEAD))
        if content is None:
            raise ValueError("their description has changed")
        told: dict[str, Any] = json.loads(content)
        shape, checksum = tuple(told["shape"]), str(told["sha256"])
        state = os.fstat(file.fileno())
        if shape[0] != rows or state.st_size != HEAD + 4 * prod(shape) + 8 * rows:
            raise ValueError("wrong size")
        identity = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
        if identity not in _compared:
            if _checksum(file) != checksum:
                raise ValueError("wrong checksum")
            _compared.add(identity)
        # Mapped copy-on-write: torch does not accept read-only arrays.
        x = np.asarray(np.memmap(file, dtype="<f4", mode="c", offset=HEAD, shape=shape))
        file.seek(HEAD + x.nbytes)
        y = np.frombuffer(file.read(), dtype="<i8").astype(np.int64)
    return x, y, checksum


def _checksum(file: BufferedReader) -> str:
    found, piece = hashlib.sha256(), bytearray(PIECE)
    while size := file.readinto(piece):
        found.update(memoryview(piece)[:size])
    return found.hexdigest()


def _write(path: Path, rows: int, take: Callable[[slice], tuple[Images, Labels]]) -> None:
    shape = (rows, *take(slice(0, 0))[0].shape[1:])
    y = np.empty(rows, dtype="<i8")
    found = hashlib.sha256()
    # Written, not mapped: on a full disk a mapped write kills the process (SIGBUS) instead of raising.
    with path.open("wb") as file:
        file.seek(HEAD)
        for start in range(0, rows, SLICE):
            here = slice(start, min(start + SLICE, rows))
            x, y[here] = take(here)
            content = np.ascontiguousarray(x, dtype="<f4").data
            file.write(content)
            found.update(content)
        file.write(y.data)
        found.update(y.data)
        file.seek(0)
        description = json.dumps({"shape": shape, "sha256": found.hexdigest()})
        file.write(sealed(description.ljust(HEAD - LINE).encode()))
