"""Requests to an ASGI application in this process, with every byte of the path as it is given."""

import asyncio
import contextlib
import json

import numpy as np

from bench.serve.app import build_app
from bench.serve.controls import Controls
from bench.serve.predictor import Answer, Outputs
from bench.serve.state import State

JSON = (("content-type", "application/json"),)


class FakePredictor:
    """Answers with the inputs' sums, so that a test sees which row was answered."""

    def __init__(self, shape=(2,), columns=(), shows="probabilities"):
        self.name, self.version, self.classes = "fake", "1", ("no", "yes")
        self.shape, self.columns, self.shows, self.outputs = shape, columns, shows, Outputs()
        self.queries, self.failure, self.wait = [], None, 0.0

    def accepted(self, query):
        return query

    async def answer(self, query, client, number=None):
        self.queries.append((query, client, number))
        if self.wait:
            await asyncio.sleep(self.wait)
        if self.failure is not None:
            raise self.failure
        first = np.array([float(np.ravel(row)[0]) for row in query.rows])
        answers = np.stack([1 - first, first], axis=1)
        return Answer(answers, np.zeros(len(query), dtype=bool))

    async def ready(self):
        return self.failure is None


def exchange(app, method, path, body=b"", headers=JSON, *, query=b"", client="127.0.0.1", parts=None):
    """Return status, headers and JSON of the answer; ``parts``: of the body, each sent alone; None: hangs."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    messages = [content] if parts is None else list(parts)
    raw = [(name.encode(), value.encode()) for name, value in headers]
    if parts is None and body:
        raw.append((b"content-length", str(len(content)).encode()))
    elif parts is not None:
        raw.append((b"transfer-encoding", b"chunked"))
    raw_path = path if isinstance(path, bytes) else path.encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "headers": raw,
        "client": (client, 50_000),
        "server": ("127.0.0.1", 80),
    }
    sent = []

    async def receive():
        if not messages:
            return {"type": "http.disconnect"}
        part = messages.pop(0)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(messages)}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    status = sent[0]["status"]
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return status, found, json.loads(answer)


@contextlib.contextmanager
def served(tmp_path, predictor=None, controls=None, **options):
    """Yield an application over a state of its own."""
    state = State(tmp_path / "state.sqlite")
    try:
        yield build_app(predictor or FakePredictor(), controls or Controls(), state, **options)
    finally:
        state.close()
