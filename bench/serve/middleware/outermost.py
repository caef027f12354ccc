"""The outermost middleware: makes the call, and turns whatever went wrong into one JSON answer."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import sqlite3
from collections.abc import Callable

from bench.serve.asgi import App, Message, Receive, Scope, Send, send_json, times
from bench.serve.call import KEY, Call, Refused
from bench.serve.state import StateError

log = logging.getLogger(__name__)

_LOST = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT}
)
_SOON = (("retry-after", "1"),)
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


class Outermost:
    """Gives each request its :class:`bench.serve.call.Call`, and answers what inner middlewares raise.

    ``clock``: seconds since 1970. ``lost``: called with a sentence once the state file can no longer be
    written: without it no answer may be given, so the server has to end.
    """

    def __init__(self, app: App, *, clock: Callable[[], float], lost: Callable[[str], None]) -> None:
        self._app, self._clock, self._lost = app, clock, lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"this server speaks HTTP alone, not {scope['type']}")
        client = scope.get("client")
        call = Call(id=secrets.token_hex(16), address=client[0] if client else "", time=self._clock())
        scope[KEY] = call
        exchange = _Exchange(scope, call, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            found = refused
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # nothing of it may reach a client
            found = self._failed(error)
        else:
            return
        if exchange.started:
            raise ConnectionAbortedError("the answer had begun")
        await exchange.refuse(found)

    def _failed(self, error: Exception) -> Refused:
        """Return the answer to a failure, which is logged by its type alone: a message may hold inputs."""
        if isinstance(error, StateError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if _is_lost(error):
            self._lost("the state file cannot be written, and nothing may be answered that is not counted")
            return Refused(503, "the server cannot answer now", control="state")
        if isinstance(error, sqlite3.OperationalError):
            log.warning("a request was refused: the state file is busy")
            return Refused(503, "the server cannot answer now", control="state", headers=_SOON)
        log.error("a request failed: %s", type(error).__name__)
        return Refused(500, "the server failed", control="server")


def _is_lost(error: Exception) -> bool:
    """Return whether an error says that the state file can no longer be written."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _LOST
    return isinstance(error, OSError) and error.errno in _DISK


class _Exchange:
    """One request and its answer: what was received whole, and whether the answer has begun."""

    def __init__(self, scope: Scope, call: Call, receive: Receive, send: Send) -> None:
        self._call, self._receive, self._send = call, receive, send
        self.started = False
        length = [value for name, value in scope["headers"] if name == b"content-length"]
        self._whole = not times(scope, "transfer-encoding") and length in ([], [b"0"])

    async def receive(self) -> Message:
        message = await self._receive()
        self._whole = message["type"] == "http.request" and not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._call.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self._call.id.encode())]
            if not self._whole:
                # Else the server would go on to read what the client sends, for as long as it likes.
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        self._call.notes.setdefault("control", refused.control)
        await send_json(self.send, refused.status, {"error": refused.text}, refused.headers)
