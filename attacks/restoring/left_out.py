"""Restored answers that can be compared with other interpretations of the answers by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from attacks.base import Api, Array, Images, SurrogateFactory
from attacks.restoring.choice import defended, gives_a_map
from attacks.restoring.network import RestoringNetwork
from attacks.restoring.pairs import EFFORT as SHADOW_EFFORT
from attacks.restoring.pairs import (
    FOLDS,
    Instances,
    Labels,
    Mask,
    Pairs,
    ShadowModels,
    simulated_instances,
    simulated_pairs,
)
from attacks.restoring.prior import with_top
from attacks.restoring.without_labels import restored_without_labels
from bench.errors import NotApplicable
from bench.seeds import derive

EFFORT = 0.4
"""Share of its steps that the restoring network takes here."""


@dataclass(frozen=True)
class Restored:
    """Restored answers, as one interpretation of the bought ones.

    ``targets``: (n, classes), of all rows. ``left_out``: for each fold, (n, classes), restored without the
    labels of that fold; empty where no row is restored by labels of others. ``changed``: share of simulated
    answers whose label is not that of the clean row, or of bought ones that are restored with another label.
    ``forward``: maps clean answers to all rows (n, classes) to the mean simulated ones; None where there is
    no such map (:func:`attacks.restoring.choice.gives_a_map`).
    """

    targets: Array
    left_out: Sequence[Array]
    changed: float
    forward: Callable[[Array], Array] | None


def restored(
    api: Api,
    x: Images,
    answers: Array,
    single: Mask,
    fold: Labels,
    rest: Images,
    surrogates: SurrogateFactory,
    seed: int,
) -> Restored | None:
    """Return restored ``answers`` (n, classes) to ``x`` (n, …); None where a defense cannot be simulated.

    One instance of the known defenses for each fold, one round, and the network. ``single``: (n,) which
    answers have a label. ``fold``: (n,) folds of the comparison. ``rest``: (m, …) own inputs that were not
    queried. ``seed``: of secrets, noise, the prior and the network.

    An estimate of a row that is learnt comes from surrogates that have seen the labels of the fold left out.
    Restored answers would give these labels away, and look better than they are. So what is learnt for the
    comparison is restored by estimates of surrogates that have seen the labels of one other fold alone. The
    network is the same: it learns the defense's map, from rows of all folds.
    """
    labels, classes = answers.argmax(axis=1), answers.shape[1]
    shadows = ShadowModels.trained(x, labels, single, classes, surrogates, fold)
    try:
        instances = simulated_instances(api, shadows, answers, rest, seed, number=1)
    except NotApplicable:
        return None
    forward = partial(_simulated, instances, shadows) if gives_a_map(instances) else None
    alone = restored_without_labels(instances, shadows, answers, derive(seed, "without labels"))
    if alone is not None:  # of each row's own answer: nothing comes from labels of other rows
        return Restored(alone, (), float((alone.argmax(axis=1) != labels).mean()), forward)
    pairs = simulated_pairs(instances, shadows, answers, derive(seed, "restoration"))
    answered: Mask = np.asarray(np.isfinite(pairs.answers).all(axis=2))
    if not answered.any():
        return None
    network = RestoringNetwork(classes, derive(seed, "restoration"))
    near = np.broadcast_to(shadows.estimates, pairs.clean.shape)
    network.fit(pairs.answers[answered], near[answered], pairs.clean[answered], EFFORT)

    def restore(estimates: Array) -> Array:
        return with_top(network.restore(answers, estimates), pairs.labels)

    by_fold = _predictions_by_fold(x, np.eye(classes)[labels], single, fold, surrogates)
    left_out = [restore(_without(number, by_fold, fold)) for number in range(FOLDS)]
    return Restored(restore(shadows.estimates), left_out, _changed(pairs, answered), forward)


def _simulated(instances: Instances, shadows: ShadowModels, rows: Array) -> Array:
    """Return mean simulated answers (n, classes) to clean ones of all rows."""
    (means,) = defended(instances, shadows, np.ones(len(rows), dtype=bool), rows)
    return means


def _changed(pairs: Pairs, answered: Mask) -> float:
    clean, simulated = pairs.clean[answered], pairs.answers[answered]
    return float((clean.argmax(axis=1) != simulated.argmax(axis=1)).mean())


def _predictions_by_fold(
    x: Images, targets: Array, single: Mask, fold: Labels, surrogates: SurrogateFactory
) -> list[Array]:
    """Return what surrogates predict of all rows that have learnt one fold each."""
    parts = [single & (fold == number) for number in range(FOLDS)]
    trained = surrogates.fit([(x[part], targets[part]) for part in parts], SHADOW_EFFORT)
    return [surrogate(x) for surrogate in trained]


def _without(number: int, by_fold: Sequence[Array], fold: Labels) -> Array:
    """Return estimates (n, classes) that know no label of fold ``number`` and none of the row's own fold.

    Rows of that fold have an estimate as well, which nobody learns.
    """
    others = [other for other in range(FOLDS) if other != number]
    estimates = by_fold[others[0]].copy()
    estimates[fold == others[0]] = by_fold[others[1]][fold == others[0]]
    return estimates
