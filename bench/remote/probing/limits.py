"""How probes of rate limits bring an account to its limit, and let the window pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.remote.pace import Pace
from bench.remote.probing.base import Bounds, CannotTestError
from bench.remote.probing.booking import LONGEST, MARGIN, stated_pace
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen
from bench.remote.retry_after import seconds_to_wait
from bench.remote.target import Target

UNSTATED = 200
"""Inputs that are sent to find a limit which the target file does not state."""
LARGEST = 2_000
"""The largest limit that is tested."""
WINDOW = 60.0
"""Seconds of a window of which nothing is known."""
OVER = 1.05
"""A limit holds up to this many times its inputs in any window."""


@dataclass(frozen=True)
class Limit:
    """``inputs`` in any ``window`` seconds. ``stated``: by the target file, rather than seen."""

    inputs: int
    window: float
    stated: bool

    @property
    def most(self) -> int:
        """The most inputs that may pass in one window."""
        return math.floor(self.inputs * OVER)

    def refilled(self, seconds: float) -> int:
        """Return inputs that a limit may let pass again ``seconds`` after it was reached."""
        return math.ceil(self.inputs * max(0.0, seconds) / self.window) + 1


def stated_limit(target: Target) -> Limit | None:
    """Return the limit that the target file states, None where it states none."""
    pace = stated_pace(target)
    return None if pace is None else Limit(pace.most, pace.window, stated=True)


def size(target: Target) -> int:
    """Return the inputs of the limit that is tested, for the bounds of a probe."""
    limit = stated_limit(target)
    return UNSTATED if limit is None else min(limit.inputs, LARGEST)


def bounds(target: Target, inputs: float, *, refusals: int = 3, windows: int = 1) -> Bounds:
    """Return bounds of a probe that sends ``inputs`` one by one and waits for ``windows`` windows."""
    limit = stated_limit(target)
    window = WINDOW if limit is None else min(limit.window, LONGEST)
    most = math.ceil(inputs)
    return Bounds(most, most, refusals, 60.0 + 0.1 * most + windows * (window + 3 * MARGIN))


def known_limit(context: Context) -> Limit:
    """Return the limit that is stated, or was seen in this run; raises CannotTestError without one."""
    limit = stated_limit(context.target)
    if limit is None:
        if context.memory.limit is None:
            raise CannotTestError(
                'no limit is known; state it in the target file as stated_rate = "600/minute"'
            )
        limit = Limit(*context.memory.limit, stated=False)
    _require_testable(limit, context)
    return limit


def _require_testable(limit: Limit, context: Context) -> None:
    if limit.inputs > LARGEST:
        raise CannotTestError(
            f"a limit of {limit.inputs:,} inputs takes too many to reach; give the account one of "
            f"{LARGEST:,} at most for the test"
        )
    if limit.window > LONGEST:
        raise CannotTestError(
            f"a window of {limit.window:,.0f} s is longer than the {LONGEST:.0f} s that are waited for; give "
            "the account a limit a minute for the test"
        )
    require_pace(context, math.ceil(1.2 * limit.inputs) + 2)


def require_pace(context: Context, inputs: int) -> None:
    """Raise CannotTestError where the rate that may be sent is too low to reach a limit."""
    pace = Pace.of(context.target)
    if pace is not None and pace.most < inputs:
        raise CannotTestError(
            f"rate = {context.target.rate!r} of the target file allows fewer inputs at a time than the "
            f"{inputs:,} that go over the limit; its owner has to allow more for the test"
        )


def clear(context: Context, limit: Limit, account: str | None = None) -> None:
    """Wait until the account has a whole window to itself."""
    who = context.accounts.first if account is None else account
    last = max(context.memory.last.get(who, 0.0), context.memory.limited.get(who, 0.0))
    if last:
        context.wait(last + limit.window + MARGIN - context.clock())


def fill(context: Context, most: int, account: str | None = None) -> list[Seen]:
    """Send single inputs until one is refused, ``most`` at most.

    Raises CannotTestError for any other status.
    """
    seen = context.until_refused(lambda: context.shot(1, account=account), most)
    require_answers(seen)
    return seen


def require_answers(seen: Sequence[Seen]) -> None:
    """Raise CannotTestError where anything but an answer or a refusal for the rate came."""
    other = next((each for each in seen if not each.answered and not each.limited), None)
    if other is not None:
        raise CannotTestError(f"an ordinary request was answered with {other.status or 'nothing'}")


def require_passed(seen: Sequence[Seen]) -> None:
    """Raise CannotTestError where not one input passed: a refusal then tells nothing of the rate."""
    if not passed(seen):
        raise CannotTestError(
            "the account is refused although its window has passed; its quota may be used up"
        )


def at_limit(context: Context, limit: Limit) -> Seen:
    """Bring the first account to its limit; return the refusal. Raises CannotTestError where none comes."""
    seen = fill(context, math.ceil(1.1 * limit.inputs) + 1)
    require_passed(seen)
    if not seen[-1].limited:
        raise CannotTestError(
            f"{len(seen):,} inputs were answered without a refusal, so there is no limit to go past"
        )
    if seen[-1].at - seen[0].at > limit.window / 2:
        raise CannotTestError("the target answers too slowly to stay at its limit")
    return seen[-1]


def retry_window(seen: Seen) -> float:
    """Return the window that a refusal tells of by Retry-After, or one minute."""
    said = seen.reply.headers.get("retry-after", "")
    wait = seconds_to_wait(said, date=seen.reply.headers.get("date"), now=seen.at)
    return WINDOW if wait is None or not 1 <= wait <= LONGEST else wait


def passed(seen: Sequence[Seen]) -> int:
    """Return how many inputs were answered."""
    return sum(each.shot.inputs for each in seen if each.answered)


def ids(seen: Sequence[Seen], most: int = 3) -> tuple[str, ...]:
    """Return the ids of a few requests."""
    return tuple(each.id for each in seen[:most])
