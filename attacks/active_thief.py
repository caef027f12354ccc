"""ActiveThief: a copy that is trained while buying says which part of the pool to buy next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    Predictor,
    RandomSeeds,
    SurrogateFactory,
    TransferSet,
)
from attacks.labels import named
from bench.seeds import random_state

EFFORT = 0.2
"""Share of the training rule's steps for copies that only choose; all of them chose no better on digits."""
WIDER = 3
"""How many inputs "both" preselects by uncertainty for each that k-center chooses; ten did no better."""

Places = NDArray[np.intp]


class ActiveThief(Extraction):
    """Buys a random draw, trains a copy on it, buys what that copy chooses, and so on.

    ``strategy``: "uncertainty" takes the inputs on which the copy's answer has the highest entropy.
    "k-center" takes, one by one, the input whose answer lies farthest from those of all inputs asked
    or chosen before. "both" preselects by uncertainty, three inputs for one, and applies k-center to
    these: it is the paper's combination "adversarial + K-center" with entropy in the place of
    DeepFool, which would need gradients that a trained copy does not offer.

    ``seeds``: inputs of the first, random draw. ``rounds``: batches in which all that was asked
    doubles. The paper divides a budget that it knows into equal rounds; these sizes do not depend
    on the budget, so that a smaller one is a prefix of a larger one. The paper also holds a part of it
    out to stop training early; here the training rule says when to stop, and all is learnt from.

    ``use_probability``: learn from whole answers; else from their top-1 alone, where one entry is the
    largest. Choosing copies learn the same, from scratch. While nothing has been answered, the random
    draw goes on.
    """

    name = "active_thief"
    paper = "Pal et al. 2020, AAAI 34(1), ActiveThief; earlier arXiv 1905.09165"

    row_by_row = False

    def __init__(
        self,
        *,
        strategy: Literal["uncertainty", "k-center", "both"] = "both",
        seeds: Annotated[int, Field(ge=1)] = 25,
        rounds: Annotated[int, Field(ge=1, le=100)] = 2,
        use_probability: bool = False,
    ) -> None:
        self.strategy = strategy
        self.seeds = seeds
        self.rounds = rounds
        self.use_probability = use_probability

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget batch by batch; what is refused teaches nothing and is not asked again."""
        asked, told = self.buy(api, pool, learner, streams, api.budget)
        useful = self.useful(told)
        learnt = self.learnt(told[useful]).astype(np.float32)
        return TransferSet(np.ascontiguousarray(pool.x[asked[useful]]), learnt)

    def buy(
        self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds, budget: int
    ) -> tuple[Places, Array]:
        """Return the places of the pool that were asked, in order, and the answers (n, classes) as told."""
        left = random_state(streams.order).permutation(len(pool.x))
        asked, told = left[:0], np.zeros((0, api.nb_classes))
        for total in self.totals():
            sent = len(asked)
            if sent >= budget or not len(left):
                break
            number = min(total - sent, len(left))
            places = np.arange(number)
            useful = self.useful(told)
            if useful.any():
                taught = (pool.x[asked[useful]], self.learnt(told[useful]))
                (copy,) = learner.fit([taught], EFFORT)
                places = self.choose(copy, pool.x[asked], pool.x[left], number)
            # Chosen whole and bought best first: what a small budget cuts off changes nothing before it.
            batch = left[places][: budget - sent]
            told = np.concatenate([told, api.predict(pool.x[batch])])
            asked, left = np.concatenate([asked, batch]), np.delete(left, places)
        return asked, told

    def useful(self, told: Array) -> NDArray[np.bool_]:
        """Return (n,) True for answers (n, classes) to learn from: given, and naming a class for labels."""
        return np.asarray(np.isfinite(told).all(axis=1)) if self.use_probability else named(told)

    def learnt(self, told: Array) -> Array:
        """Return what is learnt from answers (n, classes): these, or one-hot rows of their top-1."""
        return told if self.use_probability else np.asarray(np.eye(told.shape[1])[told.argmax(axis=1)])

    def totals(self) -> Iterator[int]:
        """Yield how many inputs have been asked after each batch, without end."""
        total, batch = self.seeds, 0
        while True:
            yield total
            batch += 1
            total = max(total + 1, round(self.seeds * 2 ** (batch / self.rounds)))

    def choose(self, copy: Predictor, asked: Images, left: Images, number: int) -> Places:
        """Return the places in ``left`` (n, …) of the ``number`` inputs to buy next, best first.

        Refused inputs are among those ``asked`` (m, …), around which k-center sees nothing to gain:
        what resembles them would be refused as well.
        """
        told = copy(left)
        if self.strategy == "uncertainty":
            return uncertain(told)[:number]
        if self.strategy == "k-center":
            return spread(copy(asked), told, number)
        among = uncertain(told)[: WIDER * number]
        return among[spread(copy(asked), told[among], number)]


def uncertain(told: Array) -> Places:
    """Return the rows of probabilities (n, classes) by falling entropy; equal ones keep their order."""
    entropy = -(told * np.log(np.maximum(told, 1e-300))).sum(axis=1)
    return np.argsort(-entropy, kind="stable")


def spread(centers: Array, told: Array, number: int) -> Places:
    """Return ``number`` rows of ``told`` (n, d), each farthest from ``centers`` (m, d) and those before it.

    The greedy k-center of Sener and Savarese 2018 (arXiv 1708.00489, algorithm 1), by Euclidean
    distance. Of rows equally far the first is taken; ``number`` is at most n.
    """
    near = np.full(len(told), np.inf)
    for center in centers:
        near = np.minimum(near, ((told - center) ** 2).sum(axis=1))
    chosen = np.zeros(number, dtype=np.intp)
    for turn in range(number):
        row = chosen[turn] = near.argmax()
        near = np.minimum(near, ((told - told[row]) ** 2).sum(axis=1))
        near[chosen[: turn + 1]] = -1  # never twice, also where all that is left lies on a center
    return chosen
