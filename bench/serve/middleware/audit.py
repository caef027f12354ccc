"""Refusals in the audit log; the rows of admitted and answered queries are written where they are counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.serve import audit, tallies
from bench.serve.addresses import network
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Call, Refused, call_of
from bench.serve.state import State

EVERY_SECONDS = 1.0
"""Seconds between two rows on refusals of one account, or one address, by one control."""
MOST = 10_000
"""Accounts and addresses that are remembered; the oldest one is forgotten once its row is written."""


@dataclass
class _Waiting:
    """The last refusal of an account by a control, and how many there were since the last row, ``at``."""

    at: float
    fields: dict[str, Any]
    count: int = 0


class Refusals:
    """Writes a row for what inner controls refuse.

    At most one a second for each account (each address, of requests without one; of IPv6, each network) and
    control, in a worker, so that refused requests cannot fill the disk; ``count`` of a row says how many
    refusals it stands for. Those that wait get their row with the first request after that second, whoever's
    it is.
    """

    def __init__(self, app: App, state: State) -> None:
        self._app, self._state = app, state
        self._last: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()  # by the time of the last row

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        now = call_of(scope).time
        self._write_old(now)
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            self._add(call_of(scope), refused, now)
            raise

    def _write_old(self, now: float) -> None:
        """Write the rows that waited for a second, and forget whom nothing waits for."""
        excess = len(self._last) - MOST
        old = []
        for place, (who, each) in enumerate(self._last.items()):
            if place >= excess and 0 <= now - each.at < EVERY_SECONDS:
                break
            old.append(who)
        waiting = [who for who in old if self._last[who].count]
        if waiting:
            with self._state.transaction():
                for who in waiting:
                    self._write(self._last[who].fields, self._last[who].count)
        for who in old:
            found = self._last.pop(who)
            if found.count:
                self._last[who] = _Waiting(now, found.fields)

    def _add(self, call: Call, refused: Refused, now: float) -> None:
        who = (call.account or f"address {network(call.address)}", refused.control)
        fields = {
            "id": call.id,
            "account": call.account,
            "address": call.address,
            "route": call.route,
            "control": refused.control,
            "status": refused.status,
        }
        if waiting := self._last.get(who):
            waiting.count, waiting.fields = waiting.count + 1, fields
        else:
            self._write(fields, 1)
            self._last[who] = _Waiting(now, fields)

    def _write(self, fields: Mapping[str, Any], count: int) -> None:
        with self._state.transaction() as connection:
            audit.append(connection, "refused", {"time": self._state.now(), **fields, "count": count})
            tallies.count(connection, "requests", count, fields["control"], fields["status"])
