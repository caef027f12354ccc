"""Queries that interim surrogates guide, as long as the answers can be taken for the victim's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attacks.active_thief import ActiveThief
from attacks.base import Array, Known
from attacks.inverse import inverse_of
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
    changes the answers that the victim is unsure of changes most of those that are looked for. While more
    than a tenth of the answers so far are like that, batches are drawn at random instead. Judged by the
    inverses alone, without surrogates; where parameters are unknown it is not judged.
    """

    def __init__(self, known: Sequence[Known]) -> None:
        super().__init__(strategy="both")
        self._known = known

    def useful(self, answers: Array) -> Mask:
        """Return (n,) which answers (n, classes) surrogates learn from: none, once they are misleading."""
        return super().useful(answers) & (not self._misleading(answers))

    def _misleading(self, answers: Array) -> bool:
        rows = answers[np.isfinite(answers).all(axis=1)]
        if not self._known or len(rows) < FEW or any(each.parameters is None for each in self._known):
            return False
        stack = InverseStack([inverse_of(each.name)(each.parameters) for each in self._known])
        return share_changed(stack.invert(rows, None), rows) > MISLEADING


def share_changed(recovered: RecoveredAnswers, answers: Array) -> float:
    """Return the share of answers (n, classes) whose label, or all of them, is not the victim's.

    These are the ones that say nothing of the victim, and those that an inverse explains by a row of another
    label. Of answers without a single maximum the label is unknown; they are left out.
    """
    single = has_single_maximum(answers)
    if not single.any():
        return 0.0
    other = recovered.explained & (recovered.targets.argmax(axis=1) != answers.argmax(axis=1))
    return float((other | ~recovered.usable)[single].mean())
