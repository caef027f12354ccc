"""Smoothing: each input is queried by several random views, and the mean of their answers is learned."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacks.base import Api, Extraction, Images, Pool, RandomSeeds, SurrogateFactory, TransferSet
from bench.augmentation import Augmentation
from bench.seeds import derive, random_state


class Smoothing(Extraction):
    """Sends ``views`` weak views of each input and learns the mean of their answers for the input itself.

    A defense whose answers jump between inputs that are nearly alike is averaged out. Images are shifted by
    up to an eighth of their sides. Of tables and sequences a tenth of the values is replaced by those of
    other inputs of the pool (:class:`bench.augmentation.Augmentation`). The input itself is not sent.

    Each view is a query. Inputs are taken in the order of the draw that random attacks share, so that an
    attack with V views sees the first B / V of the inputs that one without sees; the last may get fewer
    views. Where the pool is exhausted, its inputs get further views in turn. Rejected views do not count in
    the mean. An input is dropped if all its views are rejected, or one that happens to equal it.

    ``use_probability``: average whole answers; else count votes, so that a target is the share of the views
    whose answer had each class on top.
    """

    name = "smoothing"
    paper = "Tang et al. 2024, ModelGuard (USENIX Security); its code calls it the smoothing attack"

    makes_inputs = True
    row_by_row = False
    prefix = False

    def __init__(
        self, *, views: Annotated[int, Field(ge=1, le=100)] = 3, use_probability: bool = True
    ) -> None:
        self.views = views
        self.use_probability = use_probability

    def supply(self, size: int) -> int | None:
        """Return None: where each input of the pool has its views, the rest is spent on further ones."""
        return None

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on views and return a row for each input of which one was answered."""
        x = pool.x[random_state(seeds.order).permutation(len(pool.x))]
        inputs = viewed_inputs(api.budget, self.views, len(x))
        rng = np.random.default_rng(derive(seeds.choices, "views"))
        queries = api.inputs.project(Augmentation(api.inputs.layout, pool.x).weak(x[inputs], rng))
        answers = api.predict(np.ascontiguousarray(queries))
        answered = np.isfinite(answers).all(axis=1)
        if not self.use_probability:
            answers = np.eye(api.nb_classes)[answers.argmax(axis=1)]
        total, times = np.zeros((len(x), api.nb_classes)), np.zeros(len(x), dtype=np.int64)
        np.add.at(total, inputs[answered], answers[answered])
        np.add.at(times, inputs[answered], 1)
        kept = times > 0
        kept[inputs[~answered & same(queries, x[inputs])]] = False
        means = (total[kept] / times[kept, None]).astype(np.float32)
        return TransferSet(np.ascontiguousarray(x[kept]), means)


def viewed_inputs(budget: int, views: int, size: int) -> NDArray[np.intp]:
    """Return (budget,) which of ``size`` inputs each query is a view of.

    Each input gets ``views`` queries in a row, and then all get one more in turn. Without inputs, empty.
    """
    if not size:
        return np.zeros(0, dtype=np.intp)
    inputs = np.repeat(np.arange(size), views)[:budget]
    return np.concatenate([inputs, np.arange(budget - len(inputs)) % size])


def same(one: Images, other: Images) -> NDArray[np.bool_]:
    """Return (n,) True where inputs (n, …) are equal; missing values are equal to each other."""
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.asarray(equal.reshape(len(one), -1).all(axis=1))
