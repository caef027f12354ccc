"""Extraction by labels alone: a baseline that no defense which keeps the label can weaken."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, Array, Extraction, Pool, RandomSeeds, SurrogateFactory, TransferSet
from bench.seeds import random_state


class Labels(Extraction):
    """Sends random inputs of the pool and learns from the top-1 of each answer alone.

    No defense that keeps the label affects it, so it is adaptive against all of them: its result against
    ``label_only`` is an exact lower bound for each. It draws as ART's attacks do, and equals them on
    labels except for answers in which several classes share the maximum (all of them, in the all-zero
    rows of ``high_confidence``): it learns nothing from these, where ART's attacks learn the first class.
    """

    name = "labels"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 6 (class labels only)"
    knowledge = ("none", "family", "full")
    row_by_row = False

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement."""
        queries = pool.x[random_state(seeds.order).permutation(len(pool.x))[: api.budget]]
        answers = api.predict(queries)
        named = has_single_maximum(answers)
        targets = np.eye(api.nb_classes, dtype=np.float32)[answers[named].argmax(axis=1)]
        return TransferSet(np.ascontiguousarray(queries[named]), targets)


def has_single_maximum(answers: Array) -> NDArray[np.bool_]:
    """Return (n,) True where an answer (n, classes) has one largest entry; rejected ones have none."""
    tops = np.nan_to_num(answers, nan=-np.inf)
    sole: NDArray[np.bool_] = np.count_nonzero(tops == tops.max(axis=1, keepdims=True), axis=1) == 1
    return sole
