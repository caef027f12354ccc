"""Starts MLServer and MLflow's scoring server on this machine, and stops them. Needs Python alone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
MODEL = Path(__file__).with_name("model.py")
READY_SECONDS = 120.0
"""MLflow imports everything twice, which takes 20 s on an idle machine."""


@dataclass(frozen=True)
class Server:
    """A server that answers. ``ports``: all that it listens at, the one of ``url`` first."""

    url: str
    folder: Path
    pid: int
    ports: tuple[int, ...]

    def billed(self) -> int:
        """Return the requests that MLServer counts as answered."""
        with urllib.request.urlopen(f"http://{HOST}:{self.ports[2]}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        counts = re.findall(r"^model_infer_request_success_total\{.*\} (\S+)$", text, re.MULTILINE)
        return round(sum(map(float, counts)))


@contextmanager
def mlserver(program: Path, folder: Path) -> Iterator[Server]:
    """Run MLServer with a model of digits in ``folder``; ``program``: the command ``mlserver``."""
    _make(program, "mlserver", folder)
    ports = free_ports(3)
    names = ("http_port", "grpc_port", "metrics_port")
    # Its default host is 0.0.0.0: all of the machine's networks.
    settings = {"host": HOST, "parallel_workers": 0} | dict(zip(names, ports, strict=True))
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with _running([str(program), "start", str(folder)], folder, ports, "v2/models/digits/ready") as server:
        yield server


@contextmanager
def mlflow(program: Path, folder: Path) -> Iterator[Server]:
    """Run MLflow's scoring server with a model of digits in ``folder``; ``program``: the command itself."""
    _make(program, "mlflow", folder)
    ports = free_ports(1)
    words = ["models", "serve", "-m", str(folder / "model"), "--env-manager", "local"]
    words += ["--host", HOST, "--port", str(ports[0])]
    with _running([str(program), *words], folder, ports, "ping") as server:
        yield server


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of this machine at which nothing listens."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return tuple(each.getsockname()[1] for each in sockets)


def _make(program: Path, server: str, folder: Path) -> None:
    subprocess.run(
        [str(program.with_name("python")), str(MODEL), server, str(folder)],
        check=True,
        env=_environment(program),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _environment(program: Path) -> dict[str, str]:
    """Return the environment of a server: its own programs come first, and nothing of ours is imported."""
    left = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    path = f"{program.parent}{os.pathsep}{left.get('PATH', '')}"
    return left | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@contextmanager
def _running(command: list[str], folder: Path, ports: tuple[int, ...], ready: str) -> Iterator[Server]:
    url = f"http://{HOST}:{ports[0]}"
    with (folder / "server.log").open("wb") as log:
        # In a session of its own, so that what it starts itself can be ended with it.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(Path(command[0])),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(process, f"{url}/{ready}", folder / "server.log")
        yield Server(url, folder, process.pid, ports)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the model is ready; raises RuntimeError with the end of the log where it does not come."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own server
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    text = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{url} was not ready after {READY_SECONDS:g} s:\n{text}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started: they are one process group."""
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
            process.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
