"""One request to a target: what is sent, what comes back, and what is known where nothing came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Array

Billed = Literal["no", "unknown", "yes"]
"""Whether the target has charged for a request."""
Action = Literal["retry", "halve", "isolate", "stop"]
"""What to do after a request without answers.

"retry": the same again, after a pause. "halve": fewer inputs a request, from now on. "isolate": send halves
of this request, until an input that the target cannot answer is alone. "stop": send nothing more.
"""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one request, or of several.

    ``x``: (n, …) float32, as attacks know them; what the ledger knows an input by. ``rows``: the same as they
    are sent: an array (n, …) with the axes, range and type of the user's file, or n lists of values of a
    table with texts and gaps (None). ``columns``: the names of a table's columns; () where it has none.
    """

    x: Array
    rows: NDArray[Any] | Sequence[Sequence[Any]]
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, stop: int) -> Inputs:
        """Return the inputs from ``start`` up to ``stop``."""
        return Inputs(self.x[start:stop], self.rows[start:stop], self.columns)

    def take(self, places: Sequence[int]) -> Inputs:
        """Return the inputs at ``places``, in that order."""
        rows = self.rows
        chosen = rows[list(places)] if isinstance(rows, np.ndarray) else [rows[each] for each in places]
        return Inputs(self.x[list(places)], chosen, self.columns)


@dataclass(frozen=True)
class Reply:
    """Answers (n, classes) float64 to one request, in order.

    ``identity``: what the target says of its model (name, version, id of the deployment), "" if nothing.
    ``digits``: the most significant digits that were shown. ``seconds``: from sending to the last byte.
    """

    answers: NDArray[np.float64]
    identity: str = ""
    digits: int = 0
    seconds: float = 0.0


class AttemptError(Exception):
    """A request brought no answers. The message is one sentence, without any secret and without the inputs.

    ``billed``: whether it was charged. ``action``: what to do. ``wait``: seconds that the target asks to
    wait, None if it does not say.
    """

    def __init__(self, message: str, *, billed: Billed, action: Action, wait: float | None = None) -> None:
        super().__init__(message)
        self.billed, self.action, self.wait = billed, action, wait


class Exchange(Protocol):
    """Sends requests to a target; safe to use from several threads."""

    def attempt(self, inputs: Inputs, *, account: str, idempotency: str) -> Reply:
        """Send one request, once; raises AttemptError, and nothing else, where it brings no answers.

        ``account``: one of the target's accounts, "" for none. ``idempotency``: a key that stays the same
        when the same request is sent again.
        """

    def close(self) -> None:
        """Close all connections."""
