"""Limits of time: until the body is whole, and until the answer is."""

from __future__ import annotations

import asyncio

from bench.serve.asgi import App, Message, Receive, Scope, Send
from bench.serve.call import Refused
from bench.serve.controls import Size


class Deadline:
    """Refuses a body that is not whole after ``seconds``, and ends a request after ``answer_seconds`` more.

    The time counts for the whole body: a client that sends a byte now and then keeps no connection.
    """

    def __init__(self, app: App, settings: Size) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request in time; raises Refused."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.seconds

        async def in_time() -> Message:
            try:
                async with asyncio.timeout_at(until):
                    return await receive()
            except TimeoutError:
                raise Refused(408, "the body took too long", control="deadline") from None

        try:
            async with asyncio.timeout_at(until + self._settings.answer_seconds):
                await self._app(scope, in_time, send)
        except TimeoutError:
            raise Refused(504, "the answer took too long", control="deadline") from None
