"""The process that buys answers, as the process that attacks sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.remote.exchange import Inputs
from bench.run_facts import CampaignFacts


class Buyer(Protocol):
    """Buys answers of one target, each (input, occurrence) once, within its caps.

    A *session* is one attack, or the evaluation: equal inputs of one session are different occurrences, which
    are bought one by one; the first occurrence in another session is the same purchase.
    """

    def ask(self, inputs: Inputs, *, session: str, purpose: str, account: str = "") -> NDArray[np.float64]:
        """Return answers (n, classes), rows of NaN for inputs that the target refuses, in order.

        ``purpose``: what it is booked under, as in :class:`bench.run_facts.CampaignFacts`. Raises UsageError
        where the target or its file is wrong, BudgetError where the caps do not allow all of it (nothing is
        sent then), and StoppedError where the same command can go on later.
        """

    def facts(self) -> CampaignFacts:
        """Return what was bought so far, in this process and before."""

    def close(self) -> None:
        """End the process; what was answered is in the ledger."""


def start_buyer(
    target_file: Path, ledger: Path, *, allowed_host: str | None = None, classes: int | None = None
) -> Buyer:
    """Start the process that buys answers of the target; raises UsageError where it may not.

    ``allowed_host``: the host that the user says they may test. ``ledger``: made where there is none.
    """
    raise NotImplementedError
