"""Requests as they are written, byte by byte: what a well-behaved client cannot send, a probe has to.

Connections go to the checked addresses and to no other.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

LARGEST = 16_000_000
"""Most bytes of an answer."""
ENOUGH = 4_096
"""Bytes of a neighbouring port's answer that tell what it is."""
CONNECT = 5.0
"""Seconds for a connection."""


@dataclass(frozen=True)
class Request:
    """``path`` is sent as it is; ``headers`` may hold a key, and are never shown."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Reply:
    """What came back. ``status`` 0: nothing did; ``connected``: whether a connection was made.

    ``headers``: names in lower case. ``seconds``: from the connection to the last byte.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    seconds: float = 0.0
    connected: bool = True


class Line(Protocol):
    """Sends requests over a connection of their own; safe to use from several threads."""

    def send(self, requests: Sequence[Request], *, seconds: float, reset: bool = False) -> list[Reply]:
        """Return the answers to ``requests``, which are written at once over one connection.

        ``seconds``: for all of it. ``reset``: reset the connection as soon as the answers are there, rather
        than close it.
        """

    def to(self, port: int, *, tls: bool) -> Line:
        """Return the line to another port of the same host."""

    def other_port(self, offset: int, sent: bytes, *, seconds: float, tls: str = "") -> bytes:
        """Return the first bytes that the port ``offset`` above the target's answers to ``sent``.

        ``tls``: the protocol that is agreed on inside TLS, "" for none of it; any certificate is accepted, so
        ``sent`` may hold nothing secret. b"" for a port that is closed or silent.
        """


class SocketLine:
    """The line to a host over sockets.

    ``host``: as in the URL. ``context``: of TLS, None where nothing uses it; ``tls``: whether this line does.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        host: str,
        port: int,
        context: ssl.SSLContext | None = None,
        *,
        tls: bool = False,
    ) -> None:
        self._addresses, self._host, self._port = addresses, host, port
        self._with, self._context = context, context if tls else None

    def to(self, port: int, *, tls: bool) -> SocketLine:
        """Return the line to another port, see :class:`Line`."""
        return SocketLine(self._addresses, self._host, port, self._with, tls=tls)

    def send(self, requests: Sequence[Request], *, seconds: float, reset: bool = False) -> list[Reply]:
        """Return the answers, see :class:`Line`."""
        start = time.monotonic()
        until = start + seconds
        try:
            connection = self._connected(self._port, until, self._context)
        except OSError:
            return [Reply(0, connected=False) for _ in requests]
        replies: list[Reply] = []
        with connection:
            content = b"".join(
                self._written(request, last=not reset and place == len(requests) - 1)
                for place, request in enumerate(requests)
            )
            reader = io.BufferedReader(_Reading(connection, until))
            with suppress(OSError):  # a server may answer and close before it has read everything
                connection.sendall(content)
            for request in requests:
                reply = _read(reader, request.method, start, early=reset)
                if reply is None:
                    break
                replies.append(reply)
            if reset:  # what waits to be sent is dropped, and a reset is sent at once
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        missing = Reply(0, seconds=time.monotonic() - start)
        return [*replies, *[missing] * (len(requests) - len(replies))]

    def other_port(self, offset: int, sent: bytes, *, seconds: float, tls: str = "") -> bytes:
        """Return what a neighbouring port answers, see :class:`Line`."""
        port = self._port + offset
        if not 0 < port < 65_536:
            return b""
        until = time.monotonic() + seconds
        try:
            with self._connected(port, until, _any_certificate(tls) if tls else None) as connection:
                connection.sendall(sent)
                return _first_bytes(connection, until)
        except OSError:
            return b""

    def _connected(self, port: int, until: float, context: ssl.SSLContext | None) -> socket.socket:
        last = OSError("there is no address")
        for address in self._addresses:
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                connection = socket.create_connection((address, port), timeout=min(CONNECT, left))
            except OSError as error:
                last = error
                continue
            connection.settimeout(left)
            if context is None:
                return connection
            try:
                return context.wrap_socket(connection, server_hostname=self._host)
            except OSError:
                connection.close()
                raise
        raise last

    def _written(self, request: Request, *, last: bool) -> bytes:
        default = 80 if self._context is None else 443
        name = f"[{self._host}]" if ":" in self._host else self._host
        host = name if self._port == default else f"{name}:{self._port}"
        lines = [f"{request.method} {request.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in request.headers]
        lines += [f"Content-Length: {len(request.body)}"] if request.body or request.method != "GET" else []
        lines += ["Connection: close"] if last else []
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


def _any_certificate(protocol: str) -> ssl.SSLContext:
    """Return TLS that asks for ``protocol`` and accepts every certificate: nothing secret goes through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def _first_bytes(connection: socket.socket, until: float) -> bytes:
    """Return what comes until the end, the time or enough of it: a head may come before its body."""
    found = b""
    with suppress(OSError):
        while len(found) < ENOUGH and (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            more = connection.recv(ENOUGH)
            if not more:
                break
            found += more
    return found


class _Reading(io.RawIOBase):
    """Reads a connection until a point in time."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer, by typeshed
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Kept:
    """Lets http.client read one answer of several: it closes its file after each."""

    def __init__(self, reader: io.BufferedReader[Any]) -> None:
        self._reader = reader

    def makefile(self, _: str) -> io.BufferedReader[Any]:
        return _Open(self._reader)  # type: ignore[return-value]  # all that is read of it


class _Open:
    def __init__(self, reader: io.BufferedReader[Any]) -> None:
        self.read, self.readline, self.read1 = reader.read, reader.readline, reader.read1
        self.readinto, self.peek = reader.readinto, reader.peek

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _read(reader: io.BufferedReader[Any], method: str, start: float, *, early: bool) -> Reply | None:
    """Return the next answer; None where none comes whole. ``early``: only to the end of its document."""
    answer = http.client.HTTPResponse(_Kept(reader), method=method)  # type: ignore[arg-type]  # for a socket
    try:
        answer.begin()
        body = _document(answer) if early else answer.read(LARGEST)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, headers, body, time.monotonic() - start)


def _document(answer: http.client.HTTPResponse) -> bytes:
    """Return the body to the end of its JSON document; the end of a body in chunks may come later."""
    found = b""
    while len(found) < LARGEST and (more := answer.read1(LARGEST - len(found))):
        found += more
        try:
            json.loads(found)
        except (ValueError, RecursionError):
            continue
        break
    return found
