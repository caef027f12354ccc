"""Whether restored answers or labels are learnt: bought labels that were held out decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attacks.base import Array, Simulation
from attacks.common.validation import most_complex, negative_log_likelihood
from attacks.restoring.pairs import Instances, Labels, Mask, ShadowModels

NOISE = 5
"""Answers of each instance that are averaged, where they are randomized."""


def gives_a_map(instances: Instances) -> bool:
    """Return whether the defenses may change labels, and the instances of a fold know none of its labels."""
    changes = not all(simulation.keeps_label for instance in instances for simulation in instance[:1])
    return changes and all(len({id(each) for each in instance}) == len(instance) for instance in instances)


def defended(instances: Instances, shadows: ShadowModels, rows: Mask, predicted: Array) -> list[Array]:
    """Return mean simulated answers (m, classes) to ``rows`` (n,), if the defenses may change labels.

    Each row is answered by the instances of its fold. One that is shared by all folds has learnt the labels
    of these rows, and would give them away: then there are none. ``predicted``: (m, classes), the clean
    answers that are supposed. Rejected answers are left out.
    """
    if not gives_a_map(instances):
        return []
    x, fold = shadows.x[rows], shadows.fold[rows]

    def answers(instance: Sequence[Simulation], number: int) -> Array:
        found = np.empty(predicted.shape)
        for place, simulation in enumerate(instance):
            part = fold == place
            if part.any():
                found[part] = simulation.answer(x[part], predicted[part], number)
        return found

    drawn = np.stack(
        [
            answers(instance, number)
            for instance in instances
            for number in range(NOISE if instance[0].randomized else 1)
        ]
    )
    answered = np.isfinite(drawn)
    count = answered.sum(axis=0)
    means = np.where(answered, drawn, 0).sum(axis=0) / np.maximum(count, 1)
    return [np.where(count > 0, means, predicted)]


def predicts_as_well(readings: Sequence[Array], estimates: Array, labels: Labels) -> bool:
    """Return whether restored answers explain labels (m,) of answers as well as a surrogate of labels does.

    ``readings``: (m, classes) each, what a surrogate of restored answers predicts, and, where the defenses
    may change labels, what they would answer then; the better one counts. ``estimates``: (m, classes), what
    a surrogate of labels predicts. As well: within one standard error, since labels use less of the answers.
    """
    options = [negative_log_likelihood(rows, labels) for rows in readings]
    best = min(options, key=lambda option: float(option.mean()))
    return most_complex([best, negative_log_likelihood(estimates, labels)]) == 0
