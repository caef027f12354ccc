"""Plugins as text: reads and writes ``name(key=value, …)``."""

from __future__ import annotations

import ast
import copy
import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bench.errors import UsageError, shown

LONGEST = 2_000
"""Largest number of characters of a call."""
INTEGERS = range(-(2**63), 2**63)
"""The integers that TOML, SQLite and NumPy can all hold."""
_UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
"""What Python's parser and ``ast.literal_eval`` raise for texts that are no call."""


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the values of ``name(key=value, …)``.

    Values are Python or TOML literals: ``true`` and ``false`` are booleans, a bare word is a string and may
    contain hyphens. Numbers are finite, integers have at most 64 bits. Raises UsageError for anything else.
    """
    if len(text) > LONGEST:
        raise UsageError(f"{shown(text)} has {len(text):,} characters; at most {LONGEST:,} are allowed")
    try:
        name, values = _read(text)
    except _UNREADABLE as error:
        raise UsageError(f"cannot read {shown(text)}: write name or name(key=value, …)") from error
    return name, {
        key: copy.deepcopy(value) if isinstance(value, list | tuple | dict) else value
        for key, value in values.items()
    }


@lru_cache(maxsize=4_000)  # plans and reports read the same texts over and over
def _read(text: str) -> tuple[str, dict[str, Any]]:
    with warnings.catch_warnings(action="ignore"):  # Python's remarks on odd spellings
        node = ast.parse(text.strip(), mode="eval").body
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("no call by name")
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in values:
            raise ValueError("a value without a name of its own")
        value = values[keyword.arg] = _literal(keyword.value)
        if not _is_plain(value):
            raise UsageError(
                f"{shown(text)}: {keyword.arg}={shown(value)} cannot be a value; finite numbers, integers of "
                "64 bits, texts, true, false, None, lists and dicts of these are allowed"
            )
    return node.func.id, values


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.BinOp):
        word = ast.unparse(node).replace(" - ", "-")
        if word.replace("-", "_").isidentifier():
            return word
    return ast.literal_eval(node)


def _is_plain(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return value in INTEGERS
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, dict) and all(_is_plain(part) for pair in value.items() for part in pair)


def format_call(name: str, values: Mapping[str, Any]) -> str:
    """Return ``name(key=value, …)``, or ``name`` without values, as :func:`parse_call` reads it."""
    if not values:
        return name
    return f"{name}({', '.join(f'{key}={_written(value)}' for key, value in values.items())})"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) and _is_word(value) else repr(value)


@lru_cache(maxsize=1_000)
def _is_word(value: str) -> bool:
    """Return whether a text can stand without quotes: whether it is read back as itself."""
    try:
        return parse_call(f"name(key={value})") == ("name", {"key": value})
    except UsageError:
        return False
