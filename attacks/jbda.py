"""Jacobian-based dataset augmentation: earlier queries are moved along a surrogate's gradients and sent."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    RandomSeeds,
    Surrogate,
    SurrogateFactory,
    Target,
    TransferSet,
)
from bench.inputs import InputSpace
from bench.seeds import random_state

STUDENT_STEPS = 500
"""Optimizer steps of an interim surrogate, whose gradients make queries."""
BATCH = 64
NEAREST = 3
"""Classes that each input is moved to with ``targets=top3``."""


class Jbda(Extraction):
    """Multiplies its queries in each round: answered inputs are moved towards a class and sent.

    The Jacobian-based augmentation of Papernot et al. 2017 ("Practical Black-Box Attacks against
    Machine Learning", arXiv 1602.02697, section 4.2), with the iterative fast gradient signs of Juuti et
    al. 2019: ``x <- clip(x - step * sign(gradient of the cross-entropy with a class))``, clipped to the
    range of inputs, by the gradients of a surrogate that is trained anew before each round. Meant for an
    attacker who owns few inputs; with a large pool it is better to send the pool.

    ``targets``: the class. "random": one of the others, drawn anew for each input and round (T-RND). "top3":
    each of the three others that the surrogate finds likeliest (fewer with few classes), a query each, the
    nearest ones of all inputs first; called JB-top3 by Orekondy et al. 2020 (arXiv 1906.10908). "self": the
    answered class itself, so that queries become more typical of it (JB-self).

    ``seeds``: inputs of the pool to start from, part of the budget. Rejected ones are replaced from
    the pool while it lasts, and are not augmented. ``step``: change of a pixel in each of ``steps``
    steps, as a share of its range. Rounds do not depend on the budget: the queries of a smaller one are the
    first of a larger one.

    ``use_probability``: learn from whole answers; else from their top-1 alone.
    """

    name = "jbda"
    paper = "Juuti et al. 2019, arXiv 1805.02628, section III (T-RND); Orekondy et al. 2020, arXiv 1906.10908"

    makes_inputs = True

    def __init__(
        self,
        *,
        targets: Literal["random", "top3", "self"] = "random",
        seeds: Annotated[int, Field(ge=1)] = 50,
        step: Annotated[float, Field(gt=0, le=1)] = 0.05,
        steps: Annotated[int, Field(ge=1, le=100)] = 5,
        use_probability: bool = False,
    ) -> None:
        self.targets = targets
        self.seeds = seeds
        self.step = step
        self.steps = steps
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, for tables, and where the pool has too few inputs to start from."""
        if target.layout == "table":
            return "it moves inputs along gradients, which categories and whole numbers do not have"
        if len(pool.x) < self.seeds:
            return f"seeds={self.seeds}: pool {pool.name!r} has {len(pool.x)} inputs to start from"
        return ""

    def supply(self, size: int) -> int | None:
        """Return None: it makes its own inputs."""
        return None

    def round_trips(self, budget: int) -> int:
        """Return the rounds, each of which doubles the queries or more: how much depends on the classes."""
        return min(1, budget) + max(0, math.ceil(math.log2(max(1, budget) / self.seeds)))

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget; raises NotApplicable for a surrogate that cannot learn by steps."""
        surrogate, seen = surrogates(), 0
        order = random_state(seeds.order).permutation(len(pool.x))
        choices = random_state(seeds.choices)
        x, y = pool.x[:0], np.zeros((0, api.nb_classes))
        sent = tried = 0
        while sent < api.budget and len(order):
            missing = self.seeds - len(x)
            if not len(x) and tried >= len(order):
                tried = 0  # everything was rejected; the pool can only be queried again
            if missing > 0 and tried < len(order):
                queries = pool.x[order[tried : tried + missing]]
                tried += len(queries)
            else:
                if len(x) > seen:
                    surrogate, seen = train(surrogates(), x, y, choices), len(x)
                queries = np.concatenate(
                    [
                        self.moved(surrogate, x, towards, api.inputs)
                        for towards in self.towards(surrogate, x, y, choices)
                    ]
                )
            queries = queries[: api.budget - sent]
            answers = api.predict(queries)
            sent += len(queries)
            answered = np.isfinite(answers).all(axis=1)
            targets = answers[answered]
            if not self.use_probability:
                targets = np.eye(api.nb_classes)[targets.argmax(axis=1)]
            x, y = np.concatenate([x, queries[answered]]), np.concatenate([y, targets])
        return TransferSet(np.ascontiguousarray(x), y.astype(np.float32))

    def towards(
        self, surrogate: Surrogate, x: Images, y: Array, choices: np.random.RandomState
    ) -> list[Array]:
        """Return the classes that inputs (n, …) with answers (n, classes) are moved to, one-hot.

        One array (n, classes) for each query that is made of an input.
        """
        if self.targets == "random":
            return [other_classes(y, choices)]
        if self.targets == "self":
            return [np.eye(y.shape[1])[y.argmax(axis=1)]]
        return nearest_classes(surrogate.logits(x), y)

    def moved(self, surrogate: Surrogate, x: Images, targets: Array, inputs: InputSpace) -> Images:
        """Return inputs (n, …) of the space ``inputs`` after all steps towards ``targets`` (n, classes)."""
        low, high = inputs.limits
        step = np.float32(self.step) * (high - low)
        for _ in range(self.steps):
            x = inputs.project(x - step * np.sign(surrogate.gradient(x, targets)))
        return x


def train(surrogate: Surrogate, x: Images, y: Array, choices: np.random.RandomState) -> Surrogate:
    """Train the surrogate on random batches of the answered queries, and return it."""
    for _ in range(STUDENT_STEPS):
        # With replacement: batches never shrink to one row, which batch normalisation cannot take.
        rows = choices.randint(len(x), size=BATCH)
        surrogate.step(x[rows], y[rows])
    return surrogate


def other_classes(y: Array, choices: np.random.RandomState) -> Array:
    """Return (n, classes) one-hot rows: for each answer a random class that is not its top-1."""
    classes = y.shape[1]
    away = 1 + choices.randint(classes - 1, size=len(y))
    targets: Array = np.eye(classes)[(y.argmax(axis=1) + away) % classes]
    return targets


def nearest_classes(logits: Images, y: Array) -> list[Array]:
    """Return :data:`NEAREST` arrays of one-hot rows (n, classes), or one less than there are classes.

    For each answer ``y`` (n, classes) the likeliest class of ``logits`` (n, classes) that is not its top-1,
    then the next ones; ties go to the lowest class.
    """
    classes = y.shape[1]
    others = logits.astype(np.float64)
    others[np.arange(len(y)), y.argmax(axis=1)] = -np.inf
    ranked = np.argsort(-others, axis=1, kind="stable")
    return [np.eye(classes)[ranked[:, place]] for place in range(min(NEAREST, classes - 1))]
