"""Ways to make a transfer set out of answers, and surrogates by which they are compared.

A training configuration is part of the cell, and no attack can change it. But a transfer set may hold more
rows than were bought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attacks.base import Array, Images, NetworkPredictor, Predictor, SurrogateFactory
from attacks.common.validation import most_complex
from attacks.inverse.numerics.intervals import one_hot
from attacks.transfer_sets.strong_views import strong
from bench.augmentation import Augmentation
from bench.inputs import LAYOUTS
from bench.seeds import derive

ROWS = 8_000
"""Rows to which a transfer set is filled up: the largest that takes no more steps of the default training."""
ANSWERED = 1 / 3
"""Share of the rows that are answered inputs and their views, where others are inputs not queried."""
ROUNDS = 2
"""Students that are trained one after the other, each on the labels of the one before."""
SURE = 0.95
"""Probability from which a surrogate's label of an input that was not queried is learned."""
ANSWERS, PSEUDO, VIEWS, NOISY = "answers", "pseudo_labels", "views", "self_training"
WAYS = (ANSWERS, PSEUDO, VIEWS, NOISY)
"""The ways, by name: the answers alone; with pseudo-labels; with views; and with both, again and again."""

Part = tuple[Images, Array]
"""Answered inputs (n, …) and their targets (n, classes)."""


@dataclass(frozen=True)
class Ways:
    """Makes transfer sets from answered inputs, and from those of ``rest`` (m, …), which were not queried.

    ``seed``: of the views. ``effort``: share of the training steps of surrogates that are compared.
    """

    rest: Images
    surrogates: SurrogateFactory
    seed: int
    effort: float

    def compared(
        self, parts: Sequence[Part], plain: Sequence[Predictor]
    ) -> Mapping[str, Sequence[Predictor]]:
        """Return for each way but the last a surrogate of each part, trained with the ``effort``.

        ``plain``: those that learnt the parts as they are, with the same effort; the first way. A way that
        there is not is left out: pseudo-labels where nothing is left to label, views where all answers
        together are as many rows, and for models that are no networks, whose training takes longer with each
        row. ``parts``: of folds, so that each answer is in all of them but one.
        """
        found: dict[str, Sequence[Predictor]] = {ANSWERS: plain}
        if not all(len(x) for x, _ in parts):
            return found
        if len(self.rest):
            found[PSEUDO] = self._next(PSEUDO, parts, [each(self.rest) for each in plain], 0)
        answers = sum(len(x) for x, _ in parts) / max(1, len(parts) - 1)
        if all(isinstance(each, NetworkPredictor) for each in plain) and answers < ROWS:
            found[VIEWS] = self._next(VIEWS, parts, [self._unlabelled] * len(parts), 0)
        return found

    def self_trained(self, parts: Sequence[Part], teachers: Sequence[Predictor]) -> Sequence[Predictor]:
        """Return the last students of a row of :data:`ROUNDS`, one for each part.

        ``teachers``: the first of each row. Every student takes the ``effort``, and teaches the next.
        """
        for turn in range(ROUNDS):
            teachers = self._next(NOISY, parts, [each(self.rest) for each in teachers], turn)
        return teachers

    def _next(
        self, name: str, parts: Sequence[Part], predicted: Sequence[Array], turn: int
    ) -> Sequence[Predictor]:
        every = enumerate(zip(parts, predicted, strict=True))
        sets = [self.made(name, part, rows, f"{turn}, {number}") for number, (part, rows) in every]
        return self.surrogates.fit(sets, self.effort)

    @property
    def _unlabelled(self) -> Array:
        """Predictions of the rest of the pool where none are needed: (0, 1)."""
        return np.zeros((0, 1))

    def final(self, name: str, part: Part, students: Sequence[Predictor]) -> Part:
        """Return the transfer set to learn in the end.

        ``students``: the surrogates of ``name`` that were compared. The mean of what those of self-training
        predict labels the rest of the pool; each has seen other answers, so that they are sure where they
        agree. For pseudo-labels a teacher is trained on all answers, and takes all steps.
        """
        predicted = self._unlabelled
        if name == PSEUDO:
            (teacher,) = self.surrogates.fit([part], 1.0)
            predicted = teacher(self.rest)
        elif name == NOISY:
            predicted = np.asarray(np.mean([each(self.rest) for each in students], axis=0))
        return self.made(name, part, predicted, "final")

    def made(self, name: str, part: Part, predicted: Array, draw: str) -> Part:
        """Return one transfer set; ``draw`` names the views that are drawn for it.

        ``predicted``: (m, classes), a teacher's predictions of the rest.
        """
        (x, targets), layout = part, LAYOUTS[part[0].ndim - 1]
        if name == ANSWERS:
            return part
        sure = np.flatnonzero(predicted.max(axis=1) >= SURE)
        if name == PSEUDO:
            labels = one_hot(predicted[sure])
            return np.concatenate([x, self.rest[sure]]), np.concatenate([targets, labels])
        rng = np.random.default_rng(derive(self.seed, "views", name, draw))
        views = Augmentation(layout, x)
        if name == VIEWS or not len(sure):
            return with_views(x, targets, ROWS, views, rng)
        inputs, targets = with_views(x, targets, round(ANSWERED * ROWS), views, rng)
        others = np.resize(rng.permutation(sure), max(0, ROWS - len(inputs)))
        noisy = self.rest[others]
        noisy = strong(noisy, rng) if layout == "images" else views.strongly_masked(noisy, rng)
        return np.concatenate([inputs, noisy]), np.concatenate([targets, one_hot(predicted[others])])


def kept(losses: Mapping[str, Array], *, labels: bool) -> str:
    """Return the name of the way to keep, by losses (n,) of each on the same answers.

    It is the best, unless the answers alone are within one standard error of it. These then are, and where
    they are ``labels`` alone, pseudo-labels if they are as near.
    """
    best = min(losses, key=lambda name: float(losses[name].mean()))

    def near(name: str) -> bool:
        return name in losses and most_complex([losses[name], losses[best]]) == 0

    if not near(ANSWERS):
        return best
    return PSEUDO if labels and near(PSEUDO) else ANSWERS


def with_views(x: Images, targets: Array, rows: int, views: Augmentation, rng: np.random.Generator) -> Part:
    """Return all inputs (n, …), then weak views of them in turn up to ``rows``, and their targets."""
    chosen = np.resize(np.arange(len(x)), max(len(x), rows))
    return np.concatenate([x, views.weak(x[chosen[len(x) :]], rng)]), targets[chosen]
