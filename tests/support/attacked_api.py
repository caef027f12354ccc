"""APIs that tests attack: a defended victim, or a function with a budget; and how an attack queries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attacks.base import Pool, RandomSeeds
from bench.inputs import InputSpace
from bench.models.defended_api import DefendedAPI

SEEDS = RandomSeeds(order=11, choices=12)


def rows_of(x):
    """Return the rows of ``x`` as bytes, which can be compared, counted and put into sets."""
    return [row.tobytes() for row in x]


class FakeApi:
    """Answers by the function ``probabilities``, rejects where ``reject`` is True, and records queries."""

    inputs = InputSpace((1, 8, 8))

    def __init__(self, budget, classes=3, reject=lambda x: np.zeros(len(x), bool)):
        self.budget, self.nb_classes, self.known = budget, classes, None
        self.queried, self.batches, self.reject = [], [], reject

    def probabilities(self, x):
        raise NotImplementedError

    def predict(self, x, batch_size=256, client="attacker"):
        self.batches.append(len(x))
        self.queried += rows_of(x)
        assert len(self.queried) <= self.budget
        answers = self.probabilities(x)
        answers[self.reject(x)] = np.nan
        return answers


class RecordingApi(DefendedAPI):
    """A defended API that records the inputs of its queries."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.queried = []

    def query(self, x, client):
        self.queried.append(np.array(x))
        return super().query(x, client)


@dataclass
class Setting:
    """A victim with a pool, and the surrogates that attacks may train."""

    context: Any
    spec: Any
    pool: Pool
    surrogates: Any = None

    def api(self, stack=(), budget=60, **shown):
        """Return a new defended API; ``shown``: output type and knowledge."""
        return self.context.api(self.spec, stack, 0, 0, budget=budget, **shown)

    def acquire(self, attack, stack=(), budget=60, *, pool=None, surrogates=None, seeds=SEEDS, **shown):
        """Return the transfer set of an attack, and the API that it queried."""
        api = self.api(stack, budget, **shown)
        return attack.acquire(api, pool or self.pool, surrogates or self.surrogates, seeds), api
