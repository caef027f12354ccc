"""What every protocol offers, and what they share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import orjson

from bench.errors import shown
from bench.remote.exchange import AttemptError, Inputs
from bench.remote.target import Target

Rows: TypeAlias = Sequence[Any]
"""Answers as they came, one an input."""


class Wire(Protocol):
    """How requests of one target are written and its answers are found.

    ``address``: where they are posted. ``metadata``: what may be asked for free, by name: "ready" (its status
    says it), "server" and "model" (JSON).
    """

    address: str
    metadata: Mapping[str, str]

    def body(self, inputs: Inputs, request_id: str) -> bytes:
        """Return the JSON of a request; raises AttemptError where the inputs cannot be written so."""

    def rows(self, document: Any, n: int, request_id: str) -> tuple[Rows, str]:
        """Return the answers in the JSON that came, and what the target says of its model.

        Raises AttemptError, billed, where they are not found. Their number is checked by the caller.
        """


def unreadable(message: str) -> AttemptError:
    """Return that an answer came, and was billed, but cannot be used."""
    return AttemptError(message, billed="yes", action="stop")


NO_FORM = "the inputs hold infinity, or something that JSON has no form for"


def unsendable(message: str) -> AttemptError:
    """Return that inputs cannot be written as the target file says; nothing was sent."""
    return AttemptError(message, billed="no", action="stop")


def shaped(inputs: Inputs, target: Target) -> Inputs:
    """Return inputs with the axes that the target file says; raises AttemptError where that cannot be."""
    if target.shape is None:
        return inputs
    rows = inputs.rows
    if not isinstance(rows, np.ndarray) or rows[0].size != math.prod(target.shape):
        came = f"{rows[0].size} numbers each" if isinstance(rows, np.ndarray) else "texts or gaps"
        raise unsendable(f"the inputs have {came}, which go into no shape {list(target.shape)}; check shape")
    return Inputs(inputs.x, rows.reshape(len(rows), *target.shape), inputs.columns)


def json_rows(inputs: Inputs) -> list[Any]:
    """Return the rows as JSON has them: numbers with all their digits, null for a gap."""
    if isinstance(inputs.rows, np.ndarray):
        rows: list[Any] = inputs.rows.tolist()
        if inputs.rows.dtype.kind == "f" and not np.isfinite(inputs.rows).all():
            return [_without_gaps(row) for row in rows]
        return [_without_gaps(row) for row in rows] if inputs.rows.dtype.kind == "O" else rows
    return [[_without_gaps(value) for value in row] for row in inputs.rows]


def _without_gaps(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_gaps(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise unsendable(NO_FORM)
    return value


def encoded(document: Any) -> bytes:
    """Return a document as JSON in UTF-8; numbers that are not finite become null."""
    try:
        return orjson.dumps(document)
    except (TypeError, ValueError):
        raise unsendable(NO_FORM) from None


def decoded(content: bytes, cleaned: Callable[[Any], Any]) -> Any:
    """Return the JSON in an answer, after ``cleaned``; raises AttemptError, billed, for anything else."""
    try:
        return cleaned(json.loads(content))
    except (ValueError, RecursionError):
        pass
    start = content[:200].lstrip().lower()
    kind = "an HTML page" if start.startswith((b"<!doctype", b"<html")) else "no JSON"
    raise unreadable(f"the target answers with {kind if content else 'nothing'}; check url and protocol")


def field(document: Any, name: str) -> Any:
    """Return a field of the answer; raises AttemptError, billed, that says which there are."""
    if not isinstance(document, dict):
        raise unreadable(f"the answer has no field {name!r}: it is no JSON object; check protocol")
    if name not in document:
        raise unreadable(
            f"the answer has no field {name!r}, but {names(document)}; check protocol and output"
        )
    return document[name]


def names(document: Mapping[str, Any]) -> str:
    """Return the names of a JSON object for a message."""
    listed = ", ".join(shown(each) for each in list(document)[:8])
    return (listed or "none at all") + (" and more" if len(document) > 8 else "")


def listed(value: Any) -> Rows:
    """Return the answers if they are a list."""
    if not isinstance(value, list):
        raise unreadable(f"the answers are no list, but {shown(value)}; check output")
    return value


def selected(rows: Rows, output: str | None) -> Rows:
    """Return the field ``output`` of each answer, where answers are objects of several fields."""
    if output is None:
        return rows
    return [field(row, output) for row in rows]


def joined(target: Target, path: str) -> str:
    """Return the address of a path of the server."""
    return target.url.rstrip("/") + path


def text(value: Any) -> str:
    """Return what a target says of its model as one short line."""
    return " ".join(str(value).split())[:200] if isinstance(value, str | int) else ""
