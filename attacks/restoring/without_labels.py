"""Restoration by the answers alone, for defenses that change labels: no label is taken for the victim's.

Surrogates that learn changed labels estimate the wrong classes, and so do clean rows that are drawn around
their estimates. So all classes of a clean answer are taken for equally likely, and what an answer says of its
class is learnt from simulated answers.
"""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.restoring.pairs import Instances, Pairs, ShadowModels, simulated_pairs
from attacks.restoring.prior import OF_ANY_CLASS
from attacks.restoring.restorers import HELD_OUT, network_restorer
from bench.seeds import derive

BETTER = 0.05
"""Share of simulated answers by which restoration has to find more clean labels than the answers show."""


def restored_without_labels(
    instances: Instances, shadows: ShadowModels, answers: Array, seed: int
) -> Array | None:
    """Return clean answers (n, classes) estimated from each of ``answers`` (n, classes) alone.

    None where simulated answers have the labels of their clean rows about as often as what is restored from
    them has, on draws that were held out. Clean rows have the shapes of the shadow models' estimates, and any
    class with the same probability (:data:`attacks.restoring.prior.OF_ANY_CLASS`). ``seed``: of what is
    drawn, and of the network.
    """
    if all(simulation.keeps_label for instance in instances for simulation in instance[:1]):
        return None
    pairs = simulated_pairs(instances, shadows, answers, seed, OF_ANY_CLASS)
    if pairs.other_labels() < BETTER:
        return None
    nothing = np.full_like(shadows.estimates, 1 / answers.shape[1])
    learnt = _half_renamed(pairs.part(slice(HELD_OUT, None)), seed)
    restore = network_restorer(learnt, nothing, seed, order=True)
    kept = found = 0
    for clean, simulated in zip(pairs.clean[:HELD_OUT], pairs.answers[:HELD_OUT], strict=True):
        answered = np.isfinite(simulated).all(axis=1)
        shown = np.where(answered[:, None], simulated, nothing)
        labels = clean[answered].argmax(axis=1)
        kept += int((shown[answered].argmax(axis=1) == labels).sum())
        found += int((restore(shown, nothing)[answered].argmax(axis=1) == labels).sum())
    total = np.isfinite(pairs.answers[:HELD_OUT]).all(axis=2).sum()
    return restore(answers, nothing) if found - kept > BETTER * total else None


def _half_renamed(pairs: Pairs, seed: int) -> Pairs:
    """Return the pairs with, in half of the draws of each width, the classes of each pair renamed at random.

    Which classes a defense prefers may be its secret, and the few instances that are simulated have secrets
    of their own: from renamed pairs the network learns that it may be any class. The others show what a
    defense does to certain classes.
    """
    rng = np.random.default_rng(derive(seed, "renamed"))
    clean, answers = pairs.clean.copy(), pairs.answers.copy()
    # The widths of the prior take turns, draw by draw.
    half = np.arange(len(clean)) // OF_ANY_CLASS.kept % 2 == 0
    names = rng.permuted(np.broadcast_to(np.arange(clean.shape[2]), clean[half].shape), axis=2)
    clean[half] = np.take_along_axis(clean[half], names, axis=2)
    answers[half] = np.take_along_axis(answers[half], names, axis=2)
    return Pairs(clean, answers, pairs.labels)
