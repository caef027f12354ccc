"""Quota, rate and suspension: inputs are counted before they are answered, with their audit row."""

from __future__ import annotations

from bench.serve import audit, tallies
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Refused, call_of
from bench.serve.counting import Denied, Rate, admit
from bench.serve.state import State


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
                    call.time = now = self._state.now()
                    before = admit(connection, call.account, inputs, now, self._cap, self._rate)
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
        await self._app(scope, receive, send)
