"""The limits of bytes: of a request's headers, and of its body, whatever its headers say."""

from __future__ import annotations

from bench.serve.asgi import App, Message, Receive, Scope, Send, header, times
from bench.serve.call import Refused
from bench.serve.controls import Size


class BodySize:
    """Refuses headers of more than ``header_bytes``, and a body of more than ``body_bytes``, chunked or not.

    It reads no more of the body. uvicorn limits only headers that come in parts.
    """

    def __init__(self, app: App, settings: Size) -> None:
        self._app, self._most, self._most_headers = app, settings.body_bytes, settings.header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if lines + len(scope["raw_path"]) + len(scope["query_string"]) > self._most_headers:
            raise Refused(431, "the headers are too long", control="size")
        if times(scope, "content-length"):
            length = header(scope, "content-length")
            if (
                length is None
                or times(scope, "transfer-encoding")
                or not length.isascii()
                or not length.isdigit()
            ):
                raise Refused(400, "the length of the body has to be said once", control="size")
            if len(length) > 15 or int(length) > self._most:
                raise self._refused()
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._most:
                raise self._refused()
            return message

        await self._app(scope, limited, send)

    def _refused(self) -> Refused:
        return Refused(413, f"a body may have {self._most} bytes", control="size")
