"""Queries that interim surrogates guide, as long as the answers can be taken for the victim's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from attacks.active_thief import ActiveThief
from attacks.base import Array, Known
from attacks.labels import has_single_maximum
from attacks.recover import InverseStack, RecoveredAnswers

MISLEADING = 0.1
"""Share of answers from which they are not taken for the victim's: the known defense changed label or row."""
FEW = 20
"""Answers below which no share of them is judged."""

Mask = NDArray[np.bool_]


class GuidedQueries(ActiveThief):
    """ActiveThief's queries by entropy and k-center, until ``known`` defenses mislead what guides them.

    Surrogates of changed labels look for inputs that are near no boundary of the victim. And a defense that
    changes the answers that the victim is unsure of changes most of those that are looked for. Once more
    than a tenth of the answers so far are like that, all other batches are drawn at random: guided again,
    these would be changed again. Judged after each batch by the inverses alone, without surrogates; where
    parameters are unknown it is not judged.
    """

    def __init__(self, known: Sequence[Known]) -> None:
        super().__init__(strategy="both")
        self._known = known

    def useful(self, answers: Array) -> Mask:
        """Return (n,) which answers (n, classes) surrogates learn from: none, once they are misleading.

        Batches that were drawn at random may dilute the share again. So it is that after each batch so far.
        """
        ends = takewhile(lambda total: total < len(answers), self.totals())
        misleading = any(self._misleading(answers[:end]) for end in (*ends, len(answers)))
        return super().useful(answers) & (not misleading)

    def _misleading(self, answers: Array) -> bool:
        rows = answers[np.isfinite(answers).all(axis=1)]
        if not self._known or len(rows) < FEW or any(each.parameters is None for each in self._known):
            return False
        stack = InverseStack.of(self._known)
        single = has_single_maximum(rows)
        changed = changed_labels(stack.invert(rows, None), rows)[single]
        return len(changed) > 0 and bool(changed.mean() > MISLEADING)


def changed_labels(recovered: RecoveredAnswers, answers: Array) -> Mask:
    """Return (n,) which answers (n, classes) have a label that is not the victim's.

    These are the ones that say nothing of the victim, and those that an inverse explains by a row of another
    label.
    """
    other = recovered.explained & (recovered.targets.argmax(axis=1) != answers.argmax(axis=1))
    return np.asarray(other | ~recovered.usable)
