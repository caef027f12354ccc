"""Quota, rate and suspension: inputs are counted before they are answered, with their audit row."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress

from bench.serve import audit, tallies
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Call, Refused, call_of
from bench.serve.counting import Denied, Rate, admit
from bench.serve.state import State, StateError


class QuotaAndRate:
    """Admits a query's inputs in one transaction with the row of the audit log, or raises Refused.

    ``cap``: inputs of an account in all; ``rate``: in any window; None: no limit.
    """

    def __init__(self, app: App, state: State, *, cap: int | None, rate: Rate | None) -> None:
        self._app, self._state, self._cap, self._rate = app, state, cap, rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the inputs of the call's query, if it has one."""
        if scope["type"] == "http":
            call = call_of(scope)
            if call.query is not None:
                inputs = len(call.query)
                with self._state.transaction() as connection:
                    now, steady = self._state.moment()
                    call.time = now
                    before = admit(connection, call.account, inputs, steady, self._cap, self._rate)
                    if not isinstance(before, Denied):
                        tallies.count(connection, "inputs", inputs, "admitted")
                        audit.append(
                            connection,
                            "admitted",
                            {"time": now, "id": call.id, "account": call.account, "inputs": inputs},
                        )
                if isinstance(before, Denied):
                    wait = () if before.wait is None else (("retry-after", str(before.wait)),)
                    raise Refused(before.status, before.text, control=before.control, headers=wait)
                call.reserved, call.number = inputs, before
                await self._answered(call, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _answered(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; write a row where the admitted query gets no answer."""
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if not call.logged:
                with suppress(StateError):  # then the error that is raised ends the server
                    self._unanswered(call, error)
            raise

    def _unanswered(self, call: Call, error: BaseException) -> None:
        """Write whose admitted inputs got no answer, and why: a control, the deadline, or a fault of ours.

        The control is the one that the answer to the client names.
        """
        reason = "server"
        if isinstance(error, Refused):
            reason = error.control
        elif isinstance(error, StateError | sqlite3.Error):
            reason = "state"
        elif isinstance(error, asyncio.CancelledError):
            reason = "deadline"
        with self._state.transaction() as connection:
            fields = {"time": self._state.now(), "id": call.id, "account": call.account}
            audit.append(connection, "unanswered", {**fields, "inputs": call.reserved, "control": reason})
            tallies.count(connection, "inputs", call.reserved, "unanswered")
