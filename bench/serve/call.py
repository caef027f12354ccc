"""The state of one request, which the middlewares fill in, one after the other."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from bench.serve.predictor import Query

KEY = "moatbench.call"
"""Where the scope of a request holds its :class:`Call`."""


@dataclass
class Call:
    """One request.

    ``id``: made here, random, in the log and in the answer's header ``x-request-id``. ``address``: of the
    connection's other end, never of a header. ``time``: in seconds since 1970, by the server's clock.
    ``public``: whether anybody may ask, without a key. ``account``, ``roles``: once authenticated.
    ``query``: once decoded and counted. ``reserved``: inputs that were counted against the account;
    ``number``: how many of its inputs were reserved before these, None where nobody counts them (noise of a
    defense depends on it). ``flagged``, ``refused``: inputs of the answer that a defense flagged, rejected.
    ``status``: of the answer. ``logged``: whether the log has it that the query was answered.
    """

    id: str
    address: str
    time: float
    route: str = ""
    public: bool = False
    account: str = ""
    roles: frozenset[str] = frozenset()
    query: Query | None = None
    reserved: int = 0
    number: int | None = None
    flagged: int = 0
    refused: int = 0
    status: int = 0
    logged: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):  # noqa: N818  # an answer, not a fault of ours
    """A control refuses the request: HTTP ``status`` and one sentence, the same for everybody.

    ``headers``: further ones, such as ``retry-after``. ``control``: its name, for the audit log and metrics.
    """

    def __init__(
        self, status: int, text: str, *, control: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(text)
        self.status, self.text, self.control, self.headers = status, text, control, headers


def call_of(scope: MutableMapping[str, Any]) -> Call:
    """Return the :class:`Call` of a request's scope."""
    found: Call = scope[KEY]
    return found
