"""The top-1 alone: what is left to every thief whose answers keep the label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, Array, Extraction, Pool, RandomSeeds, SurrogateFactory, TransferSet
from bench.seeds import random_state


class Labels(Extraction):
    """Sends a random part of the pool and learns from the top-1 of each answer, whatever else it says.

    No defense that keeps the label can touch it, so it knows them all: what it gets out of
    ``label_only`` is an exact floor for each of them. It draws as ART's attacks do, and equals them on
    labels but for answers that name no class because several share the maximum (all of them, in the
    all-zero rows of ``high_confidence``): from these it learns nothing, where ART's learn the first.
    """

    name = "labels"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 6 (class labels only)"
    knowledge = ("none", "family", "full")
    row_by_row = False

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement."""
        asked = pool.x[random_state(streams.order).permutation(len(pool.x))[: api.budget]]
        told = api.predict(asked)
        said = named(told)
        targets = np.eye(api.nb_classes, dtype=np.float32)[told[said].argmax(axis=1)]
        return TransferSet(np.ascontiguousarray(asked[said]), targets)


def named(told: Array) -> NDArray[np.bool_]:
    """Return (n,) True where an answer (n, classes) has one largest entry; refused ones have none."""
    tops = np.nan_to_num(told, nan=-np.inf)
    sole: NDArray[np.bool_] = np.count_nonzero(tops == tops.max(axis=1, keepdims=True), axis=1) == 1
    return sole
