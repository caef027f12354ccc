"""What answers a request once all controls let it pass: a victim with its defenses, or another server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outputs:
    """Names of the tensors of an answer."""

    probabilities: str = "probabilities"
    labels: str = "labels"


@dataclass(frozen=True)
class Query:
    """Inputs of one request, as they were parsed and counted.

    ``rows``: n inputs: an array (n, …) of numbers, or n lists of the values of a table with texts and gaps
    (None). ``output``: what the client asked for; None for what the server shows. ``id``: the client's word
    for the request, returned with the answer; "" if none.
    """

    rows: NDArray[Any] | Sequence[Sequence[Any]]
    output: Literal["probabilities", "labels"] | None = None
    id: str = ""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Mark:
    """A wrong answer by which a surrogate can be recognised: to input ``row`` of a query.

    ``digest``: equal for inputs that count as the same. ``label``: the class that was answered;
    ``victim_label``: the one that the model has. Both are places among the classes. ``input``: as the model
    is given it: numbers, texts and None in lists.
    """

    row: int
    digest: bytes
    label: int
    victim_label: int
    input: Sequence[Any] = field(default=(), repr=False)


@dataclass(frozen=True)
class Answer:
    """What a client may see of one query, the same on every route.

    ``probabilities``: (n, classes) float64 in [0, 1], one-hot where only labels are shown; rows of NaN are
    rejected inputs. ``flagged``: (n,) bool, inputs that a detector of the defense takes for an attack's.
    ``marks``: wrong answers that a watermark gave, which the server has to remember.
    """

    probabilities: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    marks: tuple[Mark, ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)


class RejectedInputsError(Exception):
    """Inputs do not fit the model (width, type, range); the message is one sentence without any value."""


class UpstreamError(Exception):
    """The server behind a guard gave no usable answer; its inputs stay counted."""


class Predictor(Protocol):
    """Answers queries. ``name`` and ``version`` of the model; ``classes``: their names, in order.

    ``shape``: of one input, as clients send it; ``columns``: names of a table's columns, else ().
    ``shows``: the most that any client gets. ``outputs``: how the protocol names the answer's tensors.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    shows: Literal["probabilities", "labels"]
    outputs: Outputs

    def accepted(self, query: Query) -> Query:
        """Return the query with rows as :meth:`answer` takes them; raises RejectedInputsError.

        It is asked before the inputs are counted, and the number of inputs stays the same.
        """

    async def answer(self, query: Query, client: str, number: int | None = None) -> Answer:
        """Return the answer to an accepted query; raises RejectedInputsError or UpstreamError.

        ``client``: the account, which defenses that depend on the client know it by. ``number``: how many
        inputs this client sent before; None: the predictor counts them itself.
        """

    async def ready(self) -> bool:
        """Return whether a query would be answered now."""
