"""Evasion of a gate: a thief who owns a few honest inputs sends what looks most like them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from sklearn.covariance import ledoit_wolf_shrinkage

from attacks.base import Api, Array, Extraction, Images, LearnerFactory, Pool, Streams, Target, TransferSet
from bench.seeds import random_state


class Evade(Extraction):
    """Knows that a gate screens queries by their distance to honest data, and imitates the gate.

    ``own``: how many genuine inputs of the victim's kind the thief owns, without labels. To these it
    fits a shadow of the gate: one Gaussian over pixels, its covariance shrunk as in Ledoit and Wolf
    2004 ("A well-conditioned estimator for large-dimensional covariance matrices"). Then it sends
    what of its pool lies nearest, nearest first, so that a smaller budget is a prefix of a larger one.
    The thief sees neither the gate's layers nor its threshold, and asks nothing to find out.
    k-means classes in place of one Gaussian evaded no better in a trial on MNIST.

    ``use_probability``: learn from whole answers; else from their top-1 alone.
    """

    name = "evade"
    knowledge = ("family", "full")

    def __init__(self, *, own: Annotated[int, Field(ge=20)] = 100, use_probability: bool = False) -> None:
        self.own = own
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where there are not that many honest inputs to own."""
        there = 0 if pool.reference is None else len(pool.reference)
        if there < self.own:
            return f"own={self.own}: beside pool {pool.name!r} there are {there} inputs of the victim's kind"
        return ""

    def acquire(self, api: Api, pool: Pool, learner: LearnerFactory, streams: Streams) -> TransferSet:
        """Spend the budget on what looks most honest; whoever owns nothing draws at random."""
        order = random_state(streams.order).permutation(len(pool.x))
        if pool.reference is not None:
            mine = random_state(streams.choices).permutation(len(pool.reference))[: self.own]
            # Equal distances keep the seeded order, not that of a file sorted by class.
            order = order[np.argsort(distances(pool.reference[mine], pool.x)[order], kind="stable")]
        asked = pool.x[order[: api.budget]]
        told = api.predict(asked)
        answered = np.isfinite(told).all(axis=1)
        learnt = told[answered]
        if not self.use_probability:
            learnt = np.eye(api.nb_classes)[learnt.argmax(axis=1)]
        return TransferSet(np.ascontiguousarray(asked[answered]), learnt.astype(np.float32))


def distances(honest: Images, x: Images) -> Array:
    """Return (n,) Mahalanobis distances of inputs ``x`` (n, …) to the Gaussian of ``honest`` ones (m, …).

    The covariance is a multiple of the identity but for at most m directions, so that no matrix of
    pixels by pixels is needed. Where honest inputs do not vary at all, the distance is Euclidean.
    """
    owned = honest.reshape(len(honest), -1).astype(np.float64)
    middle = owned.mean(axis=0)
    owned -= middle
    apart = x.reshape(len(x), owned.shape[1]) - middle
    far = (apart**2).sum(axis=1)
    if not owned.any():
        return np.asarray(np.sqrt(far))
    # Shrinkage is nil in rare cases; this keeps the covariance invertible.
    shrinkage = max(float(ledoit_wolf_shrinkage(owned, assume_centered=True)), 1e-6)
    _, lengths, axes = np.linalg.svd(owned, full_matrices=False)
    floor = shrinkage * (owned**2).mean()
    spread = (1 - shrinkage) * lengths**2 / len(owned)
    along = (apart @ axes.T) ** 2 @ (spread / (spread + floor))
    return np.asarray(np.sqrt(np.maximum(far - along, 0) / floor))
