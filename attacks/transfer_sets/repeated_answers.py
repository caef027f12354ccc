"""Inputs that were answered more than once, by defenses whose answers may be random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array
from attacks.recover import RecoveredAnswers

SAME = 1e-6
"""Answers that differ by less are equal: a model's last bits may depend on the batch."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class RepeatedAnswers:
    """Answers to ``inputs`` (n,), distinct indices of a pool in the order of their first query.

    ``means``: (n, classes), of all answers to an input. ``randomized``: whether any of them differed.
    ``place``: (m,), the input that each single answer is to, as an index of ``inputs``; ``single``: (m,
    classes). Where answers are not randomized, these are the first ones alone.
    """

    inputs: Indices
    means: Array
    randomized: bool
    place: Indices
    single: Array

    @classmethod
    def of(cls, queried: Indices, answers: Array) -> RepeatedAnswers:
        """Return them from the indices (m,) of all queries that were answered, and answers (m, classes)."""
        distinct, first, back = np.unique(queried, return_index=True, return_inverse=True)
        means = np.zeros((len(distinct), answers.shape[1]))
        np.add.at(means, back, answers)
        means /= np.bincount(back, minlength=len(distinct))[:, None]
        randomized = bool((np.abs(answers - answers[first][back]) > SAME).any())
        order = np.argsort(first)
        if not randomized:
            answers = answers[first][order]
            return cls(distinct[order], answers, randomized, np.arange(len(distinct)), answers)
        return cls(distinct[order], means[order], randomized, np.argsort(order)[back], answers)

    def firsts(self) -> Array:
        """Return the first answer (n, classes) to each input."""
        return self.single[np.unique(self.place, return_index=True)[1]]

    def by_input(self, found: RecoveredAnswers) -> RecoveredAnswers:
        """Return what was recovered from each single answer, averaged for each input.

        The mean of random answers would be no answer of the defense: an inverse may explain it, and be wrong.
        Answers that are explained come before others.
        """
        number = len(self.inputs)

        def any_of(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.bincount(self.place[rows], minlength=number) > 0

        explained = any_of(found.explained & found.usable)
        counted = found.usable & (found.explained | ~explained[self.place])
        targets = np.zeros((number, found.targets.shape[1]))
        np.add.at(targets, self.place[counted], found.targets[counted])
        targets /= np.maximum(np.bincount(self.place[counted], minlength=number), 1)[:, None]
        return RecoveredAnswers(targets, any_of(found.usable), explained, found.forward, found.facts)
