"""Copycat CNN: random queries, one training."""

from __future__ import annotations

from art.attacks.extraction import CopycatCNN

from attacks.base import Api, Extraction, Pool, RandomSeeds, SurrogateFactory, TransferSet
from attacks.common.art_recorder import extract


class Copycat(Extraction):
    """ART's ``CopycatCNN``, unmodified: sends random inputs of the pool and learns from the answers.

    ``use_probability``: learn from whole answers; else from their top-1 alone, as in the paper.
    The paper differs from Knockoff Nets' random sampling in the pool (images of another domain), which
    is an axis of the matrix here.
    """

    name = "copycat"
    paper = "Correia-Silva et al. 2018, arXiv 1806.05476, section III"

    def __init__(self, *, use_probability: bool = False) -> None:
        self.use_probability = use_probability

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement."""
        return extract(CopycatCNN, api, pool, seeds.order, use_probability=self.use_probability)
