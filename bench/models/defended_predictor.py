"""Defenses in front of a predictor that is not here: those that need nothing but answers and inputs."""

from __future__ import annotations

from collections import defaultdict
from functools import cache, partial
from typing import Literal

import numpy as np

from bench.models.benign_inputs import BenignInputs, fit_to_inputs
from bench.models.checked_stack import CheckedStack
from bench.models.defended_api import one_hot_labels
from bench.seeds import derive
from bench.serve.predictor import Answer, Predictor, Query
from bench.serve.upstream import as_numbers
from defenses.base import Batch, DefenseStack


class DefendedPredictor:
    """Changes the answers of ``inner`` by a stack of defenses.

    ``seed``: base of their noise. ``shows``: the most that clients see, of what ``inner`` shows. ``benign``:
    what detectors of inputs are fitted on; None where there is none. Raises UsageError for any other defense
    that has to be fitted: that needs the model and its data.
    """

    def __init__(
        self,
        inner: Predictor,
        stack: DefenseStack,
        *,
        seed: int,
        shows: Literal["probabilities", "labels"],
        benign: BenignInputs | None = None,
    ) -> None:
        fit_to_inputs(stack, benign, len(inner.classes))
        self._encoded = as_numbers if benign is None else benign.encoded
        self._inner, self._stack = inner, CheckedStack(stack, seed)
        self._seed_of = cache(partial(derive, seed))
        self._numbers: dict[str, int] = defaultdict(int)
        self.name, self.version, self.classes = inner.name, inner.version, inner.classes
        self.shape, self.columns, self.outputs = inner.shape, inner.columns, inner.outputs
        self.shows: Literal["probabilities", "labels"] = "labels" if inner.shows == "labels" else shows

    def accepted(self, query: Query) -> Query:
        """Return the query as ``inner`` takes it."""
        return self._inner.accepted(query)

    async def answer(self, query: Query, client: str, number: int | None = None) -> Answer:
        """Return the answer after all defenses; raises what ``inner`` does."""
        if number is None:
            number = self._numbers[client]
            self._numbers[client] += len(query)
        given = await self._inner.answer(query, client, number)
        raw = given.probabilities.astype(np.float64)
        batch = Batch(
            inputs=self._encoded(query.rows),
            raw=raw,
            probabilities=raw,
            client=client,
            number=number,
            seed=self._seed_of(client),
        )
        answers = self._stack.answer(batch)
        shown = answers.probabilities
        return Answer(
            one_hot_labels(shown) if self.shows == "labels" else shown, given.flagged | answers.flagged
        )

    async def ready(self) -> bool:
        """Return whether ``inner`` is ready."""
        return await self._inner.ready()

    def close(self) -> None:
        """Close ``inner``, where it can be."""
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()
