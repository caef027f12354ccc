"""A thief who knows that a gate screens queries, and sends only what looks honest to a gate of its own."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from sklearn.covariance import ledoit_wolf

from attacks.base import Api, Array, Extraction, Images, LearnerFactory, Pool, Streams, Target, TransferSet
from bench.seeds import random_state


class Evade(Extraction):
    """Sends the inputs of the pool that lie nearest to a few genuine ones that the thief owns.

    ``own``: how many genuine inputs of the victim's kind that are, an honest customer's, say. Without
    labels and never sent, they fit a shadow gate: a Gaussian in pixel space with Ledoit-Wolf
    shrinkage (2004). The pool is sent in the order of its Mahalanobis distance, so that a smaller
    budget is the beginning of a larger one. ``use_probability``: learn from whole answers; else from
    their top-1 alone, which is all that is left of an answer that a gate reduced to its label.

    The shadow gate knows neither the victim's features nor its thresholds; that pixels alone tell
    nearly as much is what makes it work. The idea is that of adaptive attacks on detectors (Tramèr
    et al. 2020, section 2), in its simplest form.
    """

    name = "evade"
    paper = "Tramèr et al. 2020, arXiv 2002.08347, section 2 (an adaptive attack, in its simplest form)"
    knowledge = ("family", "full")

    def __init__(self, *, own: Annotated[int, Field(ge=20)] = 100, use_probability: bool = True) -> None:
        self.own = own
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, unless the thief can own that many genuine inputs."""
        there = 0 if pool.reference is None else len(pool.reference)
        return "" if there >= self.own else f"own={self.own}, but there are {there} genuine inputs to own"

    def acquire(self, api: Api, pool: Pool, learner: LearnerFactory, streams: Streams) -> TransferSet:
        """Spend the budget on the most honest-looking inputs of the pool."""
        reference = pool.x[:0] if pool.reference is None else pool.reference
        rows = random_state(streams.choices).permutation(len(reference))[: self.own]
        # Equal distances keep the seeded order, not that of a file sorted by class.
        order = random_state(streams.order).permutation(len(pool.x))
        ranked = order[np.argsort(distances(reference[rows], pool.x[order]), kind="stable")]
        queries = pool.x[ranked[: api.budget]]
        answers = api.predict(queries)
        answered = ~np.isnan(answers).any(axis=1)
        queries, answers = queries[answered], answers[answered]
        if not self.use_probability:
            answers = np.eye(api.nb_classes)[answers.argmax(axis=1)]
        return TransferSet(queries, answers.astype(np.float32))


def distances(genuine: Images, inputs: Images) -> Array:
    """Return (n,) squared Mahalanobis distances of ``inputs`` to the Gaussian of the ``genuine`` ones."""
    known = genuine.reshape(len(genuine), -1).astype(np.float64)
    mean = known.mean(axis=0)
    covariance = np.atleast_2d(ledoit_wolf(known - mean, assume_centered=True)[0])
    # Images that never vary have no spread to shrink towards; Euclidean distance is what is left.
    covariance[np.diag_indices_from(covariance)] += 1e-9 + 1e-9 * np.trace(covariance) / len(covariance)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    away = (inputs.reshape(len(inputs), -1).astype(np.float64) - mean) @ whiten.T
    result: Array = np.square(away).sum(axis=1)
    return result
