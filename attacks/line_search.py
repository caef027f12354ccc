"""Line search: the boundary of a linear victim of a table, solved for by its labels alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    RandomSeeds,
    SurrogateFactory,
    Target,
    TransferSet,
)
from attacks.equation_solving import LinearModel, explain, least_squares
from bench.encoding import Encoding
from bench.inputs import InputSpace
from bench.seeds import random_state

TOGETHER = 8
"""Lines that are searched together."""
STEPS = 17
"""Bisections along a line of numbers that are not whole."""
ROUNDS = 32
"""Most bisections: enough for the whole numbers that single precision has."""
FEW = 10
"""With fewer equations, a softmax is fitted to the labels instead."""
SPREAD = 2.0
"""Standard deviation of the surrogate's log-odds, in nats: labels do not say how sure a victim is."""


class LineSearch(Extraction):
    """Solves for the boundary of a victim of two classes whose log-odds are linear, by its labels alone.

    Takes an input of the pool, and moves one column, always the same, from one end of its range to the other.
    If the label changes, bisection finds the value at which it does. There the log-odds are 0: an equation in
    the weights of all other columns relative to that one. As many inputs as there are weights give the
    boundary, whatever the API keeps of its probabilities. The column is that of most values whose ends have
    different labels.

    Without such a column, and with few equations, a softmax is fitted to the labels of all queries, which are
    then those of random inputs of the pool (:func:`attacks.equation_solving.explain`).

    Facts: ``equations``, how many were found.
    """

    name = "line_search"
    paper = "Lowd and Meek 2005, Adversarial Learning, KDD, doi:10.1145/1081870.1081950"
    makes_inputs = True

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not: for other than tables, for more classes, and where the victim is not linear."""
        if target.linear is False:
            return "the victim's log-odds are not linear in its input, so its boundary is not flat"
        if target.layout != "table":
            return "it moves one column of a table, and no single value of other inputs changes the label"
        if target.classes != 2:
            return f"the victim has {target.classes} classes, and it finds the boundary between two"
        return ""

    def round_trips(self, budget: int) -> int:
        """Return the budget, as an upper bound: a bisection asks one input of each line at a time."""
        return budget

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on lines through random inputs of the pool, drawn without replacement."""
        inputs = pool.x[random_state(seeds.order).permutation(len(pool.x))]
        search = _Search(api)
        columns, starts = rulers(api.inputs), iter(range(0, len(inputs), TOGETHER))
        for start in starts:
            lines = inputs[start : start + TOGETHER]
            while columns and not search.along(columns[0], lines) and not search.equations:
                columns = columns[1:]  # no label changed along it
            if not columns:
                search.ask(lines)
            if not search.left:
                break
        while search.left:
            search.ask(
                inputs[: search.left] if len(inputs) else api.inputs.uniform(1, np.random.default_rng(0))
            )
        x, labels = search.answered()
        y = np.eye(api.nb_classes)[labels]
        surrogate = search.solution(pool.x) if search.equations >= FEW else None
        if surrogate is None and len(x):
            encoding = Encoding.fit(api.inputs, x)
            surrogate = replace(explain(encoding.flat(x), y), encoding=encoding)
        facts = {"equations": float(search.equations)}
        return TransferSet(x, y.astype(np.float32), surrogate=surrogate or _uniform(api), facts=facts)


def rulers(space: InputSpace) -> list[int]:
    """Return the columns of numbers that are never missing, the one with most values first."""
    low, high = (np.broadcast_to(limit, space.shape).ravel() for limit in space.limits)
    steps = {
        place: high[place] - low[place] if column.whole else 2.0**STEPS
        for place, column in enumerate(space.columns)
        if column.kind in ("number", "integer") and not column.missing and high[place] > low[place]
    }
    return sorted(steps, key=lambda place: -steps[place])


def _uniform(api: Api) -> LinearModel:
    encoding = Encoding.fit(api.inputs, np.zeros((0, *api.inputs.shape), np.float32))
    width = int(np.prod(encoding.shape))
    return LinearModel(np.zeros((width, api.nb_classes)), np.zeros(api.nb_classes), encoding)


