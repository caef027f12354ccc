"""The rate at which a target's owner allows inputs to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.remote.target import PER, Target


@dataclass(frozen=True)
class Pace:
    """At most ``most`` inputs in any ``window`` seconds, wherever it begins."""

    most: int
    window: float

    @classmethod
    def of(cls, target: Target) -> Pace | None:
        """Return the rate of a target file, in the unit that it is written in; None where there is none."""
        if target.rate is None:
            return None
        most, unit = target.rate.split("/")
        return cls(int(most), 3600 / PER[unit])

    def wait(self, sent: Sequence[tuple[float, int]], inputs: int, now: float) -> float:
        """Return the seconds until ``inputs`` may be sent; 0 if they may be now.

        ``sent``: when how many were, in order of time. More than ``most`` at a time never may: such a request
        has to be divided first.
        """
        if inputs > self.most:
            raise ValueError(f"a request of {inputs} inputs exceeds {self.most} in {self.window} s")
        total = inputs + sum(number for at, number in sent if at > now - self.window)
        for at, number in sent:
            if total <= self.most:
                break
            if at > now - self.window:
                total -= number
                if total <= self.most:
                    return at + self.window - now
        return 0.0


def eta(left: int, per_second: float, pace: Pace | None) -> float | None:
    """Return the seconds until ``left`` inputs are answered at the measured and the allowed rate."""
    if not per_second:
        return None
    return left / min(per_second, pace.most / pace.window if pace else per_second)
