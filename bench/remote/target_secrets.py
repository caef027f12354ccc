"""Secrets that stand in a target file, where they may not: found by the names of what holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SECRET_NAME = re.compile(
    r"key|token|passw|secret|auth(?!ors?$)|cookie|credential|signature|session|bearer", re.IGNORECASE
)
"""What names of fields, headers and variables that hold secrets have in them."""
_IN_BODY = re.compile(r"(api|access|auth)[_-]?(key|token)|passw|secret|credential|bearer", re.IGNORECASE)
_NAMES = {
    *("key_env", "token_key_env", "secret_env", "key_header", "signature", "idempotency_header"),
    *("keys", "key_file", "public_key_file", "session_seconds"),  # of a server's controls
}
"""Fields whose names look like secrets, and whose values are none."""


def literal_secret(document: Mapping[str, Any]) -> str:
    """Return what is wrong if a secret stands in the file, "" if none does."""
    for place, value in _leaves(document):
        name = place[-1]
        inside = place[0] == "headers" and len(place) > 1
        if name not in _NAMES and not inside and SECRET_NAME.search(name) and name != "ca_file":
            where = ".".join(place)
            return (
                f"{where}: a secret may not stand in the file; put it into an environment variable and name "
                'that in accounts: accounts = [{name = "me", key_env = "NAME_OF_THE_VARIABLE"}]'
            )
        if inside and SECRET_NAME.search(name):
            return (
                f"headers.{name}: a secret may not stand in the file; name a variable by key_env "
                f'of an account, and key_header = "{name}"'
            )
        if name == "url" and isinstance(value, str) and _credentials(value):
            return "url has a password or key in it; put it into an environment variable, named by key_env"
        if name == "request" and isinstance(value, str) and _secret_in_template(value):
            return (
                "request has a key in it, and a secret may not stand in the file; services that take it in "
                "their body are reached by protocol 'python'"
            )
    return ""


def _secret_in_template(request: str) -> bool:
    try:
        leaves = list(_leaves(json.loads(request)))
    except (ValueError, RecursionError):
        return False  # said where the template is read
    return any(
        isinstance(value, str) and not value.startswith("$") and _IN_BODY.search(place[-1])
        for place, value in leaves
    )


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all keys with their values, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*place, key), inner
            yield from _leaves(inner, (*place, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)


def _credentials(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(SECRET_NAME.search(name) for name in names)
