"""ActiveThief: active learning, in which an interim surrogate selects the next queries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacks.active.deepfool import distances
from attacks.base import (
    Api,
    Array,
    DifferentiablePredictor,
    Extraction,
    Images,
    Pool,
    Predictor,
    RandomSeeds,
    SurrogateFactory,
    Target,
    TransferSet,
)
from attacks.labels import has_single_maximum
from bench.errors import NotApplicable
from bench.seeds import random_state

EFFORT = 0.2
"""Share of the training steps of interim surrogates; with all steps they selected no better on digits."""
WIDER = 3
"""Inputs that "both" preselects by uncertainty for each that k-center selects; ten did no better."""

BY_DISTANCE = frozenset({"dfal", "dfal-k-center"})
"""Strategies that need a surrogate's gradients."""

Indices = NDArray[np.intp]


class ActiveThief(Extraction):
    """Queries random inputs first, then inputs selected by a surrogate trained on the answers so far.

    ``strategy``: "uncertainty" selects the inputs for which the surrogate's prediction has the highest
    entropy. "certainty" selects those with the lowest, which is cheap where queries that reveal much cost
    more (Dziedzic et al. 2022, "entropy reversed"). "k-center" selects, one by one, the input whose
    prediction is farthest from those of all inputs queried or selected before. "both" preselects by
    uncertainty, three inputs for one, and applies k-center to these. "dfal" selects the inputs that DeepFool
    has to move least to change the surrogate's label (:func:`attacks.active.deepfool.distances`; Ducoffe and
    Precioso 2018, arXiv 1802.09841). "dfal-k-center", the paper's DFAL+K-center, preselects by that distance
    as many inputs as will have been queried after the batch, and applies k-center to these. The paper
    preselects as many as its whole budget. Both need a network as a surrogate, and inputs without categories
    or missing values.

    ``seeds``: inputs of the first, random draw. ``rounds``: batches in which the number of queries
    doubles. The paper divides a known budget into equal rounds; these sizes do not depend on the
    budget, so that the queries of a smaller budget are the first ones of a larger one. The paper also
    holds out part of the budget for early stopping; here the training configuration sets the steps, and
    all answers are used.

    ``use_probability``: learn from whole answers; else from their top-1 alone, where there is a single
    maximum. Interim surrogates learn the same, from scratch. While nothing has been answered, the random
    draw continues.
    """

    name = "active_thief"
    paper = "Pal et al. 2020, AAAI 34(1), ActiveThief; earlier arXiv 1905.09165"

    row_by_row = False

    def __init__(
        self,
        *,
        strategy: Literal["uncertainty", "certainty", "k-center", "both", "dfal", "dfal-k-center"] = "both",
        seeds: Annotated[int, Field(ge=1)] = 25,
        rounds: Annotated[int, Field(ge=1, le=100)] = 2,
        use_probability: bool = False,
    ) -> None:
        self.strategy = strategy
        self.seeds = seeds
        self.rounds = rounds
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, for inputs without gradients where the strategy needs them."""
        if self.strategy in BY_DISTANCE and target.inputs is not None:
            return target.inputs.without_gradient
        return ""

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget batch by batch; rejected inputs are dropped and not queried again."""
        queried, answers = self.query(api, pool, surrogates, seeds, api.budget)
        useful = self.useful(answers)
        targets = self.targets(answers[useful]).astype(np.float32)
        return TransferSet(np.ascontiguousarray(pool.x[queried[useful]]), targets)

    def round_trips(self, budget: int) -> int:
        """Return the number of batches."""
        return sum(1 for _ in takewhile(lambda total: total < budget, self.totals())) + min(1, budget)

    def query(
        self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds, budget: int
    ) -> tuple[Indices, Array]:
        """Return the indices of the pool that were queried, in order, and the answers (n, classes).

        Raises NotApplicable for a surrogate without gradients where the strategy needs them.
        """
        if self.strategy in BY_DISTANCE:
            surrogates()  # raises, also where the budget is spent before any surrogate is trained
        left = random_state(seeds.order).permutation(len(pool.x))
        queried, answers = left[:0], np.zeros((0, api.nb_classes))
        for total in self.totals():
            sent = len(queried)
            if sent >= budget or not len(left):
                break
            number = min(total - sent, len(left))
            chosen = np.arange(number)
            useful = self.useful(answers)
            if useful.any():
                training_set = (pool.x[queried[useful]], self.targets(answers[useful]))
                (surrogate,) = surrogates.fit([training_set], EFFORT)
                chosen = self.choose(surrogate, pool.x[queried], pool.x[left], number)
            # A whole batch is selected, best first: where the budget ends changes no query before it.
            batch = left[chosen][: budget - sent]
            answers = np.concatenate([answers, api.predict(pool.x[batch])])
            queried, left = np.concatenate([queried, batch]), np.delete(left, chosen)
        return queried, answers

    def useful(self, answers: Array) -> NDArray[np.bool_]:
        """Return (n,) True for answers (n, classes) to learn from: not rejected, for labels without ties."""
        if not self.use_probability:
            return has_single_maximum(answers)
        return np.asarray(np.isfinite(answers).all(axis=1))

    def targets(self, answers: Array) -> Array:
        """Return the targets that answers (n, classes) give: these, or one-hot rows of their top-1."""
        if self.use_probability:
            return answers
        return np.asarray(np.eye(answers.shape[1])[answers.argmax(axis=1)])

    def totals(self) -> Iterator[int]:
        """Yield the number of queries after each batch, without end."""
        total, batch = self.seeds, 0
        while True:
            yield total
            batch += 1
            total = max(total + 1, round(self.seeds * 2 ** (batch / self.rounds)))

    def choose(self, surrogate: Predictor, queried: Images, left: Images, number: int) -> Indices:
        """Return the indices in ``left`` (n, …) of the ``number`` inputs to query next, best first.

        Rejected inputs are among those ``queried`` (m, …), so that k-center avoids inputs similar to them,
        which would be rejected as well.
        """
        rows = surrogate(left)
        if self.strategy == "k-center":
            return k_center(surrogate(queried), rows, number)
        if self.strategy in BY_DISTANCE:
            preselected, ranked = len(queried) + number, by_distance(surrogate, left)
        else:
            preselected, ranked = WIDER * number, by_entropy(rows, lowest=self.strategy == "certainty")
        if self.strategy in ("uncertainty", "certainty", "dfal"):
            return ranked[:number]
        among = ranked[:preselected]
        return among[k_center(surrogate(queried), rows[among], number)]


