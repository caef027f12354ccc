"""From bytes to inputs: read whole, parsed in one way, checked, and counted."""

from __future__ import annotations

from bench.serve.asgi import App, Message, Receive, Scope, Send, header, times
from bench.serve.call import Refused, call_of
from bench.serve.controls import Size
from bench.serve.middleware.body import whole_body
from bench.serve.predictor import Predictor, RejectedInputsError
from bench.serve.wire import oip, plain, strict_json

_WIRES = {"infer": oip.decoded, "predict": plain.decoded}
_JSON = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})


class Decode:
    """Fills in the call's query. A request is rebuilt from it alone; its bytes go no further."""

    def __init__(self, app: App, settings: Size, *, predictor: Predictor) -> None:
        self._app, self._settings, self._predictor = app, settings, predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        call = call_of(scope)
        if decoded := _WIRES.get(call.route):
            if times(scope, "content-encoding"):
                raise Refused(415, "a body must not be compressed", control="decode")
            if (header(scope, "content-type") or "").lower() not in _JSON:
                raise Refused(415, "the content type has to be application/json", control="decode")
            content = await whole_body(receive, "decode")
            try:
                query = decoded(strict_json.parsed(content), self._predictor)
                if len(query) > self._settings.inputs:
                    most = self._settings.inputs
                    raise Refused(413, f"a request may have {most} inputs", control="size")
                call.query = self._predictor.accepted(query)
            except (strict_json.BadRequestError, RejectedInputsError) as error:
                raise Refused(400, str(error), control="decode") from None
            receive = _nothing
        await self._app(scope, receive, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
