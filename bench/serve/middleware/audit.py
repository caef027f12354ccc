"""Refusals in the audit log; the rows of admitted and answered queries are written where they are counted."""

from __future__ import annotations

from collections import OrderedDict

from bench.serve import audit, tallies
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Call, Refused, call_of
from bench.serve.state import State

EVERY_SECONDS = 1.0
"""Seconds between two rows on refusals of one account, or one address, by one control."""
MOST = 10_000
"""Accounts and addresses that are remembered; the oldest one is forgotten."""


class Refusals:
    """Writes a row for what inner controls refuse.

    At most one a second for each account (each address, of requests without one) and control, in a worker,
    so that refused requests cannot fill the disk; ``count`` of a row says how many refusals it stands for.
    """

    def __init__(self, app: App, state: State) -> None:
        self._app, self._state = app, state
        self._last: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            self._write(call_of(scope), refused)
            raise

    def _write(self, call: Call, refused: Refused) -> None:
        who = (call.account or f"address {call.address}", refused.control)
        at, waiting = self._last.pop(who, (float("-inf"), 0))
        due = not 0 <= call.time - at < EVERY_SECONDS
        self._last[who] = (call.time, 0) if due else (at, waiting + 1)
        if len(self._last) > MOST:
            self._last.popitem(last=False)
        if due:
            with self._state.transaction() as connection:
                fields = {
                    "time": self._state.now(),
                    "id": call.id,
                    "account": call.account,
                    "address": call.address,
                    "route": call.route,
                    "control": refused.control,
                    "status": refused.status,
                    "count": waiting + 1,
                }
                audit.append(connection, "refused", fields)
                tallies.count(connection, "requests", waiting + 1, refused.control, refused.status)
