"""uvicorn, with the settings that a server before an attacker needs, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import uvicorn

from bench.errors import StoppedError, UsageError, one_line
from bench.serve.asgi import App
from bench.serve.connections import connection_class
from bench.serve.controls import Size

GRACE = 10
"""Seconds that requests have to end once the server stops."""
BACKLOG = 2048


def bound(host: str, port: int, *, option: str = "--port") -> socket.socket:
    """Return a socket that is bound; raises UsageError where the address is not there or in use.

    ``option``: names the port, in an error.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, as asyncio sends answers at once (TCP_NODELAY) only where the socket says that it is of TCP.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UsageError(
            f"{host} port {port} cannot be used: {one_line(error)}; choose another {option}"
        ) from error
    found.set_inheritable(True)
    return found


class _Server(uvicorn.Server):
    """A server whose signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose TLS handshakes end in time: asyncio gives each a minute, and counts none as a connection.

    ``seconds``: for a handshake.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """Return a server, as asyncio does."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", self._seconds)
        return await super().create_server(*args, **options)


class Servers:
    """Applications on sockets, served by one process until :meth:`stop`, a signal, or a lost state file."""

    def __init__(self, size: Size, context: ssl.SSLContext | None = None) -> None:
        self._size, self._context = size, context
        self._servers: list[_Server] = []
        self._sockets: list[socket.socket] = []
        self._fault = ""

    def lost(self, sentence: str) -> None:
        """Stop, because the state file can no longer be written; :meth:`run` then raises StoppedError."""
        self._fault = self._fault or sentence
        self.stop()

    def stop(self) -> None:
        """Accept nothing more, and end once all requests have."""
        for server in self._servers:
            server.should_exit = True

    def add(self, app: App, sock: socket.socket, *, tls: bool = True) -> None:
        """Serve ``app`` on a socket; ``tls``: with the certificate, if there is one."""
        context = self._context if tls else None
        config = uvicorn.Config(
            app,
            http=connection_class(self._size),
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            forwarded_allow_ips="",
            server_header=False,
            workers=1,
            backlog=BACKLOG,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACE,
            h11_max_incomplete_event_size=self._size.header_bytes,
            ssl_context_factory=None if context is None else lambda _, __: context,
        )
        server = _Server(config)
        server.config.load()
        self._servers.append(server)
        self._sockets.append(sock)

    def run(self, started: Callable[[], None] = lambda: None, *, ends_with: int | None = None) -> None:
        """Serve until the end; raises StoppedError after :meth:`lost`.

        ``started``: called once everything listens. ``ends_with``: a descriptor that becomes readable when
        the process that started this one has ended.
        """
        # What goes wrong in a request is logged by the outermost middleware, without its inputs.
        logger = logging.getLogger("uvicorn")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with asyncio.Runner(loop_factory=lambda: _Loop(self._size.seconds)) as runner:
                runner.run(self._run(started, ends_with))
        finally:
            logger.setLevel(level)
        if self._fault:
            raise StoppedError(self._fault)

    async def _run(self, started: Callable[[], None], ends_with: int | None) -> None:
        loop = asyncio.get_running_loop()
        if ends_with is not None:
            loop.add_reader(ends_with, self.stop)
        tasks = [
            asyncio.create_task(server.serve(sockets=[sock]))
            for server, sock in zip(self._servers, self._sockets, strict=True)
        ]

        def starting() -> bool:
            return not all(each.started for each in self._servers) and not any(task.done() for task in tasks)

        while starting():  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        if all(server.started for server in self._servers):
            started()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        await asyncio.gather(*tasks)


@contextlib.contextmanager
def signals(actions: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call actions on signals inside the block."""

    def handler(action: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda *_: action()

    before = {number: signal.signal(number, handler(action)) for number, action in actions.items()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def listening(sockets: Sequence[socket.socket]) -> list[str]:
    """Return the addresses of sockets, as "127.0.0.1:8080"."""
    found = []
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return found
