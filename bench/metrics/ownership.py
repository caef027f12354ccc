"""Whether a model learned from watermarked answers: exact tests on the inputs that got wrong ones.

A client's *triggers* are the inputs that were answered with a wrong class, which a keyed hash drew evenly
among all classes but the victim's. For a model made without these answers, that class is independent of all
that the model says. So where it disagrees with the victim, it says the wrong class with probability
1 / (classes - 1), for each trigger independently: the number of such matches is binomial, whatever the
model. With two classes every disagreement is a match, and other models are needed to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Labels = NDArray[np.int64]
REPRODUCED = 0.5
"""Share of the triggers that a surrogate is assumed to reproduce, where the power of a test is stated."""
POWER = 0.8
"""Probability with which such a surrogate has to be recognised for a test to be worth running."""
MOST_TRIGGERS = 100_000


@dataclass(frozen=True)
class OwnershipTest:
    """The result of a test. ``matches``: the wrong class was said on so many of ``compared`` triggers.

    ``chance``: the largest probability of a match for a model that did not learn from the answers.
    ``triggers``: all of them. ``p_value``: the largest probability of at least as many matches then.
    """

    triggers: int
    compared: int
    matches: int
    chance: float
    p_value: float


def binomial_tail(matches: int, n: int, chance: float) -> float:
    """Return the probability of at least ``matches`` among ``n``, each of probability ``chance``."""
    return 1.0 if matches <= 0 else float(special.bdtrc(matches - 1, n, chance)) if matches <= n else 0.0


def by_disagreements(says: Labels, wrong: Labels, victim: Labels, classes: int) -> OwnershipTest:
    """Return the exact test of a model's labels ``says`` (n,) on triggers, for three classes or more.

    ``wrong``: (n,) what was answered; ``victim``: (n,) the victim's own labels. Only triggers on which model
    and victim disagree are compared, so that agreement between two good models counts for nothing.
    Raises ValueError for two classes.
    """
    if classes < 3:
        raise ValueError("with two classes every disagreement is a match; compare with independent models")
    compared = int(np.count_nonzero(says != victim))
    matches = int(np.count_nonzero(says == wrong))
    chance = 1 / (classes - 1)
    return OwnershipTest(len(says), compared, matches, chance, binomial_tail(matches, compared, chance))


def by_independent_models(matches: int, n: int, others: Sequence[int], alpha: float) -> OwnershipTest:
    """Return the test of ``matches`` among ``n`` triggers against models made without the answers.

    ``others``: their matches. Assumes that a model which did not learn from the answers matches no more often
    than the one of them that does so most. Its probability is bounded from above at confidence
    1 - ``alpha`` / 10 for all of them together (Clopper, Pearson 1934; Bonferroni); the remaining alpha / 10
    is added to the p-value (Berger, Boos 1994).
    """
    if not others:
        raise ValueError("at least one independent model is needed")
    left = alpha / 10
    chance = max(_upper(each, n, left / len(others)) for each in others)
    return OwnershipTest(n, n, matches, chance, min(1.0, binomial_tail(matches, n, chance) + left))


def _upper(matches: int, n: int, miss: float) -> float:
    return 1.0 if matches >= n else float(special.betaincinv(matches + 1, n - matches, 1 - miss))


def power(n: int, chance: float, alpha: float, *, disagreements: bool) -> float:
    """Return the probability to recognise a surrogate that reproduces half of ``n`` triggers, at ``alpha``.

    ``disagreements``: by :func:`by_disagreements`, where it agrees with the victim on the other half; else
    against ``chance`` on all triggers.
    """
    for least in range(n + 1):
        if binomial_tail(least, least if disagreements else n, chance) <= alpha:
            return binomial_tail(least, n, REPRODUCED)
    return 0.0


def needed(chance: float, alpha: float, *, disagreements: bool) -> int | None:
    """Return the fewest triggers with a :func:`power` of .8; None where no number has it."""
    low = high = 1
    while power(high, chance, alpha, disagreements=disagreements) < POWER:
        low, high = high, 2 * high
        if high > MOST_TRIGGERS:
            return None
    while low < high:  # power is not quite monotone in n; this finds a number near the first
        middle = (low + high) // 2
        if power(middle, chance, alpha, disagreements=disagreements) < POWER:
            low = middle + 1
        else:
            high = middle
    return high
