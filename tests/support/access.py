"""A server of the access controls alone, in process: its answer to a query is the number of its inputs."""

import contextlib
import dataclasses
import json
import secrets

import numpy as np

from bench.serve import keys, second_factor
from bench.serve.call import KEY, Call, Refused
from bench.serve.middleware.authentication import Authentication
from bench.serve.middleware.failed_keys import FailedKeys, Limit
from bench.serve.middleware.quota import QuotaAndRate
from bench.serve.middleware.suspension import Suspension
from bench.serve.predictor import Query
from bench.serve.secret_values import Secret
from bench.serve.state import State

START = 1_800_000_000.0
PEPPER = Secret(b"p" * 32)


class Clock:
    """A clock that stands until it is told to move."""

    def __init__(self, time=START):
        self.time = time

    def __call__(self):
        return self.time


def opened(folder, clock=None, **more):
    return State(folder / "state.sqlite", clock=clock or Clock(), **more)


def key_for(state, name, role="client"):
    with state.transaction() as connection:
        return keys.add(connection, PEPPER, name, role, now=state.now(), by="admin")


def enrolled(state, account="admin"):
    """Make a second factor and return its URI."""
    with state.transaction() as connection:
        return second_factor.enrol(connection, PEPPER, account, now=state.now())


def events(state, *kinds):
    rows = [json.loads(row[0]) for row in state.rows("select record from audit order by number")]
    return [row for row in rows if not kinds or row["event"] in kinds]


async def counted(scope, _receive, send):
    """Answer with the number of inputs; those above 9 are flagged, as the decoding step would have them."""
    call = scope[KEY]
    call.flagged = int((np.asarray(call.query.rows) > 9).sum()) if call.query else 0
    body = json.dumps({"inputs": len(call.query) if call.query else 0}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Decoded:
    """Stands for the step that parses: the body is a list of numbers, each an input."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if body:
            scope[KEY].query = Query(np.asarray(json.loads(body), dtype=float).reshape(-1, 1))
        await self.app(scope, receive, send)


class Outermost:
    """Makes the call, and one answer of whatever a control refuses."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        address = scope["client"][0] if scope["client"] else ""
        scope[KEY] = Call(secrets.token_hex(8), address, 0.0)
        try:
            await self.app(scope, receive, send)
        except Refused as refused:
            headers = [(name.encode(), value.encode()) for name, value in refused.headers]
            await send({"type": "http.response.start", "status": refused.status, "headers": headers})
            body = json.dumps({"error": refused.text}).encode()
            await send({"type": "http.response.body", "body": body})


def served(state, *, cap=None, rate=None, after=None, failures=3, tokens=None, app=counted):
    """Return the controls in their order around ``app``."""
    app = Suspension(app, state, after=after)
    app = QuotaAndRate(app, state, cap=cap, rate=rate)
    app = Authentication(Decoded(app), state, PEPPER, tokens=tokens)
    return Outermost(FailedKeys(app, state, Limit(failures, 60.0)))


@dataclasses.dataclass
class Response:
    """One answer of an application."""

    status_code: int
    headers: dict[str, str]
    text: str

    def json(self):
        return json.loads(self.text)


def asked(app, key=None, inputs=(1,), *, address="203.0.113.5", headers=(), path="/predict", method="POST"):
    """Return the answer to one request, without a network. ``headers``: names and values, in pairs."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    pairs += [(b"authorization", f"Bearer {key}".encode())] if key is not None else []
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": pairs,
        "query_string": query.encode(),
        "client": (address, 5),
        "http_version": "1.1",
    }
    body = (
        b"" if inputs is None else inputs if isinstance(inputs, bytes) else json.dumps(list(inputs)).encode()
    )
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    call = app(scope, receive, send)
    with contextlib.suppress(StopIteration):
        call.send(None)  # nothing waits here, so there is no need of an event loop
        raise AssertionError("the application waits for something")
    start, *parts = sent
    found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], found, b"".join(part["body"] for part in parts).decode())


@contextlib.contextmanager
def server(folder, clock=None, **settings):
    """Yield a state with the account alice, her key, and the server."""
    with opened(folder, clock) as state:
        yield state, key_for(state, "alice"), served(state, **settings)
