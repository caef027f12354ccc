"""Jacobian-based augmentation (JBDA-TR): queries made of earlier ones, towards classes drawn at random."""

from __future__ import annotations

from typing import Annotated

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
from bench.seeds import random_state

STUDENT_STEPS = 500
"""Optimiser steps of a copy whose gradients make queries."""
BATCH = 64


class Jbda(Extraction):
    """Doubles what it has, round by round: each input answered is moved towards another class and sent.

    The Jacobian-based augmentation of Papernot et al. 2017 ("Practical Black-Box Attacks against
    Machine Learning", arXiv 1602.02697, section 4.2), with the targeted random steps (T-RND) of Juuti
    et al. 2019: iterative fast gradient signs, ``x <- clip(x - step * sign(gradient of the
    cross-entropy with a random other class), 0, 1)``, by the gradients of a copy that is trained
    anew before each round. Meant for a thief with few inputs of his own; one with a pool does better
    to send that.

    ``seeds``: inputs of the pool to start from, part of the budget. Refused ones are replaced from
    the pool while it lasts; what was refused is not built upon. ``step``: how far a pixel moves in
    each of ``steps`` steps. Rounds do not depend on the budget: a smaller one is a prefix.

    ``use_probability``: learn from whole answers; else from their top-1 alone.
    """

    name = "jbda"
    paper = "Juuti et al. 2019, arXiv 1805.02628, section III (T-RND)"

    makes_inputs = True

    def __init__(
        self,
        *,
        seeds: Annotated[int, Field(ge=1)] = 50,
        step: Annotated[float, Field(gt=0, le=1)] = 0.05,
        steps: Annotated[int, Field(ge=1, le=100)] = 5,
        use_probability: bool = False,
    ) -> None:
        self.seeds = seeds
        self.step = step
        self.steps = steps
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where the pool holds too few inputs to start from."""
        if len(pool.x) < self.seeds:
            return f"seeds={self.seeds}: pool {pool.name!r} has {len(pool.x)} inputs to start from"
        return ""

    def supply(self, size: int) -> int | None:
        """Return None: it makes its own inputs."""
        return None

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget; raises NotApplicable for a surrogate that cannot learn by steps."""
        student, seen = learner(), 0
        order = random_state(streams.order).permutation(len(pool.x))
        choices = random_state(streams.choices)
        x, y = pool.x[:0], np.zeros((0, api.nb_classes))
        sent = drawn = 0
        while sent < api.budget and len(order):
            missing = self.seeds - len(x)
            if not len(x) and drawn >= len(order):
                drawn = 0  # everything was refused; there is nothing to do but ask again
            if missing > 0 and drawn < len(order):
                queries = pool.x[order[drawn : drawn + missing]]
                drawn += len(queries)
            else:
                if len(x) > seen:
                    student, seen = train(learner(), x, y, choices), len(x)
                queries = self.moved(student, x, other_classes(y, choices))
            queries = queries[: api.budget - sent]
            told = api.predict(queries)
            sent += len(queries)
            answered = np.isfinite(told).all(axis=1)
            learnt = told[answered]
            if not self.use_probability:
                learnt = np.eye(api.nb_classes)[learnt.argmax(axis=1)]
            x, y = np.concatenate([x, queries[answered]]), np.concatenate([y, learnt])
        return TransferSet(np.ascontiguousarray(x), y.astype(np.float32))

    def moved(self, student: Surrogate, x: Images, targets: Array) -> Images:
        """Return the inputs (n, …) after all steps towards ``targets`` (n, classes), in [0, 1]."""
        for _ in range(self.steps):
            x = np.clip(x - np.float32(self.step) * np.sign(student.gradient(x, targets)), 0, 1)
        return x


def train(student: Surrogate, x: Images, y: Array, choices: np.random.RandomState) -> Surrogate:
    """Let the student take its steps on random batches of what was bought, and return it."""
    for _ in range(STUDENT_STEPS):
        # With replacement: batches never shrink to one row, which batch normalisation cannot take.
        rows = choices.randint(len(x), size=BATCH)
        student.step(x[rows], y[rows])
    return student


def other_classes(y: Array, choices: np.random.RandomState) -> Array:
    """Return (n, classes) one-hot rows: for each answer a random class that is not its top-1."""
    classes = y.shape[1]
    away = 1 + choices.randint(classes - 1, size=len(y))
    targets: Array = np.eye(classes)[(y.argmax(axis=1) + away) % classes]
    return targets
