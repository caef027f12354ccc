"""Where a campaign is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a campaign is.

    ``inputs``, ``money``: booked so far, before this run too; money in the currency of the target file.
    ``per_hour``: inputs answered an hour in this run. ``seconds_left``: until all that is planned is
    answered; None where that is not known. ``waits``: seconds for which nothing is sent, from now on.
    """

    inputs: int
    money: float
    per_hour: float
    seconds_left: float | None
    waits: float = 0.0
