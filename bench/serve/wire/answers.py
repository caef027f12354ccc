"""What the protocols share: which output is shown, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bench.serve.predictor import Answer, Predictor
from bench.serve.wire.strict_json import BadRequestError


def shown_output(name: Any, predictor: Predictor) -> Literal["probabilities", "labels"] | None:
    """Return the output that a client asks for by its name, None for none.

    Raises BadRequestError for an output that is not shown, whether or not there is one of this name.
    """
    if name is None:
        return None
    outputs = predictor.outputs
    if isinstance(name, str) and name == outputs.labels:
        return "labels"
    if isinstance(name, str) and name == outputs.probabilities and predictor.shows == "probabilities":
        return "probabilities"
    raise BadRequestError("there is no such output; the model's metadata name those that are shown")


def labels(answer: Answer, classes: Sequence[str]) -> list[str | None]:
    """Return the name of the top-1 (the first maximum) of each answer; None where it was rejected."""
    rejected = np.asarray(np.isnan(answer.probabilities).any(axis=1))
    places = np.nan_to_num(answer.probabilities, nan=-1.0).argmax(axis=1)
    pairs = zip(places.tolist(), rejected.tolist(), strict=True)
    return [None if lost else classes[place] for place, lost in pairs]


def row_or_null(row: list[float]) -> list[float] | None:
    """Return a row of probabilities, None where it is NaN."""
    return None if row and row[0] != row[0] else row  # NaN is what differs from itself