def by_entropy(rows: Array, *, lowest: bool = False) -> Indices:
    """Return indices of rows of probabilities (n, classes) by falling entropy; ties keep their order.

    ``lowest``: by rising entropy.
    """
    entropy = -(rows * np.log(np.maximum(rows, 1e-300))).sum(axis=1)
    return np.argsort(entropy if lowest else -entropy, kind="stable")


def by_distance(surrogate: Predictor, x: Images) -> Indices:
    """Return indices of inputs (n, …) by rising distance to another label of the surrogate.

    Ties keep their order; inputs whose label does not change come last. Raises NotApplicable for a surrogate
    without gradients.
    """
    if not isinstance(surrogate, DifferentiablePredictor):
        raise NotApplicable("it needs the surrogate's gradients, and this surrogate has none")
    return np.argsort(distances(surrogate, x), kind="stable")


def k_center(centers: Array, rows: Array, number: int) -> Indices:
    """Return indices of ``number`` rows (n, d), each farthest from ``centers`` (m, d) and those before it.

    The greedy k-center of Sener and Savarese 2018 (arXiv 1708.00489, algorithm 1), by Euclidean
    distance. Of rows equally far the first is taken; ``number`` is at most n.
    """
    near = np.full(len(rows), np.inf)
    for center in centers:
        near = np.minimum(near, ((rows - center) ** 2).sum(axis=1))
    chosen = np.zeros(number, dtype=np.intp)
    for turn in range(number):
        row = chosen[turn] = near.argmax()
        near = np.minimum(near, ((rows - rows[row]) ** 2).sum(axis=1))
        near[chosen[: turn + 1]] = -1  # never twice, also where all other rows equal a center
    return chosen
