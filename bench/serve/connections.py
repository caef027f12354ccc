"""HTTP/1.1 connections, limited in number, by address, and in the time until headers are whole."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bench.serve.addresses import network
from bench.serve.controls import Size


class _Parser(h11.Connection):
    """Keeps a "?" with nothing behind it, which uvicorn forgets: it is another spelling of a path."""

    def next_event(self) -> Any:
        """Return the next event of the connection."""
        event = super().next_event()
        if isinstance(event, h11.Request) and event.target.endswith(b"?"):
            return h11.Request(
                method=event.method,
                target=event.target[:-1] + b"%3F",
                headers=event.headers,
                http_version=event.http_version,
            )
        return event


class Connection(H11Protocol):
    """A connection that ends where its client takes too long.

    uvicorn waits for ever for the first request, for the rest of its headers, and for a client that does not
    read its answer.
    """

    size = Size()
    by_address: ClassVar[Counter[str]] = Counter()
    _address = ""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or end it where there are too many, in all or from its address."""
        super().connection_made(transport)
        self.conn = _Parser(h11.SERVER, self.size.header_bytes)
        self._address = network(self.client[0] if self.client else "")
        self.by_address[self._address] += 1
        if (
            len(self.connections) > self.size.connections
            or self.by_address[self._address] > self.size.address_connections
        ):
            transport.abort()
            return
        self._allow(self.size.seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop()
        self.by_address[self._address] -= 1
        if self.by_address[self._address] <= 0:
            del self.by_address[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._in_request()

    def on_response_complete(self) -> None:
        """Wait for the next request, for a while."""
        before = self.cycle
        self._allow(self.size.seconds)
        super().on_response_complete()
        if self.cycle is not before:  # the next request was here already
            self._in_request()

    def _in_request(self) -> None:
        # The deadlines of the request come first; this one is for answers that are not read.
        self._allow(2 * self.size.seconds + self.size.answer_seconds)

    def _allow(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self.transport.abort()


def connection_class(size: Size) -> type[Connection]:
    """Return the class of connections with these limits."""
    return type("Connection", (Connection,), {"size": size, "by_address": Counter()})
