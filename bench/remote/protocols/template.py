"""Any JSON: a template of the request, and a JMESPath to the answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import jmespath

from bench.errors import UsageError, one_line
from bench.remote.exchange import Inputs
from bench.remote.protocols.base import Rows, encoded, json_rows, listed, names, text, unreadable
from bench.remote.target import Target

INPUTS, INPUT, COLUMNS = "$inputs", "$input", "$columns"


class Template:
    """Rows stand where ``request`` says ``"$inputs"``, names of columns where it says ``"$columns"``.

    ``"$input"`` is the one row of a service that takes one input a request.
    """

    metadata: Mapping[str, str] = {}

    def __init__(self, target: Target) -> None:
        """Read both once; raises UsageError where either is broken."""
        self.address = target.url
        try:
            self._request = json.loads(target.request or "")
        except (ValueError, RecursionError) as error:
            raise UsageError(f"request is no JSON: {one_line(error)}") from None
        if not _holds(self._request, INPUTS) and not _holds(self._request, INPUT):
            raise UsageError(f'request has to hold the text "{INPUTS}", where the rows go')
        if _holds(self._request, INPUT) and target.batch != 1:
            raise UsageError(f'"{INPUT}" in request is the row of a single input, so batch has to be 1')
        self._output = _compiled("output", target.output or "")
        self._identity = _compiled("identity", target.identity) if target.identity else None

    def body(self, inputs: Inputs, request_id: str) -> bytes:
        """Return the template with the rows in it."""
        rows = json_rows(inputs)
        return encoded(_filled(self._request, {INPUTS: rows, INPUT: rows[0], COLUMNS: list(inputs.columns)}))

    def rows(self, document: Any, n: int, request_id: str) -> tuple[Rows, str]:
        """Return what the JMESPath finds; an expression with [*] drops rows that lack a field."""
        rows = _found(self._output, document)
        if rows is None:
            has = f"{names(document)}" if isinstance(document, dict) else "no object"
            raise unreadable(f"output finds nothing in the answer, which has {has}; check output")
        found = _found(self._identity, document) if self._identity is not None else None
        return listed(rows), text(found)


def _compiled(field: str, expression: str) -> Any:
    try:
        compiled = jmespath.compile(expression)
        with contextlib.suppress(jmespath.exceptions.JMESPathTypeError):
            compiled.search({})  # which finds a function that does not exist
    except jmespath.exceptions.JMESPathError as error:
        raise UsageError(f"{field} is no JMESPath: {one_line(error)}") from None
    return compiled


def _found(expression: Any, document: Any) -> Any:
    try:
        return expression.search(document)
    except (jmespath.exceptions.JMESPathError, TypeError, ValueError, RecursionError) as error:
        fault = type(error).__name__
    raise unreadable(f"output cannot be applied to the answer ({fault}); check output")


def _holds(value: Any, mark: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(each, mark) for each in value.values())
    return any(_holds(each, mark) for each in value) if isinstance(value, list) else value == mark


def _filled(value: Any, by: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, by) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, by) for each in value]
    return by.get(value, value) if isinstance(value, str) else value
