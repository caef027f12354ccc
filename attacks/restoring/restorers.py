"""What estimates clean answers from defended ones: a network or a table, learnt from simulated pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attacks.base import Array
from attacks.restoring import table
from attacks.restoring.network import RestoringNetwork
from attacks.restoring.pairs import Pairs
from attacks.restoring.prior import with_top

HELD_OUT = 6
"""Draws of pairs from which nothing is learnt: they show whether restoring helps."""

Restorer = Callable[[Array], Array]
"""Returns restored answers (n, classes) from answers (n, classes) to the rows of the pairs, without NaN."""


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

    def restore(answers: Array) -> Array:
        rows = network.restore(answers, estimates) if answered.any() else estimates
        return with_top(rows, pairs.labels)

    return restore


def table_restorer(pairs: Pairs, estimates: Array, _seed: int) -> Restorer:
    """Return restoration by the table of each row's own pairs; ``estimates`` (n, classes) stand for a gap."""

    def restore(answers: Array) -> Array:
        return with_top(table.restored(answers, pairs.answers, pairs.clean, estimates), pairs.labels)

    return restore


RESTORERS: dict[str, Callable[[Pairs, Array, int], Restorer]] = {
    "network": network_restorer,
    "table": table_restorer,
}


def restored_answers(
    model: str, answers: Array, estimates: Array, pairs: Pairs, seed: int
) -> tuple[Array, bool]:
    """Return restored answers (n, classes), and whether these are others than the bought ``answers``.

    They are the bought ones where, of draws that were held out, simulated answers are nearer to the clean
    rows, in L1, than what is restored from them.
    """
    restore = RESTORERS[model](pairs.part(slice(HELD_OUT, None)), estimates, seed)
    before = after = 0.0
    for clean, simulated in zip(pairs.clean[:HELD_OUT], pairs.answers[:HELD_OUT], strict=True):
        answered = np.isfinite(simulated).all(axis=1)
        shown = np.where(answered[:, None], simulated, estimates)
        before += float(np.abs(shown - clean)[answered].sum())
        after += float(np.abs(restore(shown) - clean)[answered].sum())
    return (answers, False) if before <= after else (restore(answers), True)
