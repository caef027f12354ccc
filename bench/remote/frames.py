"""Messages between the process that attacks and the one that buys: a JSON object and arrays, never a pickle.

A frame is the length of the JSON text and the number of arrays (8 and 4 bytes, big-endian), the text, and for
each array its length (8 bytes) and its content as an npy file.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.remote.exchange import Inputs

HEAD = struct.Struct(">QI")
SIZE = struct.Struct(">Q")
LARGEST = 1 << 36
"""Bytes of a part of a frame; more is a fault of the other side."""


class BrokenFrameError(Exception):
    """The other side ended in the middle of a frame, or it is none."""


def write_frame(stream: IO[bytes], header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
    """Write a frame; raises OSError where nobody reads it."""
    text = json.dumps(header, default=_plain).encode()
    parts = [HEAD.pack(len(text), len(arrays)), text]
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        parts += [SIZE.pack(file.tell()), file.getvalue()]
    stream.write(b"".join(parts))
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[NDArray[Any]]] | None:
    """Return the next frame, None at the end of the stream; raises BrokenFrameError."""
    head = stream.read(HEAD.size)
    if not head:
        return None
    try:
        length, number = HEAD.unpack(head)
        header = json.loads(_exactly(stream, length))
        arrays = []
        for _ in range(number):
            (size,) = SIZE.unpack(_exactly(stream, SIZE.size))
            arrays.append(np.load(io.BytesIO(_exactly(stream, size)), allow_pickle=False))
    except (struct.error, ValueError, EOFError) as error:
        raise BrokenFrameError("a message is broken") from error
    return header, arrays


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size) if size <= LARGEST else b""
    if len(content) != size:
        raise BrokenFrameError("a message ends too early")
    return content


def packed(inputs: Inputs) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return inputs as a header and arrays; rows that equal ``x`` are left out."""
    x, rows = inputs.x, inputs.rows
    header: dict[str, Any] = {"columns": list(inputs.columns)}
    if not isinstance(rows, np.ndarray) or rows.dtype.hasobject:
        return {**header, "rows": [list(row) for row in rows]}, [x]
    same = rows.dtype == x.dtype and rows.shape == x.shape and rows.tobytes() == x.tobytes()
    return header, [x] if same else [x, rows]


def unpacked(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> Inputs:
    """Return the inputs that :func:`packed` wrote."""
    rows = header["rows"] if "rows" in header else arrays[-1]
    return Inputs(arrays[0], rows, tuple(header["columns"]))


def _plain(value: Any) -> Any:
    """Return a number or a date of NumPy or pandas as JSON has it."""
    return value.item() if isinstance(value, np.generic) else str(value)
