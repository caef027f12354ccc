"""What the middlewares share: types of ASGI, and one way to send an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import orjson

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


async def send_json(
    send: Send, status: int, document: Any, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    """Send an answer with a JSON body; ``headers``: further ones."""
    body = orjson.dumps(document)
    fixed = (
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    )
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (*fixed, *headers)]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def header(scope: Scope, name: str) -> str | None:
    """Return the value of a request's header, None if it is not there or there twice."""
    wanted = name.encode("latin-1")
    values = [value for key, value in scope["headers"] if key == wanted]
    return values[0].decode("latin-1") if len(values) == 1 else None


def times(scope: Scope, name: str) -> int:
    """Return how often a request has a header."""
    wanted = name.encode("latin-1")
    return sum(key == wanted for key, _ in scope["headers"])
