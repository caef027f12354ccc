"""A victim with its defenses behind a server: from what clients send to what they may see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Column, InputSpace
from bench.models.defended_api import DefendedAPI
from bench.models.determinism import single_thread
from bench.models.own_model import OwnModel
from bench.models.victims import Victim
from bench.models.watermarks import marks_given
from bench.serve.predictor import Answer, Outputs, Query, RejectedInputsError
from defenses.base import DefenseStack

Array = NDArray[np.float32]


class ServedVictim:
    """Answers as the victim's defended API does in a matrix, whatever the route.

    ``seed``: base of the defenses' noise; whoever knows it knows the noise. The model is asked in one thread,
    one query after the other.
    """

    def __init__(
        self,
        victim: Victim,
        stack: DefenseStack,
        *,
        name: str,
        version: str,
        shows: Literal["probabilities", "labels"],
        seed: int,
    ) -> None:
        self._victim, self._stack = victim, stack
        self._api = DefendedAPI(victim, stack, budget=None, seed=seed, shows=shows)
        self._space, self._model = victim.inputs, victim.model if isinstance(victim.model, OwnModel) else None
        self._values = _category_values(self._space, self._model)
        self.name, self.version, self.shows, self.outputs = name, version, shows, Outputs()
        self.classes = victim.class_names or tuple(str(number) for number in range(victim.classes))
        self.columns = tuple(each.name for each in self._space.columns)
        self.shape = self._shape()
        self._rules = ExitStack()
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="model",
            # Once, and not for each query: it takes as long as a small model.
            initializer=lambda: self._rules.enter_context(single_thread()),
        )

    def _shape(self) -> tuple[int, ...]:
        """Return the shape of one input as clients send it: that of the user's file."""
        if self._model is None or self.columns:
            return self._space.shape
        shape = self._model.data.array(np.zeros((1, *self._space.shape), np.float32)).shape[1:]
        return tuple(int(axis) for axis in shape)

    def accepted(self, query: Query) -> Query:
        """Return the query with inputs (n, …) float32 of the victim's space; raises RejectedInputsError."""
        x = self._inputs(query.rows) if isinstance(query.rows, np.ndarray) else self._encoded(query.rows)
        if problem := self._space.problem(x):
            raise RejectedInputsError(_without_values(problem, self.columns))
        return Query(x, query.output, query.id)

    def _inputs(self, rows: NDArray[Any]) -> Array:
        """Return numbers as the victim takes them, from the axes and the range of the user's file."""
        data = None if self._model is None else self._model.data
        if data is not None and not self.columns:
            if data.channels == "last":
                rows = np.moveaxis(rows, -1, 1)
            rows = rows.reshape(len(rows), *self._space.shape)
            if data.scale != 1:
                rows = rows.astype(np.float32) / np.float32(data.scale)
        return np.ascontiguousarray(rows, dtype=np.float32).reshape(len(rows), *self._space.shape)

    def _encoded(self, rows: Sequence[Sequence[Any]]) -> Array:
        """Return rows of a table as numbers: a category's number, 0 or 1 for a boolean, NaN for a gap."""
        x = np.empty((len(rows), len(self.columns)), dtype=np.float32)
        for place, (column, values) in enumerate(zip(self._space.columns, self._values, strict=True)):
            x[:, place] = [_number(row[place], column, values) for row in rows]
        return x

    async def answer(self, query: Query, client: str, number: int | None = None) -> Answer:
        """Return what the defended API answers; see :class:`bench.serve.predictor.Predictor`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._answered, np.asarray(query.rows), client, number
        )

    def _answered(self, x: Array, client: str, number: int | None) -> Answer:
        answers = self._api.query(x, client, number=number)
        marks = marks_given(self._victim, self._stack, x, answers.probabilities)
        return Answer(answers.probabilities, answers.flagged, marks)

    async def ready(self) -> bool:
        """Return True: a victim is loaded before the server listens."""
        return True

    def close(self) -> None:
        """End the thread once the last query is answered."""
        self._thread.submit(self._rules.close)
        self._thread.shutdown()


def _category_values(space: InputSpace, model: OwnModel | None) -> list[dict[Any, int]]:
    """Return the number of each category by what the file has for it, a dictionary a column."""
    if model is not None and model.data.table:
        return [{value: place for place, value in enumerate(each.values)} for each in model.data.table]
    return [{value: place for place, value in enumerate(each.categories)} for each in space.columns]


def _number(value: Any, column: Column, categories: dict[Any, int]) -> float:
    if value is None:
        return float("nan")
    if column.kind == "category":
        if not isinstance(value, bool) and value in categories:
            return categories[value]
        raise RejectedInputsError(f"column {column.name!r} has to hold one of its categories")
    if isinstance(value, str) or (isinstance(value, bool) and column.kind != "boolean"):
        raise RejectedInputsError(f"column {column.name!r} has to hold numbers")
    try:
        return float(np.float32(value)) if abs(value) < 3e38 else float("inf")
    except OverflowError:
        return float("inf")


def _without_values(problem: str, columns: Sequence[str]) -> str:
    """Return what is wrong with inputs without any number of theirs."""
    what = problem.partition(", got")[0]
    named = next((name for name in columns if repr(name) in problem), None)
    where = f" in column {named!r}" if named is not None and repr(named) not in what else ""
    return f"inputs {what}{where}"
