"""Applications behind a real uvicorn on this machine."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

SUPPORT = Path(__file__).parent


def listening():
    """Return a socket on a free port; one that does not say that it is of TCP answers 40 ms later."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


@contextlib.contextmanager
def served(app, **settings):
    """Yield the port of ``app``, served by a thread of this process."""
    with listening() as sock:
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, **settings)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def wait_for(condition, seconds=60):
    """Wait until a condition holds; raises AssertionError if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not start in time"
        threading.Event().wait(0.02)


WORKER = """
import json, socket, sys, time, uvicorn
from naive_servers import Server
sock = socket.socket(fileno=int(sys.argv[1]), proto=socket.IPPROTO_TCP)
settings, *faults = sys.argv[2:]
app = Server(*faults, clock=time.time, **json.loads(settings))
config = uvicorn.Config(app, log_level="critical", lifespan="off")
print("started", flush=True)
uvicorn.Server(config).run(sockets=[sock])
"""


@contextlib.contextmanager
def naive_workers(number, *faults, **settings):
    """Yield the port of ``number`` processes of a naive server, which share a socket and nothing else."""
    with listening() as sock:
        os.set_inheritable(sock.fileno(), True)
        words = [sys.executable, "-c", WORKER, str(sock.fileno()), json.dumps(settings), *faults]
        environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
        workers = [
            subprocess.Popen(words, pass_fds=[sock.fileno()], env=environment, stdout=subprocess.PIPE)
            for _ in range(number)
        ]
        try:
            for worker in workers:
                assert worker.stdout.readline() == b"started\n"
            yield sock.getsockname()[1]
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
                worker.wait(20)
                worker.stdout.close()
