"""Plugins as text: reads and writes ``name(key=value, …)``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from bench.errors import UsageError


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the values of ``name(key=value, …)``.

    Values are Python or TOML literals: ``true`` and ``false`` are booleans, a bare word is a string and may
    contain hyphens. Raises UsageError for anything else.
    """
    usage = f"cannot read {text!r}: write name or name(key=value, …)"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(usage) from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise UsageError(usage)
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in values:
            raise UsageError(usage)
        values[keyword.arg] = _literal(keyword.value, usage)
    return node.func.id, values


def _literal(node: ast.expr, usage: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.BinOp):
        word = ast.unparse(node).replace(" - ", "-")
        if word.replace("-", "_").isidentifier():
            return word
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UsageError(usage) from error


def format_call(name: str, values: Mapping[str, Any]) -> str:
    """Return ``name(key=value, …)``, or ``name`` without values, as :func:`parse_call` reads it."""
    if not values:
        return name
    return f"{name}({', '.join(f'{key}={_written(value)}' for key, value in values.items())})"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
