"""Requests that probes send, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass

from bench.remote.probing.line import Reply, Request


@dataclass(frozen=True)
class Shot:
    """A request that is to be sent. ``inputs``: the most that the target may answer, which are booked."""

    request: Request
    inputs: int
    account: str = ""
    id: str = ""


@dataclass(frozen=True)
class Seen:
    """What came of a request. ``id``: the target's word for it, else ours. ``at``: when it was answered."""

    shot: Shot
    reply: Reply
    id: str
    at: float

    @property
    def status(self) -> int:
        """The status of the answer, 0 where none came."""
        return self.reply.status

    @property
    def answered(self) -> bool:
        """Whether the target answered with success."""
        return 200 <= self.reply.status < 300

    @property
    def limited(self) -> bool:
        """Whether the target says that it was asked too much."""
        return self.reply.status in {429, 503}

    @property
    def undecided(self) -> bool:
        """Whether nothing shows that the target judged the request: a rate, a fault, or silence."""
        return self.limited or not self.reply.status or self.reply.status >= 500
