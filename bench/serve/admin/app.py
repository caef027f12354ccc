"""The administration as an ASGI application of its own: log in, read metrics."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.serve.access_controls import Admin
from bench.serve.admin.metrics import metrics_text
from bench.serve.admin.sessions import is_open, log_in
from bench.serve.asgi import App, Receive, Scope, Send, send_json
from bench.serve.call import Refused, call_of
from bench.serve.controls import Controls, Size
from bench.serve.middleware.authentication import Authentication, bearer, unauthorised
from bench.serve.middleware.deadline import Deadline
from bench.serve.middleware.failed_keys import FailedKeys, Limit
from bench.serve.middleware.outermost import Outermost
from bench.serve.middleware.route import ExactRoute, Route
from bench.serve.middleware.size import BodySize
from bench.serve.second_factor import SecondFactorError
from bench.serve.secret_values import Secret
from bench.serve.state import State
from bench.serve.wire import strict_json

ROLE = "metrics"
ROUTES = {
    b"/login": Route("login", "POST", inputs=True),
    # It asks for a session itself, not for a key.
    b"/metrics": Route("metrics", "GET", public=True),
}
SIZE = Size(body_bytes=1_000, seconds=5.0, answer_seconds=30.0)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class AdminApp:
    """Makes the application in the process that serves it; ``folder``: that of the controls file."""

    controls: Controls
    state_file: Path
    folder: Path

    def __call__(self) -> App:
        """Return the application; raises MoatbenchError."""
        settings, keys = self.controls.admin, self.controls.keys
        if settings is None:
            raise ValueError("the controls name no port of an administration")
        pepper = keys.pepper(self.folder, self.state_file.parent, os.environ)
        limit = Limit(keys.failures, keys.failure_seconds)
        return build_admin(State(self.state_file), pepper, settings, limit)


def build_admin(
    state: State,
    pepper: Secret,
    settings: Admin,
    limit: Limit,
    *,
    lost: Callable[[str], None] = lambda _: None,
) -> App:
    """Return the application: ``POST /login`` with a key and ``{"code": …}``, then ``GET /metrics``."""
    login = Authentication(_Login(state, pepper, settings.session_seconds), state, pepper, roles={ROLE})
    app: App = ExactRoute(login, ROUTES, public=_Metrics(state))
    app = FailedKeys(app, state, limit)
    return Outermost(Deadline(BodySize(app, SIZE), SIZE), clock=state.clock, lost=lost)


class _Login:
    def __init__(self, state: State, pepper: Secret, seconds: float) -> None:
        self._state, self._pepper, self._seconds = state, pepper, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a token; raises Refused."""
        account, code = call_of(scope).account, await _code(receive)
        try:
            token = log_in(self._state, self._pepper, account, code, self._seconds)
        except SecondFactorError as error:
            wait = (("retry-after", str(math.ceil(error.wait))),) if error.wait else ()
            status = 429 if error.wait else 401
            raise Refused(status, str(error), control="second factor", headers=wait) from None
        except UsageError:
            raise Refused(403, "this account has no second factor", control="second factor") from None
        await send_json(send, 200, {"token": token, "seconds": self._seconds})


class _Metrics:
    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the metrics; raises Refused."""
        if not is_open(self._state, bearer(scope["headers"])):
            raise unauthorised()
        body = metrics_text(self._state)
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _code(receive: Receive) -> str:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    try:
        document = strict_json.parsed(body)
    except strict_json.BadRequestError:
        document = None
    code = document.get("code") if isinstance(document, dict) and set(document) == {"code"} else None
    if not isinstance(code, str):
        raise Refused(400, 'the body has to be {"code": "123456"}', control="second factor")
    return code
