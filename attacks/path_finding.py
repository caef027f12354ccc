"""Path finding: the leaves of a decision tree, found by changing one value of an input at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

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
from bench.inputs import InputSpace
from bench.seeds import derive, random_state

DECIMALS = 9
"""Digits by which two answers are compared; those of one leaf are equal."""
STEPS = 14
"""Bisections of a range of numbers that are not whole, which finds a threshold within 1 / 16,384 of it."""
CHECKS = 4
"""Random inputs of a new leaf that are queried to see whether it is one."""
TRIALS = 5
"""Leaves after which path finding ends if most of them turned out to be none."""
TOGETHER = 64
"""Inputs that are sent at a time where no leaf is explored."""
ROUNDS = 32
"""Most bisections: enough for the whole numbers that single precision has."""


class PathFinding(Extraction):
    """Finds the leaves of a decision tree, whose answers name the leaf that an input reaches.

    From an input of the pool, each value is changed alone. A number is moved to both ends of its range, and
    where the answer changes, the threshold is bisected; of a category, every other value is tried, and a
    missing one where that is allowed. A leaf of a tree is a product of such ranges, so they describe it. The
    next input is one that lies in no leaf so far. The surrogate answers as the leaf of an input does.

    This is the bottom-up search of the paper: it sends whole inputs. The top-down one needs an API that
    answers a query with missing values by the node where its path ends, and none here does.

    Where answers do not tell leaves apart (rounded, noisy, labels alone), the ranges describe nothing: random
    inputs of a new leaf show that. Then the rest of the budget goes to random inputs of the pool. Wherever no
    leaf, or more than one, holds an input, a regression tree that is fitted to all answers decides.

    Facts: ``leaves``, the number of leaves found.
    """

    name = "path_finding"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 4.2"
    makes_inputs = True

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where the victim is known to be no decision tree."""
        if target.tree is False:
            return "the victim is no decision tree, so its answers name no leaves"
        return ""

    def supply(self, size: int) -> int | None:
        """Return None: it makes inputs."""
        return None

    def round_trips(self, budget: int) -> int:
        """Return the budget: a bisection asks one input at a time."""
        return budget

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget, leaf by leaf from random inputs of the pool, then of the space."""
        search = _Search(api, np.random.default_rng(derive(seeds.choices, "checks")))
        inputs = pool.x[random_state(seeds.order).permutation(len(pool.x))]
        search.go_through(inputs)
        uniform = np.random.default_rng(derive(seeds.choices, "uniform"))
        while search.left:
            inputs = api.inputs.uniform(TOGETHER, uniform)
            search.ask(inputs)
            search.go_through(inputs, known=True)
        x, y = search.answered()
        leaves = search.leaves if search.identifiable else []
        surrogate = Leaves(leaves, *fitted(x, y, api.inputs))
        return TransferSet(x, y.astype(np.float32), surrogate=surrogate, facts={"leaves": float(len(leaves))})


@dataclass(frozen=True)
class Leaf:
    """A product of ranges, and the answer there.

    ``low``, ``high``: (values,) of those that are numbers, both included. ``allowed``: for each category, by
    its place, the values that belong to the leaf; ``missing``: (values,), whether a missing value does.
    """

    low: Array
    high: Array
    allowed: dict[int, NDArray[np.bool_]]
    missing: NDArray[np.bool_]
    answer: Array

    def holds(self, x: Images) -> NDArray[np.bool_]:
        """Return which of the inputs (n, …) are in the leaf, (n,)."""
        flat = x.reshape(len(x), -1)
        gone = np.isnan(flat)
        inside = np.where(gone, self.missing, (flat >= self.low) & (flat <= self.high))
        for place, values in self.allowed.items():
            here = np.clip(np.nan_to_num(flat[:, place]), 0, len(values) - 1).astype(np.int64)
            inside[:, place] = np.where(gone[:, place], self.missing[place], values[here])
        return np.asarray(inside.all(axis=1))


@dataclass(frozen=True)
class Leaves:
    """A surrogate: the answer of the leaf that holds an input; of ``other`` where none or several do."""

    leaves: Sequence[Leaf]
    other: Callable[[Images], Array]
    classes: int

    def __call__(self, inputs: Images) -> Array:
        """Return (n, classes) probabilities for inputs (n, …)."""
        answers = self.other(inputs)
        held = np.zeros(len(inputs), np.int64)
        for leaf in self.leaves:
            here = leaf.holds(inputs)
            answers[here & (held == 0)] = leaf.answer
            held += here
        several = held > 1
        if several.any():
            answers[several] = self.other(inputs[several])
        return _normalised(answers)


class _Search:
    """The queries so far, and how leaves are explored."""

    def __init__(self, api: Api, rng: np.random.Generator) -> None:
        self.api, self.rng, self.space = api, rng, api.inputs
        self.left = api.budget
        self.leaves: list[Leaf] = []
        self.failed = 0
        self._sent: list[tuple[Images, Array]] = []
        low, high = (np.broadcast_to(limit, self.space.shape).ravel() for limit in self.space.limits)
        self.low, self.high = low.astype(np.float64), high.astype(np.float64)
        columns = self.space.columns
        self.categories = [place for place, column in enumerate(columns) if column.kind == "category"]
        numbers = np.setdiff1d(np.arange(self.space.size), self.categories)
        self.numbers = numbers[self.high[numbers] > self.low[numbers]]
        self.whole = self.space.whole if columns else np.zeros(self.space.size, bool)
        self.optional = np.flatnonzero(self.space.missing) if columns else np.zeros(0, np.int64)

    def ask(self, x: Images) -> Array:
        """Return answers (m, classes), of as many of the inputs (n, …) as the budget allows."""
        x = np.ascontiguousarray(x[: self.left], dtype=np.float32)
        if not len(x):
            return np.zeros((0, self.api.nb_classes))
        answers = np.asarray(self.api.predict(x), dtype=np.float64)
        self.left -= len(x)
        self._sent.append((x, answers))
        return answers

    def answered(self) -> tuple[Images, Array]:
        """Return all inputs (n, …) that were answered, in order, with the answers (n, classes)."""
        none = (np.zeros((0, *self.space.shape), np.float32), np.zeros((0, self.api.nb_classes)))
        x, y = (np.concatenate(each) for each in zip(none, *self._sent, strict=True))
        kept = np.isfinite(y).all(axis=1)
        return x[kept], y[kept]

    @property
    def identifiable(self) -> bool:
        """Whether answers have told leaves apart so far."""
        return 2 * self.failed <= max(TRIALS, len(self.leaves) + self.failed)

    def go_through(self, inputs: Images, *, known: bool = False) -> None:
        """Explore the leaves of inputs (n, …), in order, that lie in none so far.

        Where answers do not tell leaves apart, the inputs are sent as they are, unless their answers are
        ``known``.
        """
        free = np.ones(len(inputs), dtype=bool)
        for leaf in self.leaves:
            free &= ~leaf.holds(inputs)
        place = 0
        while self.left and place < len(inputs):
            if self.identifiable:
                if free[place]:
                    found = self.explore(inputs[place])
                    if found is None:
                        self.failed += 1
                    else:
                        self.leaves.append(found)
                        free &= ~found.holds(inputs)
                place += 1
            elif known:
                break
            else:
                self.ask(inputs[place : place + TOGETHER])
                place += TOGETHER

    def explore(self, start: Images) -> Leaf | None:
        """Return the leaf of an input (…); None if its answers name none.

        Where the budget ends before, it is the part of the leaf that was seen.
        """
        flat = start.reshape(-1).copy()
        unknown = self.numbers[np.isnan(flat[self.numbers])]  # a number is needed to find thresholds from
        flat[unknown] = ((self.low + self.high) / 2)[unknown]
        start = self.space.project(flat.reshape(1, *start.shape))[0]
        answer = self.ask(start[None])
        if not len(answer) or not np.isfinite(answer).all():
            return None
        same = _sameness(answer[0])
        values = start.reshape(-1).astype(np.float64)
        missing = np.isnan(values)
        missing[self.optional] |= self._changed(start, self.optional, np.nan, same)
        allowed: dict[int, NDArray[np.bool_]] = {}
        for place in map(int, self.categories):
            kept = np.zeros(round(self.high[place]) + 1, dtype=bool)
            others = np.setdiff1d(np.arange(len(kept)), [] if np.isnan(values[place]) else [values[place]])
            kept[others] = self._changed(start, np.full(len(others), place), others, same)
            if not np.isnan(values[place]):
                kept[int(values[place])] = True
            allowed[place] = kept
        low, high = self.low.copy(), self.high.copy()
        low[self.numbers], high[self.numbers] = self._thresholds(start, self.numbers, same)
        leaf = Leaf(low, high, allowed, missing, answer[0])
        return leaf if same(self.ask(self._inside(leaf))).all() else None

    def _changed(
        self, start: Images, places: NDArray[np.int64], values: Array | float, same: _Same
    ) -> NDArray[np.bool_]:
        """Return for each place (m,) whether the answer stays when only that value of ``start`` changes."""
        x = np.tile(start.reshape(-1), (len(places), 1))
        x[np.arange(len(places)), places] = values
        answers = self.ask(x.reshape(len(places), *start.shape))
        kept = np.zeros(len(places), dtype=bool)
        kept[: len(answers)] = same(answers)
        return kept

    def _thresholds(self, start: Images, places: NDArray[np.int64], same: _Same) -> tuple[Array, Array]:
        """Return the smallest and the largest value of each number (m,) at which the answer stays.

        All of them are bisected together; what the budget does not reach stays at the value of ``start``.
        """
        here = start.reshape(-1).astype(np.float64)[places]
        inner = np.concatenate([here, here])  # the answer stays
        outer = np.concatenate([self.low[places], self.high[places]])
        both = np.concatenate([places, places])
        open_ = inner != outer
        kept = np.zeros(len(both), dtype=bool)
        kept[open_] = self._changed(start, both[open_], outer[open_], same)
        inner = np.where(kept, outer, inner)
        whole = self.whole[both]
        least = np.where(whole, 1.0, (self.high - self.low)[both] / 2**STEPS)
        for _ in range(ROUNDS):
            open_ = np.abs(outer - inner) > least * (1 + 1e-9)
            if not open_.any() or not self.left:
                break
            middle = (inner + outer)[open_] / 2
            middle = np.where(whole[open_], np.trunc(middle), middle).astype(np.float32).astype(np.float64)
            stays = self._changed(start, both[open_], middle, same)
            inner[open_] = np.where(stays, middle, inner[open_])
            outer[open_] = np.where(stays, outer[open_], middle)
        # Between two numbers that are not whole, the threshold lies in the middle of what is left.
        close = ~whole & (np.abs(outer - inner) <= least * (1 + 1e-9))
        edge = np.where(close, (inner + outer) / 2, inner)
        return edge[: len(places)], edge[len(places) :]

    def _inside(self, leaf: Leaf) -> Images:
        """Return :data:`CHECKS` random inputs of a leaf; a number keeps a little away from thresholds."""
        share = self.rng.uniform(0.02, 0.98, (CHECKS, len(leaf.low)))
        x = leaf.low + share * (leaf.high - leaf.low)
        x = np.where(self.whole, np.round(x), x)
        for place, values in leaf.allowed.items():
            named = np.flatnonzero(values)
            x[:, place] = self.rng.choice(named, CHECKS) if len(named) else np.nan
        return x.reshape(CHECKS, *self.space.shape).astype(np.float32)


_Same = Callable[[Array], NDArray[np.bool_]]
"""From answers (n, classes) to whether each is that of the leaf, (n,)."""


def _sameness(answer: Array) -> _Same:
    def same(answers: Array) -> NDArray[np.bool_]:
        return np.asarray((np.round(answers - answer, DECIMALS) == 0).all(axis=1))

    return same


def fitted(x: Images, y: Array, space: InputSpace) -> tuple[Callable[[Images], Array], int]:
    """Return a regression tree fitted to answers (n, classes), as a function, and the number of classes."""
    classes = y.shape[1]
    if not len(x):
        return (lambda inputs: np.full((len(inputs), classes), 1 / classes)), classes
    tree = DecisionTreeRegressor(random_state=0).fit(_plain(x, space), y)

    def answer(inputs: Images) -> Array:
        if not len(inputs):
            return np.zeros((0, classes))
        return np.array(tree.predict(_plain(inputs, space)), dtype=np.float64).reshape(len(inputs), classes)

    return answer, classes


def _plain(x: Images, space: InputSpace) -> Array:
    """Return inputs (n, …) as (n, values), a missing value as one below the range."""
    low, high = (np.broadcast_to(limit, space.shape).ravel() for limit in space.limits)
    flat = x.reshape(len(x), -1)
    return np.where(np.isnan(flat), low - np.maximum(high - low, 1), flat).astype(np.float64)


def _normalised(answers: Array) -> Array:
    """Return answers (n, classes) as distributions; uniform where nothing is above 0."""
    positive = np.maximum(answers, 0.0)
    total = positive.sum(axis=1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1.0), 1.0 / answers.shape[1])
