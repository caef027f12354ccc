"""What a model says of rows, remembered: attacks ask one by one, and models answer by the chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.models.determinism import CHUNK

Images = NDArray[np.float32]
Outputs = tuple[NDArray[np.floating], ...]
ROW = 320
"""Bytes that a row takes beside its outputs, about: its key, and the heads of what holds them."""


class Lookup:
    """A model whose outputs for a row are computed once while there is room to remember them.

    ``evaluate``: from inputs (n, …) to arrays of n rows each, a function of each row alone, evaluated in
    chunks of a fixed size (:data:`bench.models.determinism.CHUNK`). A question about one row would
    therefore cost as much as one about a whole chunk: what a chunk has room for is filled with rows that
    are likely to be asked next (:meth:`expect`).
    ``limit``: bytes to hold, :data:`ROW` a row included; the oldest go first.
    """

    def __init__(self, evaluate: Callable[[Images], Sequence[NDArray[np.floating]]], limit: int) -> None:
        self._evaluate, self._limit = evaluate, limit
        self._known: dict[bytes, Outputs] = {}
        self._held = 0
        self._likely: list[tuple[Images, Iterator[int]]] = []

    def expect(self, x: Images) -> None:
        """Say that rows of ``x`` (n, …) will be asked about; nothing is evaluated before one is."""
        self._likely.append((x, iter(range(len(x)))))

    def __call__(self, x: Images) -> Outputs:
        """Return the outputs for ``x`` (n, …), n at least 1."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        keys = [_key(row) for row in x]
        if len(keys) == 1 and keys[0] in self._known:
            return tuple(column[None].copy() for column in self._known[keys[0]])
        found = {key: self._known[key] for key in keys if key in self._known}
        missing = {key: row for key, row in zip(keys, x, strict=True) if key not in found}
        if missing:
            asked = missing | self._next(-len(missing) % CHUNK, missing)
            outputs = self._evaluate(np.stack(list(asked.values())))
            fresh = dict(zip(asked, zip(*outputs, strict=True), strict=True))
            self._remember(fresh)
            found |= fresh
        return tuple(np.stack(column) for column in zip(*(found[key] for key in keys), strict=True))

    def _next(self, room: int, asked: dict[bytes, Images]) -> dict[bytes, Images]:
        """Return rows to fill a chunk with, which then are likely no longer."""
        chosen: dict[bytes, Images] = {}
        while self._likely and len(chosen) < room:
            x, left = self._likely[-1]
            place = next(left, None)
            if place is None:
                self._likely.pop()
                continue
            key = _key(x[place])
            if key not in self._known and key not in asked:
                chosen[key] = x[place]
        return chosen

    def _remember(self, fresh: dict[bytes, Outputs]) -> None:
        self._known |= fresh
        self._held += sum(map(_size, fresh.values()))
        while self._held > self._limit:
            oldest = next(iter(self._known))
            self._held -= _size(self._known.pop(oldest))


def _key(row: Images) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _size(outputs: Outputs) -> int:
    return ROW + sum(each.nbytes for each in outputs)