class _Search:
    """The queries so far with their labels, and the equations found."""

    def __init__(self, api: Api) -> None:
        self.api, self.space, self.left = api, api.inputs, api.budget
        self._x = [np.zeros((0, *self.space.shape), np.float32)]
        self._labels = [np.zeros(0, np.int64)]
        self._column = 0
        self._lines: list[Images] = []
        self._values: list[Array] = []
        self._upper: list[NDArray[np.int64]] = []

    @property
    def equations(self) -> int:
        """Number of lines on which the label changed."""
        return sum(map(len, self._values))

    def ask(self, x: Images) -> NDArray[np.int64]:
        """Return labels (n,) of the inputs (n, …); -1 where a query is rejected or beyond the budget."""
        labels = np.full(len(x), -1)
        sent = np.ascontiguousarray(x[: self.left], dtype=np.float32)
        if len(sent):
            answers = np.asarray(self.api.predict(sent))
            answered = np.isfinite(answers).all(axis=1)
            labels[: len(sent)] = np.where(answered, np.nan_to_num(answers).argmax(axis=1), -1)
            self.left -= len(sent)
            self._x.append(sent[answered])
            self._labels.append(labels[: len(sent)][answered])
        return labels

    def answered(self) -> tuple[Images, NDArray[np.int64]]:
        """Return all inputs (n, …) that were answered, in order, and their labels (n,)."""
        return np.concatenate(self._x), np.concatenate(self._labels)

    def along(self, column: int, lines: Images) -> int:
        """Search along a column through inputs (n, columns); return on how many the label changes."""
        settings = self.space.columns[column]
        low, high = np.full(len(lines), settings.low), np.full(len(lines), settings.high)
        ends = self.ask(np.concatenate([_at(lines, column, low), _at(lines, column, high)]))
        lower, upper = ends[: len(lines)], ends[len(lines) :]
        there = (lower >= 0) & (upper >= 0) & (lower != upper)
        lines, low, high, upper = lines[there], low[there], high[there], upper[there]
        least = 1.0 if settings.whole else (settings.high - settings.low) / 2**STEPS
        for _ in range(ROUNDS):
            wide = high - low > least * (1 + 1e-9)
            if not wide.any():
                break
            middle = (low + high) / 2
            middle = np.where(wide, np.floor(middle) if settings.whole else middle, high)
            labels = np.full(len(lines), -1)
            labels[wide] = self.ask(_at(lines[wide], column, middle[wide]))
            high = np.where(wide & (labels == upper), middle, high)
            low = np.where(wide & (labels >= 0) & (labels != upper), middle, low)
            if not self.left or (labels[wide] < 0).any():
                break
        done = high - low <= least * (1 + 1e-9)
        self._column = column
        self._lines.append(lines[done])
        self._values.append(((low + high) / 2)[done])
        self._upper.append(upper[done])
        return int(there.sum())

    def solution(self, pool: Images) -> LinearModel:
        """Return the model whose boundary fits the equations best, by least squares; of minimal norm."""
        lines, values = np.concatenate(self._lines), np.concatenate(self._values)
        upper = np.bincount(np.concatenate(self._upper), minlength=2).argmax()
        encoding = Encoding.fit(self.space, pool)
        place = sum(encoding.widths[: self._column])
        rest = encoding.flat(lines)
        rest[:, place] = 0.0
        standard = (values - encoding.mean[self._column]) / encoding.deviation[self._column]
        solved = least_squares(rest, standard[:, None])
        # Above the value that the equations predict, the label is the upper one.
        weights = -solved.weights[:, 0]
        weights[place] = 1.0
        score = encoding.flat(pool) @ weights - solved.bias[0]
        scale = SPREAD / max(float(score.std()), 1e-12) * (1 if upper else -1) / 2
        return LinearModel(
            np.column_stack([-scale * weights, scale * weights]),
            np.array([scale * solved.bias[0], -scale * solved.bias[0]]),
            encoding,
        )


def _at(lines: Images, column: int, values: Array) -> Images:
    """Return inputs (n, columns) with other values (n,) in one column."""
    x = lines.copy()
    x[:, column] = values
    return x
