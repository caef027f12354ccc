"""Failed keys, limited by the address of the connection and counted over all workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.serve.addresses import network
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Refused, call_of
from bench.serve.state import State

KIND = "key"
CONTROL = "failed keys"


@dataclass(frozen=True)
class Limit:
    """At most ``failures`` of one address in any ``seconds``."""

    failures: int
    seconds: float


class FailedKeys:
    """Answers 429 instead of 401 once an address has failed too often.

    Only requests that failed are counted and refused: a valid key passes from any address, so that nobody
    can keep others at the same address out. Verifying a key takes microseconds, so that this costs little.
    """

    def __init__(self, app: App, state: State, limit: Limit) -> None:
        self._app, self._state, self._limit = app, state, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application and count what it refuses with 401."""
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            if refused.status != 401:
                raise
            wait = count_failure(self._state, call_of(scope).address, self._limit)
            if wait is None:
                raise
            raise Refused(
                429, "too many failed keys", control=CONTROL, headers=(("retry-after", str(wait)),)
            ) from None


def count_failure(state: State, address: str, limit: Limit) -> int | None:
    """Count a failed key of an address; return the seconds to wait if it was one too many, else None.

    One too many is not counted again, so that an address fills at most ``limit.failures`` rows.
    """
    who = network(address)
    with state.transaction() as connection:
        now = state.moment().steady
        connection.execute("delete from failures where kind = ? and at <= ?", (KIND, now - limit.seconds))
        count, first = connection.execute(
            "select count(*), min(at) from failures where kind = ? and who = ?", (KIND, who)
        ).fetchone()
        if count >= limit.failures:
            return max(1, math.ceil(float(first) + limit.seconds - now))
        connection.execute("insert into failures values (?, ?, ?)", (KIND, who, now))
    return None
