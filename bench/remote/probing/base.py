"""What a probe is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.remote.probing.context import Context
    from bench.remote.target import Target

Result = Literal["holds", "does not hold", "cannot be tested"]
HOLDS: Result = "holds"
FAILS: Result = "does not hold"
UNTESTED: Result = "cannot be tested"


class CannotTestError(Exception):
    """A probe cannot tell; the message is one sentence that says why, and what would help."""


class OutageError(Exception):
    """The target answers nothing any more; the message is one sentence. No further probe is run."""


@dataclass(frozen=True)
class Bounds:
    """The most that a probe may send and take.

    ``inputs``: booked; ``requests``: sent, those without inputs included; ``refusals``: answers 429 or 503,
    after which a series ends, of all series of the probe; ``seconds``: from its start, waits included.
    """

    inputs: int
    requests: int
    refusals: int = 3
    seconds: float = 60.0


@dataclass(frozen=True)
class Verdict:
    """What a probe found. ``evidence``: a sentence each, with counts. ``requests``: ids that show it."""

    result: Result
    evidence: tuple[str, ...]
    requests: tuple[str, ...] = ()


def _nothing(_: Context) -> str:
    return ""


@dataclass(frozen=True)
class Probe:
    """A test of one control.

    ``name``: in lower case with hyphens. ``asks``: the question, in one sentence. ``controls``: numbers of
    OWASP ML05:2023. ``atlas``: ids of MITRE ATLAS. ``exchange``: ids of the OWASP AI Exchange. ``bounds``:
    for a target. ``run``: raises CannotTestError where it cannot tell. ``missing``: what the user did not
    give that it needs, "" if nothing; it then sends nothing. ``uses_up``: whether the account is of no use
    for other probes afterwards. ``paced``: whether it keeps below the rate that the target states.
    """

    name: str
    asks: str
    controls: tuple[int, ...]
    atlas: tuple[str, ...]
    exchange: tuple[str, ...]
    bounds: Callable[[Target], Bounds]
    run: Callable[[Context], Verdict]
    missing: Callable[[Context], str] = _nothing
    uses_up: bool = False
    paced: bool = True


@dataclass(frozen=True)
class Finding:
    """What one probe came to. ``inputs``: booked and not taken back; ``requests``: sent."""

    probe: Probe
    verdict: Verdict
    inputs: int = 0
    requests: int = 0
    seconds: float = 0.0


def holds(*evidence: str, requests: tuple[str, ...] = ()) -> Verdict:
    """Return that a control holds."""
    return Verdict(HOLDS, evidence, requests)


def fails(*evidence: str, requests: tuple[str, ...] = ()) -> Verdict:
    """Return that a control does not hold."""
    return Verdict(FAILS, evidence, requests)
