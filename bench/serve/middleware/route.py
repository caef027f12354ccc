"""Exact routes: one path for each thing, compared byte by byte; everything else is not found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Refused, call_of


@dataclass(frozen=True)
class Route:
    """What a path offers. ``public``: to anybody, without a key. ``inputs``: whether a request has a body."""

    name: str
    method: str
    public: bool = False
    inputs: bool = False


def routes(model: str, *, terms: bool = False) -> Mapping[bytes, Route]:
    """Return the routes of a server by path, as it stands in a request; ``terms``: with those of terms."""
    quoted = model.encode("ascii")
    of_terms = {
        b"/terms": Route("terms", "GET"),
        b"/terms/accept": Route("accept terms", "POST", inputs=True),
    }
    return {
        **(of_terms if terms else {}),
        b"/v2": Route("server", "GET"),
        b"/v2/health/live": Route("live", "GET", public=True),
        b"/v2/health/ready": Route("ready", "GET", public=True),
        b"/v2/models/" + quoted: Route("model", "GET"),
        b"/v2/models/" + quoted + b"/ready": Route("model ready", "GET"),
        b"/v2/models/" + quoted + b"/infer": Route("infer", "POST", inputs=True),
        b"/predict": Route("predict", "POST", inputs=True),
    }


class ExactRoute:
    """Passes requests of the routes on, those of public ones to ``public``.

    No other spelling of a path is the same: no escape, no second slash, no query. A method that a path does
    not have is refused with 405, and with the same text as a path that is not there.
    """

    def __init__(self, app: App, settings: Mapping[bytes, Route], *, public: App) -> None:
        self._app, self._routes, self._public = app, settings, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        route = None if scope["query_string"] else self._routes.get(scope["raw_path"])
        if route is None:
            raise Refused(404, "not found", control="route")
        if scope["method"] != route.method:
            raise Refused(405, "not found", control="route", headers=(("allow", route.method),))
        call = call_of(scope)
        call.route, call.public = route.name, route.public
        await (self._public if route.public else self._app)(scope, receive, send)
