"""A few inputs that are asked again and again, to notice that another model answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.errors import BudgetError, UsageError
from bench.remote.exchange import Inputs
from bench.remote.frames import packed, read_frame, unpacked, write_frame
from bench.remote.ledger import Ledger

INPUTS = 5
"""Inputs that are asked at a time."""
PLANNED = 4 * INPUTS
"""Inputs of a campaign that is not stopped: twice at the start, in the middle and at the end."""
PURPOSE = "canary"
ROUNDING = 1e-6
"""Changes up to here are none: servers differ by so much between requests of different sizes."""
NOISE = 3.0
"""Changes up to so many times the largest one between equal inputs are noise."""
EVERY = 1_000
"""Inputs bought between two looks, where nobody says how many are planned."""


class Ask(Protocol):
    """Buys answers, whatever was bought before; see :class:`bench.remote.purchase.Purchaser`."""

    def __call__(self, inputs: Inputs, *, session: str, purpose: str, account: str) -> NDArray[np.float64]:
        """Return the answers (n, classes)."""


@dataclass
class Seen:
    """What the target answered at first, and how far its answers to equal inputs differ."""

    inputs: Inputs
    account: str
    answers: NDArray[np.float64]
    noise: float
    moved: float = 0.0

    def text(self) -> str:
        """Return this as text, without a loss; :meth:`of` reads it."""
        header, arrays = packed(self.inputs)
        facts = {"account": self.account, "noise": self.noise, "moved": self.moved}
        file = io.BytesIO()
        write_frame(file, {**header, **facts}, [self.answers, *arrays])
        return base64.b64encode(file.getvalue()).decode()

    @classmethod
    def of(cls, text: str) -> Seen:
        """Return what :meth:`text` wrote."""
        found = read_frame(io.BytesIO(base64.b64decode(text)))
        if found is None:
            raise ValueError("empty")
        header, (answers, *arrays) = found
        inputs = unpacked(header, arrays)
        return cls(inputs, header["account"], answers, header["noise"], header["moved"])


class Canary:
    """Asks the same inputs at the start of a run, in its middle and at its end.

    The first run asks them twice, to see the noise. Later ones ask the same inputs, and compare with what the
    first was answered. A run that finds all answers in the ledger asks nothing. ``spare``: a block in which
    what the campaign still needs is set aside; raises BudgetError where the caps do not allow it.
    """

    def __init__(
        self,
        ask: Ask,
        ledger: Ledger,
        planned: int | None,
        spare: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ask, self._ledger, self._spare = ask, ledger, spare
        self._every = EVERY if planned is None else max(1, (planned + 1) // 2)
        self._seen: Seen | None = None
        self._since = 0

    @property
    def until_next(self) -> int:
        """Inputs that may be bought before the next look."""
        return max(1, self._every - self._since)

    def cost(self, inputs: int) -> int:
        """Return how many inputs the start takes, where ``inputs`` are to be bought next."""
        if self._seen is not None or self._started():
            return 0
        return 2 * min(INPUTS, inputs)

    def before(self, inputs: Inputs, account: str) -> None:
        """Look at the start of a run; ``inputs``: what is bought next, whose first ones are asked."""
        if self._seen is not None:
            return
        if text := self._ledger.noted(PURPOSE):
            self._seen = Seen.of(text)
            self._look("when the run went on", self._spare)
            return
        chosen = inputs.part(0, INPUTS)
        try:
            with self._spare() if self._started() else nullcontext():
                first, second = self._answers(chosen, account), self._answers(chosen, account)
        except BudgetError:  # an earlier run was stopped between the two
            self._leave_out("at the start")
            return
        self._keep(Seen(chosen, account, first, _change(first, second)))

    def _started(self) -> bool:
        """Return whether any run has paid for a look."""
        return bool(self._ledger.rows("select 1 from purposes where purpose = ? and paid > 0", PURPOSE))

    def _leave_out(self, when: str) -> None:
        self._ledger.note("canary left out", f"the caps left no room for the canary inputs {when}")

    def after(self, inputs: int) -> None:
        """Look where it is due; ``inputs``: that were bought since this was called last."""
        self._since += inputs
        if self._since >= self._every:
            self._look("in the middle", self._spare)

    def end(self) -> None:
        """Look at the end of a run that bought anything since the last look."""
        if self._since:
            self._look("at the end", nullcontext)

    def _answers(self, inputs: Inputs, account: str) -> NDArray[np.float64]:
        return self._ask(inputs, session=PURPOSE, purpose=PURPOSE, account=account)

    def _keep(self, seen: Seen) -> None:
        self._seen = seen
        self._ledger.note(PURPOSE, seen.text())

    def _look(self, when: str, spare: Callable[[], AbstractContextManager[None]]) -> None:
        """Ask again; raises UsageError if another model answers."""
        seen = self._seen
        if seen is None:
            return
        self._since = 0
        try:
            with spare():
                now = self._answers(seen.inputs, seen.account)
                change = _change(seen.answers, now)
                if change > max(ROUNDING, NOISE * seen.noise):
                    # Noise that was not seen at the start shows as a difference between two looks in a row.
                    again = self._answers(seen.inputs, seen.account)
                    seen.noise = max(seen.noise, _change(now, again))
                    change = _change(seen.answers, again)
        except BudgetError:
            self._leave_out(when)
            return
        seen.moved = max(seen.moved, change)
        self._keep(seen)
        if change > max(ROUNDING, NOISE * seen.noise):
            raise UsageError(
                f"another model answers: {when}, {len(seen.inputs)} inputs that were asked at the start got "
                f"answers that differ by up to {change:.2g}, and equal inputs sent at once by up to "
                f"{seen.noise:.2g}; name another folder for the new model"
            )


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return the largest change of an answer; 1 where one is refused and the other is not."""
    missing = np.isnan(before).any(axis=1), np.isnan(after).any(axis=1)
    if (missing[0] != missing[1]).any():
        return 1.0
    kept = ~missing[0]
    return float(np.abs(before[kept] - after[kept]).max(initial=0.0))
