"""The zero-query baseline: training on the pool's own labels."""

from __future__ import annotations

import numpy as np

from attacks.base import Api, Extraction, Pool, RandomSeeds, SurrogateFactory, Target, TransferSet


class OwnLabels(Extraction):
    """Trains on the whole pool with the pool's own true labels and sends no query.

    A baseline: an attack that does not beat it has extracted nothing beyond what the attacker owns.
    """

    name = "own_labels"
    queries = False

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, unless the pool's labels are the victim's classes."""
        return "" if pool.same_classes else f"the labels of pool {pool.name!r} are not the victim's classes"

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Return the pool with one-hot labels; sends nothing."""
        return TransferSet(pool.x, np.eye(api.nb_classes, dtype=np.float32)[pool.y])
