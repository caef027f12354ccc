"""A real server of a model that answers at once, and clients that ask it over sockets, for tests of load."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.serve import uvicorn_server, workers
from bench.serve.admin.app import AdminApp
from bench.serve.app import build_app
from bench.serve.asgi import send_json
from bench.serve.checkpoint_process import checkpoints
from bench.serve.controls import Controls, load_controls
from bench.serve.keys import add
from bench.serve.secret_values import Secret
from bench.serve.state import State, state_file
from tests.support.asgi_client import FakePredictor

ROOT = Path(__file__).parents[2]
PEPPER = "p" * 43


@dataclass(frozen=True)
class Ours:
    """Makes the server with its controls, in each worker."""

    folder: Path
    controls: Controls

    def __call__(self, lost):
        state = State(state_file(self.folder))
        return build_app(FakePredictor(), self.controls, state, folder=self.folder, lost=lost)


@dataclass(frozen=True)
class Naive:
    """Makes a server that looks whether a quota is left, waits for its model, and then counts."""

    cap: int

    def __call__(self, _lost):
        spent = Counter()

        async def app(scope, receive, send):
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            (account,) = [value for name, value in scope["headers"] if name == b"authorization"]
            inputs = len(json.loads(body)["inputs"])
            if spent[account] + inputs > self.cap:
                await send_json(send, 429, {})
                return
            await asyncio.sleep(0.02)
            spent[account] += inputs
            await send_json(send, 200, {})

        return app


def main(folder, number, cap):
    """Serve until a signal; ``cap``: of the naive server, 0 for ours. Prints its ports once it listens."""
    folder = Path(folder)
    controls = load_controls(folder / "controls.toml")
    sock = uvicorn_server.bound("127.0.0.1", 0)
    build, admin, sockets = Naive(cap) if cap else Ours(folder, controls), None, [sock]
    if controls.admin is not None:
        sockets.append(uvicorn_server.bound("127.0.0.1", controls.admin.port))
        admin = (AdminApp(controls, state_file(folder), folder), sockets[1])
    process = workers.Process(build, sock, controls.size, admin=admin)
    ports = [each.getsockname()[1] for each in sockets]
    with checkpoints(controls.audit, state_file(folder), folder, print):
        code = workers.run(process, number, lambda: print(*ports, flush=True))
    sys.exit(code)


def prepared(folder, names, controls):
    """Write controls and pepper, and return the keys of accounts."""
    (folder / "controls.toml").write_text(controls)
    (folder / "pepper").write_text(PEPPER)
    (folder / "pepper").chmod(0o600)
    with State(state_file(folder)) as state, state.transaction() as connection:
        return {
            name: add(connection, Secret(PEPPER.encode()), name, "client", now=0.0, by="admin")
            for name in names
        }


@contextlib.contextmanager
def running(folder, number=1, cap=0):
    """Yield the process and its ports; it and its workers are stopped at the end, killed if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    code = f"from tests.support.load_server import main; main({str(folder)!r}, {number}, {cap})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        ports = [int(port) for port in process.stdout.readline().split()]
        assert ports, "the server did not start"
        yield process, *ports
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            killed(process)
        process.stdout.close()


def killed(process):
    """Kill a server and its workers, which are the processes of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


class Client:
    """A connection that asks one thing after the other; ``answers``: status, inputs and id of each."""

    def __init__(self, port, key, answers, headers=()):
        self._port, self._key, self._answers = port, key, answers
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers)

    async def ask(self, sizes):
        reader = writer = None
        for size in sizes:
            for _ in range(3):  # a kept-alive connection may be gone
                try:
                    if writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    await self._one(reader, writer, size)
                    break
                except (OSError, asyncio.IncompleteReadError):
                    if writer is not None:
                        writer.close()
                    writer = None
        if writer is not None:
            writer.close()

    async def _one(self, reader, writer, size):
        body = json.dumps({"inputs": [[0.25, 0.5]] * size}).encode()
        writer.write(
            f"POST /predict HTTP/1.1\r\nhost: server\r\nauthorization: Bearer {self._key}\r\n{self._headers}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        self._answers.append((int(head.split()[1]), size, fields.get("x-request-id", "")))
