"""Suspension: flagged inputs are counted before the answer leaves, with its audit row."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from bench.serve import audit, tallies
from bench.serve.asgi import App, Message, Receive, Scope, Send
from bench.serve.call import Call, call_of
from bench.serve.counting import flag
from bench.serve.state import State


class Suspension:
    """Writes the row of an answered query and counts its flagged inputs, in one transaction.

    ``after``: flagged inputs of an account, at which it is suspended; None: never. The answer is sent once
    this is stored; where it cannot be, StateError is raised and nothing is sent.
    """

    def __init__(
        self, app: App, state: State, *, after: int | None, timer: Callable[[], float] = perf_counter
    ) -> None:
        self._app, self._state, self._after, self._timer = app, state, after, timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and finish the call when its answer begins."""
        if scope["type"] != "http" or call_of(scope).query is None:
            await self._app(scope, receive, send)
            return
        call, begun = call_of(scope), self._timer()

        async def finishing(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                self._finish(call, self._timer() - begun)
            await send(message)

        await self._app(scope, receive, finishing)

    def _finish(self, call: Call, seconds: float) -> None:
        account, flagged = call.account, call.flagged
        with self._state.transaction() as connection:
            now = self._state.now()
            fields = {
                "time": now,
                "id": call.id,
                "account": account,
                "status": call.status,
                "inputs": call.reserved,
                "refused": call.refused,
                "flagged": flagged,
            }
            audit.append(connection, "answered", fields)
            tallies.count(connection, "requests", 1, status=call.status)
            tallies.count(connection, "seconds", seconds)
            if call.refused:
                tallies.count(connection, "inputs", call.refused, "refused")
            if flagged:
                tallies.count(connection, "inputs", flagged, "flagged")
                if self._after is not None and flag(connection, account, flagged, now, self._after):
                    audit.append(connection, "account suspended", {"time": now, "account": account})
        call.logged = True
