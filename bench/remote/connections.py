"""Connections go to the addresses that were checked, and end when an answer takes too long as a whole."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from bench.errors import UsageError, one_line
from bench.files import user_file

CONNECT, WRITE, POOL = 5.0, 10.0, 60.0
"""Seconds for a connection, for a part of a request, and until a connection is free."""
IDLE = 2.0
"""Seconds that an idle connection is kept: less than servers do (uvicorn: 5), so that few break in use."""


class Deadline:
    """Until when the request of the present thread has to be answered whole.

    Time limits of a client count from byte to byte: a server that sends one byte a minute keeps to them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._own = threading.local()

    def start(self, seconds: float) -> None:
        """Begin a request that may take ``seconds``."""
        self._own.until = self._clock() + seconds

    def left(
        self, timeout: float | None, late: type[httpcore2.TimeoutException] = httpcore2.ReadTimeout
    ) -> float:
        """Return how many seconds a step may take, ``timeout`` at most; raises ``late`` if none are left."""
        left: float = getattr(self._own, "until", float("inf")) - self._clock()
        if left <= 0:
            raise late("the answer takes too long")
        return left if timeout is None else min(left, timeout)


class _Stream(httpcore2.NetworkStream):
    """A stream whose steps end at the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = self._deadline.left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Checked(httpcore2.SyncBackend):
    """Connects to the checked addresses, in turn, whatever the host is; names are not resolved again."""

    def __init__(self, addresses: tuple[str, ...], deadline: Deadline) -> None:
        self._addresses, self._deadline = addresses, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        last: Exception = httpcore2.ConnectError("there is no address")
        for address in self._addresses:
            left = self._deadline.left(timeout, httpcore2.ConnectTimeout)
            try:
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
            else:
                return _Stream(stream, self._deadline)
        raise last


class CheckedTransport(httpx2.HTTPTransport):
    """HTTP/1.1 to the checked addresses; Host and the TLS name stay those of the URL."""

    def __init__(
        self, addresses: tuple[str, ...], deadline: Deadline, context: ssl.SSLContext, limits: httpx2.Limits
    ) -> None:
        super().__init__(verify=context, trust_env=False, limits=limits)
        # The pool that httpx2 made opened no connection. It offers no way to pass another backend.
        self._pool.close()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Checked(addresses, deadline),
        )


def open_client(
    addresses: tuple[str, ...],
    deadline: Deadline,
    *,
    timeout: float,
    connections: int,
    tls: bool = True,
    ca_file: Path | None = None,
    transport: httpx2.BaseTransport | None = None,
) -> httpx2.Client:
    """Return the one client of a run, for several threads.

    ``tls``: whether certificates are needed; loading them takes .1 seconds. ``transport``: instead of
    a network, for tests. Raises UsageError for a ``ca_file`` that holds none.
    """
    if transport is None:
        limits = httpx2.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE
        )
        transport = CheckedTransport(addresses, deadline, tls_context(ca_file, tls=tls), limits)
    return httpx2.Client(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        # No cookie is kept: what the target sets for one account would be sent by the next.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx2.Timeout(connect=CONNECT, read=timeout, write=WRITE, pool=POOL),
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "moatbench"},
    )


def tls_context(ca_file: Path | None, *, tls: bool) -> ssl.SSLContext:
    """Return what certificates are checked with; raises UsageError for a ``ca_file`` that holds none."""
    if not tls:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        return httpx2.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(user_file(ca_file, "ca_file")))
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"ca_file {ca_file} holds no certificates (PEM): {one_line(error)}") from error
