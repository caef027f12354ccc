"""A cache of a model's outputs by input row.

Attacks query inputs one by one, while a model evaluates whole chunks. Incomplete chunks are filled with
inputs that are likely to be queried next, and their outputs are cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.models.determinism import CHUNK

Images = NDArray[np.float32]
Outputs = tuple[NDArray[np.floating], ...]
ROW_OVERHEAD = 320
"""Approximate bytes of memory for a row besides its outputs: its key and Python's object headers."""


class PredictionCache:
    """Caches the outputs of a model for recent input rows.

    ``evaluate``: from inputs (n, …) to arrays of n rows each. An output row depends on its input row alone.
    Inputs are evaluated in chunks of a fixed size (:data:`bench.models.determinism.CHUNK`), so evaluating one
    row takes as long as evaluating a chunk. Incomplete chunks are therefore filled with announced rows
    (:meth:`expect`). ``limit``: bytes to hold, :data:`ROW_OVERHEAD` for each row included; the oldest rows
    are dropped first.
    """

    def __init__(self, evaluate: Callable[[Images], Sequence[NDArray[np.floating]]], limit: int) -> None:
        self._evaluate, self._limit = evaluate, limit
        self._cached: dict[bytes, Outputs] = {}
        self._bytes = 0
        self._announced: list[tuple[Images, Iterator[int]]] = []

    def expect(self, x: Images) -> None:
        """Announce that rows of ``x`` (n, …) will be queried; nothing is evaluated before the next call."""
        self._announced.append((x, iter(range(len(x)))))

    def remember(self, x: Images, outputs: Outputs) -> None:
        """Keep outputs that are known of inputs (n, …), n rows each."""
        rows = np.ascontiguousarray(x, dtype=np.float32)
        self._store(dict(zip(map(_key, rows), zip(*outputs, strict=True), strict=True)))

    def __call__(self, x: Images) -> Outputs:
        """Return the outputs for ``x`` (n, …), with n at least 1."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        keys = [_key(row) for row in x]
        if len(keys) == 1 and keys[0] in self._cached:
            return tuple(column[None].copy() for column in self._cached[keys[0]])
        outputs_of = {key: self._cached[key] for key in keys if key in self._cached}
        missing = {key: row for key, row in zip(keys, x, strict=True) if key not in outputs_of}
        if missing:
            batch = missing | self._announced_rows(-len(missing) % CHUNK, missing)
            outputs = self._evaluate(np.stack(list(batch.values())))
            computed = dict(zip(batch, zip(*outputs, strict=True), strict=True))
            self._store(computed)
            outputs_of |= computed
        return tuple(np.stack(column) for column in zip(*(outputs_of[key] for key in keys), strict=True))

    def _announced_rows(self, room: int, batch: dict[bytes, Images]) -> dict[bytes, Images]:
        """Return up to ``room`` announced rows by key that are neither cached nor in ``batch``."""
        chosen: dict[bytes, Images] = {}
        while self._announced and len(chosen) < room:
            x, left = self._announced[-1]
            number = next(left, None)
            if number is None:
                self._announced.pop()
                continue
            key = _key(x[number])
            if key not in self._cached and key not in batch:
                chosen[key] = x[number]
        return chosen

    def _store(self, computed: dict[bytes, Outputs]) -> None:
        self._cached |= computed
        self._bytes += sum(map(_size, computed.values()))
        while self._bytes > self._limit:
            oldest = next(iter(self._cached))
            self._bytes -= _size(self._cached.pop(oldest))


def _key(row: Images) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _size(outputs: Outputs) -> int:
    return ROW_OVERHEAD + sum(each.nbytes for each in outputs)
