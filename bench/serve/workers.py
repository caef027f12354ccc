"""The processes of one server: one in place, or several that share a socket and a state file."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from bench.errors import MoatbenchError, StoppedError, UsageError
from bench.exit_codes import ExitCode
from bench.serve.asgi import App
from bench.serve.controls import Size
from bench.serve.tls import checked_context
from bench.serve.uvicorn_server import Servers, signals

MOST_DEATHS, PERIOD = 5, 60.0
"""A server ends when so many of its workers have died within so many seconds."""
TICK = 0.2
STARTING = 600.0
"""Seconds that a worker has to load its model."""


class Build(Protocol):
    """Makes the application in the process that serves it; can be pickled."""

    def __call__(self, lost: Callable[[str], None]) -> App:
        """Return the application; ``lost``: see :func:`bench.serve.app.build_app`. Raises MoatbenchError."""


class BuildAdmin(Protocol):
    """Makes the application of the administration's own port; can be pickled."""

    def __call__(self) -> App:
        """Return the application."""


@dataclass(frozen=True)
class Process:
    """What every process of a server is given.

    ``admin``: the administration's application and its socket, on loopback, which the first worker serves.
    """

    build: Build
    sock: socket.socket
    size: Size
    certificate: Path | None = None
    key: Path | None = None
    admin: tuple[BuildAdmin, socket.socket] | None = None

    def servers(self) -> Servers:
        """Return the servers of this process; raises MoatbenchError."""
        context = None
        if self.certificate is not None and self.key is not None:
            context = checked_context(self.certificate, self.key)
        servers = Servers(self.size, context)
        servers.add(self.build(servers.lost), self.sock)
        if self.admin is not None:
            make, sock = self.admin
            servers.add(make(), sock, tls=False)
        return servers


@contextlib.contextmanager
def sole_server(state: Path) -> Iterator[None]:
    """Hold the folder of a state; raises UsageError where another server holds it."""
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state / "server.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"another server uses the state in {state}; stop it, or give this one another folder by --state"
        ) from None
    try:
        yield
    finally:
        lock.release()


def run(process: Process, workers: int, started: Callable[[], None]) -> ExitCode:
    """Serve until a signal; return FINE after SIGTERM, INTERRUPTED after Ctrl-C.

    ``started``: called once everything listens. Raises MoatbenchError where a worker cannot start, and
    StoppedError where the state file cannot be written any more, or workers die again and again.
    """
    return _alone(process, started) if workers == 1 else _Pool(process, workers, started).run()


def _alone(process: Process, started: Callable[[], None]) -> ExitCode:
    servers = process.servers()
    codes: list[ExitCode] = []

    def ends(code: ExitCode) -> Callable[[], None]:
        def end() -> None:
            codes.append(code)
            servers.stop()

        return end

    with signals({signal.SIGINT: ends(ExitCode.INTERRUPTED), signal.SIGTERM: ends(ExitCode.FINE)}):
        servers.run(started)
    return codes[0] if codes else ExitCode.FINE


@dataclass
class _Worker:
    """A process and what it says: "ready" once it listens, or an error in one sentence."""

    process: BaseProcess
    says: Connection
    first: bool
    ready: bool = False


@dataclass
class _Pool:
    """Workers that are started again when they die."""

    settings: Process
    number: int
    started: Callable[[], None]
    workers: list[_Worker] = field(default_factory=list)
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_DEATHS))
    code: ExitCode | None = None

    def run(self) -> ExitCode:
        def ends(code: ExitCode) -> Callable[[], None]:
            def end() -> None:
                self.code = code if self.code is None else self.code

            return end

        with signals({signal.SIGINT: ends(ExitCode.INTERRUPTED), signal.SIGTERM: ends(ExitCode.FINE)}):
            try:
                self._start(first=True)
                self._until_ready()  # so that a model is made, or an error said, once
                for _ in range(self.number - 1):
                    self._start(first=False)
                self._until_ready()
                if self.code is None:
                    self.started()
                while self.code is None:
                    self._look()
            finally:
                self._end()
        return self.code or ExitCode.FINE

    def _start(self, *, first: bool) -> None:
        context = multiprocessing.get_context("spawn")
        receives, sends = context.Pipe(duplex=False)
        settings = self.settings if first else _without_admin(self.settings)
        process = context.Process(target=_work, args=(settings, sends), daemon=True)
        process.start()
        sends.close()
        self.workers.append(_Worker(process, receives, first))

    def _until_ready(self) -> None:
        until = time.monotonic() + STARTING
        while self.code is None and not all(worker.ready for worker in self.workers):
            self._look(starting=True)
            if time.monotonic() > until:
                raise StoppedError(f"a worker has not started after {STARTING:g} seconds")

    def _look(self, *, starting: bool = False) -> None:
        """Wait a little for what workers say, and for their deaths."""
        sources: list[Any] = [worker.process.sentinel for worker in self.workers]
        sources += [worker.says for worker in self.workers if not worker.ready]
        wait(sources, timeout=TICK)
        for worker in list(self.workers):
            self._heard(worker)
            if worker.process.exitcode is not None and self.code is None:
                self._died(worker, starting=starting)

    def _heard(self, worker: _Worker) -> None:
        with contextlib.suppress(EOFError, OSError):
            while worker.says.poll():
                kind, text = worker.says.recv()
                if kind == "ready":
                    worker.ready = True
                elif kind == "usage":
                    raise UsageError(text)
                else:
                    raise StoppedError(text)

    def _died(self, worker: _Worker, *, starting: bool) -> None:
        code = worker.process.exitcode
        self.workers.remove(worker)
        worker.says.close()
        now = time.monotonic()
        self.deaths.append(now)
        if starting or (len(self.deaths) == MOST_DEATHS and now - self.deaths[0] < PERIOD):
            raise StoppedError(f"a worker ended with exit code {code}; start the server again")
        print(f"moatbench: a worker ended with exit code {code}; another one starts", file=sys.stderr)
        self._start(first=worker.first)

    def _end(self) -> None:
        for worker in self.workers:
            if worker.process.pid is not None and worker.process.exitcode is None:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(timeout=30)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()


def _without_admin(process: Process) -> Process:
    return Process(process.build, process.sock, process.size, process.certificate, process.key)


def _work(process: Process, says: Connection) -> None:
    """Serve in a process of its own until SIGTERM, or until the process that started it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    try:
        servers = process.servers()
    except MoatbenchError as error:
        says.send(("usage", str(error)))
        return
    parent = multiprocessing.parent_process()
    with signals({signal.SIGTERM: servers.stop}):
        try:
            servers.run(
                lambda: says.send(("ready", "")), ends_with=None if parent is None else parent.sentinel
            )
        except StoppedError as error:
            says.send(("stopped", str(error)))
