"""Which answers of a defended victim carry a watermark: what its owner has to remember of each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UsageError
from bench.models.own_model import OwnModel
from bench.models.victims import Victim
from bench.serve.predictor import Mark
from defenses.base import Batch, DefenseStack

LEAST_KEY = 16
"""Bytes of the shortest secret key."""


@runtime_checkable
class Watermark(Protocol):
    """A fitted defense that gives some inputs wrong answers, by which a surrogate can be recognised."""

    def use_key(self, key: bytes) -> None:
        """Use this secret key instead of one that is derived from the seed."""

    def digests(self, batch: Batch) -> Sequence[bytes]:
        """Return a digest for each row, equal where two inputs count as the same."""

    def marks(self, batch: Batch) -> NDArray[np.int64]:
        """Return (n,) the wrong class of each row that is marked, -1 for the others.

        Without the key, it is each class but that of ``batch.raw`` with the same probability.
        """


def has_watermark(stack: DefenseStack) -> bool:
    """Return whether a defense of a stack is a watermark."""
    return any(isinstance(each.effective, Watermark) for each in stack.defenses)


def use_key(stack: DefenseStack, key: bytes) -> None:
    """Give the watermarks of a fitted stack a secret key.

    Raises UsageError where there is no watermark, or the key is short.
    """
    members = [each for each in (d.effective for d in stack.defenses) if isinstance(each, Watermark)]
    if not members:
        raise UsageError("a watermark key is given, and no defense is a watermark; leave it out")
    if len(key) < LEAST_KEY:
        raise UsageError(f"the watermark key has {len(key)} bytes; give at least {LEAST_KEY} random ones")
    for member in members:
        member.use_key(key)


def marks_given(
    victim: Victim, stack: DefenseStack, x: NDArray[np.float32], given: NDArray[np.floating]
) -> tuple[Mark, ...]:
    """Return the marks among the answers ``given`` (n, classes) to inputs (n, …) by a fitted stack.

    An answer counts where its only maximum is the wrong class: a defense behind the watermark may have
    changed or rejected it. The answers to a query are needed, not the query's place, client or seed.
    """
    members = [each for each in (d.effective for d in stack.defenses) if isinstance(each, Watermark)]
    if not members or not len(x):
        return ()
    raw = victim.probabilities(x)
    batch = Batch(inputs=x, raw=raw, probabilities=raw, read_features=victim.reader())
    rows = np.nan_to_num(given, nan=-1)
    top, single = rows.argmax(axis=1), (rows == rows.max(axis=1, keepdims=True)).sum(axis=1) == 1
    found = []
    for member in members:
        marks = member.marks(batch)
        shown = np.flatnonzero((marks >= 0) & (marks == top) & single)
        digests = member.digests(batch) if len(shown) else ()
        found += [
            Mark(row, digests[row], int(marks[row]), int(raw[row].argmax()), as_given(victim, x[row]))
            for row in shown.tolist()
        ]
    return tuple(found)


def as_given(victim: Victim, row: NDArray[np.float32]) -> list[Any]:
    """Return an input (…) as the model is given it, in lists: of a table with its texts, None for a gap."""
    given = victim.model.given(row[None]) if isinstance(victim.model, OwnModel) else row[None]
    if isinstance(given, pd.DataFrame):
        return [None if pd.isna(value) else _plain(value) for value in given.iloc[0].tolist()]
    values: list[Any] = given[0].tolist()
    return [None if value is None or value != value else value for value in values]  # noqa: PLR0124  # NaN


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
