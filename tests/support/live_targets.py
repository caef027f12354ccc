"""Target files, and servers on this machine, for tests of live targets."""

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from bench.remote.exchange import Inputs
from bench.remote.target import load_target

OIP = {"url": "http://127.0.0.1:8080", "protocol": "oip", "model": "digits", "classes": ["a", "b", "c"]}
ONE_OF = {
    "oip": OIP,
    "tfserving": {**OIP, "protocol": "tfserving"},
    "mlflow": {"url": OIP["url"], "protocol": "mlflow", "classes": OIP["classes"]},
    "json": {
        "url": OIP["url"],
        "protocol": "json",
        "request": '{"x": "$inputs"}',
        "output": "answers",
        "classes": OIP["classes"],
    },
    "python": {
        "url": "model.py:predict",
        "protocol": "python",
        "host": "localhost",
        "classes": OIP["classes"],
    },
}
"""A target of each protocol."""


def written(path, values):
    """Write the fields of a target as TOML, and return the path."""
    lines = [f"{name} = {toml(value)}" for name, value in values.items() if value is not None]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def toml(value):
    """Return a value as TOML has it; dates are given as texts that begin with "date "."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str) and value.startswith("date "):
        return value[5:]
    return json.dumps(value)


def target(tmp_path, protocol="oip", **values):
    """Return the target of a protocol with other fields."""
    return load_target(written(tmp_path / "target.toml", {**ONE_OF[protocol], **values}))


def inputs(n, width=2):
    """Return n inputs of a table without names."""
    x = np.arange(n * width, dtype=np.float32).reshape(n, width) / 8
    return Inputs(x, x)


@contextlib.contextmanager
def serving(answer, context=None):
    """Yield the port of a server on loopback; ``answer(handler)`` answers each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self):
            self.content = self.rfile.read(int(self.headers["content-length"]))
            with contextlib.suppress(OSError):
                answer(self)

        do_GET = do_POST  # noqa: N815  # its base names it so

        def log_message(self, *_):
            pass

        def reply(self, status, document, **headers):
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def server_context(certificate, key):
    """Return a TLS context of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
