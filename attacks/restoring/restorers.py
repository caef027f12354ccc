"""What estimates clean answers from defended ones: a network or a table, learnt from simulated pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attacks.base import Array
from attacks.restoring import table
from attacks.restoring.network import RestoringNetwork
from attacks.restoring.pairs import GenuinePairs, Pairs
from attacks.restoring.prior import with_top

HELD_OUT = 6
"""Draws of pairs from which nothing is learnt: they show whether restoring helps."""

Restorer = Callable[[Array, Array], Array]
"""Returns restored answers (n, classes) from answers to the rows of the pairs and estimates, without NaN."""


def network_restorer(pairs: Pairs, estimates: Array, seed: int, *, order: bool = False) -> Restorer:
    """Return a network's restoration, trained on all pairs whose answer was not rejected.

    ``estimates``: (n, classes), of the clean answers to the rows. ``seed``: of the network. ``order``: see
    :class:`attacks.restoring.network.RestoringNetwork`.
    """
    network = RestoringNetwork(estimates.shape[1], seed, order=order)
    answered = np.isfinite(pairs.answers).all(axis=2)
    near = np.broadcast_to(estimates, pairs.clean.shape)
    if answered.any():
        network.fit(pairs.answers[answered], near[answered], pairs.clean[answered])

    def restore(answers: Array, near: Array) -> Array:
        rows = network.restore(answers, near) if answered.any() else near
        return with_top(rows, pairs.labels)

    return restore


def table_restorer(pairs: Pairs, _estimates: Array, _seed: int) -> Restorer:
    """Return restoration by the table of each row's own pairs; estimates stand for a gap."""

    def restore(answers: Array, near: Array) -> Array:
        return with_top(table.restored(answers, pairs.answers, pairs.clean, near), pairs.labels)

    return restore


RESTORERS: dict[str, Callable[[Pairs, Array, int], Restorer]] = {
    "network": network_restorer,
    "table": table_restorer,
}


def restored_answers(
    model: str, answers: Array, estimates: Array, pairs: Pairs, genuine: GenuinePairs | None, seed: int
) -> tuple[Array, bool]:
    """Return restored answers (n, classes), and whether these are others than the bought ``answers``.

    They are the bought ones where simulated answers are nearer to the clean rows, in L1, than what is
    restored from them: of draws that were held out, or of the ``genuine`` pairs, if there are any.
    """
    restore = RESTORERS[model](pairs.part(slice(HELD_OUT, None)), estimates, seed)

    def helps(clean: Array, simulated: Array, near: Array) -> bool:
        before = after = 0.0
        for rows, found in zip(clean, simulated, strict=True):
            answered = np.isfinite(found).all(axis=1)
            shown = np.where(answered[:, None], found, near)
            before += float(np.abs(shown - rows)[answered].sum())
            after += float(np.abs(restore(shown, near) - rows)[answered].sum())
        return after < before

    drawn = pairs.clean[:HELD_OUT], pairs.answers[:HELD_OUT], estimates
    own = [(genuine.clean, genuine.answers, genuine.estimates)] if genuine else []
    if all(helps(*each) for each in (drawn, *own)):
        return restore(answers, estimates), True
    return answers, False
