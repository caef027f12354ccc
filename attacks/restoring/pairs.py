"""Pairs of clean and defended answers, by simulated defenses that are fitted on the attacker's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, Array, Images, Known, Predictor, Shadow, Simulation, SurrogateFactory
from attacks.restoring import prior
from attacks.restoring.prior import UNKNOWN
from attacks.restoring.training_work import training_work
from bench.seeds import derive

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]

FOLDS = 3
EFFORT = 0.3
"""Share of the training steps that shadow models take."""
OWN = 1_000
"""Inputs that were not queried and that simulated defenses are fitted on too, at most."""
MOST_ROWS = 2_000
"""Rows of either split that a simulated defense is fitted on, at most."""
MOST_UPDATES = 125_000_000
"""What training of simulated defenses may take: parameters times the steps that change them, of all fits."""
INSTANCES = 3
"""Instances of the defenses for each fold, each with secrets of its own."""
CANDIDATES = 12
"""Parameters that are drawn where they are not known."""
FEWEST_CANDIDATES = 2
"""The same where fitting takes much training."""
KEPT = 3
"""How many of these are kept: those whose answers are most like the ones that were bought."""
DRAWS = 60
"""Clean rows that are drawn for each answer, at most."""
FEWEST_DRAWS = 12
TURNS = 3
"""How often the classes of a row are turned to see whether an answer depends on it."""
PAIRS = 60_000
"""Pairs up to which :data:`DRAWS` are drawn."""


@dataclass(frozen=True)
class ShadowModels:
    """Surrogates that learnt the labels of the answers, each without one fold of the rows.

    ``fold``: (n,) each row's fold. ``predictors``: one a fold, which did not learn from it. ``estimates``:
    (n, classes) of the clean answers, what surrogates predict of a fold that they did not learn from.
    ``single``: (n,) which rows have a label.
    """

    x: Images
    labels: Labels
    single: Mask
    fold: Labels
    predictors: Sequence[Predictor]
    estimates: Array

    @classmethod
    def trained(
        cls,
        x: Images,
        labels: Labels,
        single: Mask,
        classes: int,
        surrogates: SurrogateFactory,
        fold: Labels | None = None,
    ) -> ShadowModels:
        """Train them on inputs (n, …) and their labels (n,), as far as these are ``single`` maxima.

        ``fold``: (n,) each row's fold; None for folds with as many labels each.
        """
        if fold is None:
            # In turn, and rows with a label for themselves, so that each fold has its share of these.
            fold = np.where(single, np.cumsum(single), np.cumsum(~single)) % FOLDS
        predictors, estimates = _cross_fitted(x, np.eye(classes)[labels], single, fold, surrogates)
        return cls(x, labels, single, fold, predictors, estimates)

    def with_estimates_by(self, targets: Array, surrogates: SurrogateFactory) -> ShadowModels:
        """Return the same with the estimates of surrogates that learn ``targets`` (n, classes)."""
        every = np.ones(len(self.x), dtype=bool)
        return replace(self, estimates=_cross_fitted(self.x, targets, every, self.fold, surrogates)[1])

    def without_first_fold(self, surrogates: SurrogateFactory) -> tuple[ShadowModels, Mask]:
        """Return the shadow models of the other folds, estimated as if there were no first one; and its rows.

        Nothing in the estimates comes from the labels of the first fold, which can then judge what is learnt.
        """
        first = self.fold == 0
        kept = ~first
        others = range(1, FOLDS)
        parts = [self.single & kept & (self.fold != number) for number in others]
        targets = np.eye(self.estimates.shape[1])[self.labels]
        trained = surrogates.fit([(self.x[part], targets[part]) for part in parts], EFFORT)
        estimates = self.estimates.copy()
        for number, predictor in zip(others, trained, strict=True):
            estimates[self.fold == number] = predictor(self.x[self.fold == number])
        rows = (self.x[kept], self.labels[kept], self.single[kept], self.fold[kept])
        return ShadowModels(*rows, self.predictors, estimates[kept]), first

    def shadow(self, number: int, rest: Images, seed: int) -> Shadow:
        """Return what the defenses of a fold's rows are fitted on.

        The rows that the fold's predictor learnt from, and two thirds of ``rest`` (m, …), are the training
        split; the fold itself and the other third are the calibration split. Inputs that were not queried
        have the predictor's labels. Of the rows, the first are taken where a split would have over
        :data:`MOST_ROWS`.
        """
        predictor, inside = self.predictors[number], self.fold == number
        guessed = predictor(rest).argmax(axis=1) if len(rest) else np.zeros(0, np.int64)
        held_out = np.arange(len(rest)) % FOLDS == number

        def joined(rows: Mask, others: Mask) -> tuple[Images, Labels]:
            own = np.flatnonzero(rows)[: MOST_ROWS - np.count_nonzero(others)]
            x = np.ascontiguousarray(np.concatenate([self.x[own], rest[others]]), dtype=np.float32)
            return x, np.concatenate([self.labels[own], guessed[others]]).astype(np.int64)

        training, calibration = (
            joined(self.single & ~inside, ~held_out),
            joined(self.single & inside, held_out),
        )
        return Shadow(predictor, *training, *calibration, seed=seed)


@dataclass(frozen=True)
class Pairs:
    """Clean rows and their simulated answers, (draws, n, classes) each; rejected answers are NaN rows.

    ``labels``: (n,) the top-1 that clean rows are known to have, else ``UNKNOWN``.
    """

    clean: Array
    answers: Array
    labels: Labels

    def part(self, draws: slice) -> Pairs:
        """Return some of the draws."""
        return Pairs(self.clean[draws], self.answers[draws], self.labels)

    def other_labels(self) -> float:
        """Return the share of answers, rejected ones left out, whose top-1 is not that of the clean row."""
        answered = np.isfinite(self.answers).all(axis=2)
        clean, answers = self.clean[answered], self.answers[answered]
        return float((clean.argmax(axis=1) != answers.argmax(axis=1)).mean()) if answered.any() else 0.0


def _cross_fitted(
    x: Images, targets: Array, usable: Mask, fold: Labels, surrogates: SurrogateFactory
) -> tuple[Sequence[Predictor], Array]:
    """Return surrogates that learn all ``usable`` rows but one fold, and what each predicts of that fold."""
    parts = [usable & (fold != number) for number in range(FOLDS)]
    predictors = surrogates.fit([(x[part], targets[part]) for part in parts], EFFORT)
    found = np.empty(targets.shape)
    for number, predictor in enumerate(predictors):
        found[fold == number] = predictor(x[fold == number])
    return predictors, found


Instances = Sequence[Sequence[Simulation]]
"""Instances of the known defenses: of each, a simulation for each fold."""


def simulated_pairs(
    instances: Instances,
    shadows: ShadowModels,
    answers: Array,
    seed: int,
    distribution: prior.Prior = prior.AROUND_ESTIMATES,
) -> Pairs:
    """Return pairs for each row, with clean rows drawn for its estimate; ``seed``: of what is drawn.

    ``answers``: (n, classes), the bought ones, by which the widths of the prior are chosen.
    ``distribution``: the prior.
    """
    n, classes = shadows.estimates.shape
    place = int(shadows.fold.min())
    apart = [
        _distance(instances[0][place], shadows, answers, width, seed, distribution)
        for width in distribution.widths
    ]
    kept = np.argsort(apart, kind="stable")[: distribution.kept]
    widths = [distribution.widths[place] for place in kept]
    draws = int(np.clip(PAIRS // n, FEWEST_DRAWS, DRAWS))
    labels = _known_labels(shadows, instances[0])
    clean, simulated = np.empty((draws, n, classes)), np.empty((draws, n, classes))
    for number in range(draws):
        width, instance = widths[number % len(widths)], instances[number // len(widths) % len(instances)]
        clean[number] = distribution.draw(shadows.estimates, labels, derive(seed, "prior", number), width)
        for fold, simulation in enumerate(instance):
            rows = shadows.fold == fold
            if not rows.any():
                continue
            simulated[number, rows] = simulation.answer(shadows.x[rows], clean[number, rows], number)
    return Pairs(clean, simulated, labels)


@dataclass(frozen=True)
class GenuinePairs:
    """Answers of the shadow models, and the same defended: here the defended model is known.

    ``clean``, ``answers``: (instances, n, classes); rejected answers are NaN rows. ``estimates``: (n,
    classes) of another shadow model, as estimates of the victim's answers are another model's.
    """

    clean: Array
    answers: Array
    estimates: Array

    def of(self, rows: Mask) -> GenuinePairs:
        """Return those of some rows (n,)."""
        return GenuinePairs(self.clean[:, rows], self.answers[:, rows], self.estimates[rows])


def genuine_pairs(instances: Instances, shadows: ShadowModels) -> GenuinePairs | None:
    """Return what shadow models answer, and what each instance makes of it, if defenses answer from inputs.

    None where all of their answers depend on the row, as those of most defenses do. Where not, a drawn row
    and what a defense makes of the input need not be of one model, so that drawn pairs may mislead: another
    model's answers are nearer to the victim's than a row that is drawn.
    """
    own, other = np.empty(shadows.estimates.shape), np.empty(shadows.estimates.shape)
    answers = np.empty((len(instances), *own.shape))
    alike = False
    for fold, predictor in enumerate(shadows.predictors):
        rows = shadows.fold == fold
        if not rows.any():
            continue
        x = shadows.x[rows]
        own[rows] = predictor(x)
        other[rows] = shadows.predictors[(fold + 1) % FOLDS](x)
        for number, instance in enumerate(instances):
            answers[number, rows] = instance[fold].answer(x, own[rows], number)
        alike = alike or _from_input(instances[0][fold], x, own[rows], answers[0, rows])
    return GenuinePairs(np.broadcast_to(own, answers.shape), answers, other) if alike else None


def _from_input(simulation: Simulation, x: Images, rows: Array, answers: Array) -> bool:
    """Return whether some of the ``answers`` to ``rows`` (n, classes) are the same for rows of other classes.

    One-hot answers may be the same by chance.
    """
    turns = range(1, min(TURNS, rows.shape[1] - 1) + 1)
    found = [answers, *(simulation.answer(x, np.roll(rows, by, axis=1), 0) for by in turns)]
    soft = np.isfinite(answers).all(axis=1) & (answers.max(axis=1) < 1)
    pairs = [(one == two).all(axis=1) for one, two in combinations(found, 2)]
    return bool((np.any(pairs, axis=0) & soft).any())


def _known_labels(shadows: ShadowModels, simulations: Sequence[Simulation]) -> Labels:
    """Return (n,) labels where the defenses keep them."""
    keeps = all(simulation.keeps_label for simulation in simulations)
    return np.where(shadows.single & keeps, shadows.labels, UNKNOWN).astype(np.int64)


def simulated_instances(
    api: Api, shadows: ShadowModels, answers: Array, rest: Images, seed: int, number: int = INSTANCES
) -> list[list[Simulation]]:
    """Return instances of the known defenses, each with a simulation for each fold.

    ``answers``: (n, classes), the bought ones, by which unknown parameters are chosen. ``rest``: (m, …) own
    inputs that were not queried. ``number``: of instances; of those with unknown parameters, at most
    :data:`KEPT`. Raises NotApplicable for a defense that cannot be simulated.

    Defenses whose fitting takes much training (:data:`MOST_UPDATES`) have one instance, and, where that is
    still too much, the same one for all folds. It then answers rows that it was fitted on, which a defense
    may treat unlike new ones.
    """
    rest = rest[:OWN]

    def fitted(known: Sequence[Known], *names: str | int, fold: int = 0) -> Simulation:
        return api.simulate(known, shadows.shadow(fold, rest, derive(seed, *names)))

    known = tuple(api.known or ())
    certain = all(each.parameters is not None for each in known)
    with training_work() as work:
        first = fitted(known, "instance", 0, 0) if certain else fitted(known, "candidate", 0)
    affordable = MOST_UPDATES // max(work.updates, 1)
    kept = [0]
    candidates = [first]
    if not certain:
        others = range(1, min(CANDIDATES, max(affordable, FEWEST_CANDIDATES)))
        candidates = _distinct([first, *(fitted(known, "candidate", place) for place in others)])
        kept = _most_like(candidates, shadows, answers, seed)
    if affordable < FOLDS:
        return [[candidates[kept[0]]] * FOLDS]
    if affordable < FOLDS * number:
        number = 1
    chosen = [(place, candidates[place].known) for place in kept[:number]]
    if len(candidates) == 1:
        chosen = [(place, first.known) for place in range(number)]
    return [
        [
            first if certain and place == fold == 0 else fitted(known, "instance", place, fold, fold=fold)
            for fold in range(FOLDS)
        ]
        for place, known in chosen
    ]


def _distinct(candidates: Sequence[Simulation]) -> list[Simulation]:
    """Return simulations without those that have the parameters of an earlier one."""
    found: list[Simulation] = []
    for simulation in candidates:
        if simulation.known not in [each.known for each in found]:
            found.append(simulation)
    return found


def _most_like(
    candidates: Sequence[Simulation], shadows: ShadowModels, answers: Array, seed: int
) -> list[int]:
    """Return the places of the simulations of the first fold whose answers are most like the bought ones."""
    if len(candidates) == 1:
        return [0]
    apart = [
        min(_distance(candidate, shadows, answers, width, seed) for width in prior.WIDTHS)
        for candidate in candidates
    ]
    return [int(place) for place in np.argsort(apart, kind="stable")[:KEPT]]


def _distance(
    simulation: Simulation,
    shadows: ShadowModels,
    answers: Array,
    width: prior.Width,
    seed: int,
    distribution: prior.Prior = prior.AROUND_ESTIMATES,
) -> float:
    """Return how far simulated answers to a fold are from the bought ones, as a whole.

    The fold is the first one there is. ``width``: of the prior of clean rows. Simulations are judged by a
    summary, as in approximate Bayesian computation (Beaumont, Zhang, Balding 2002, Genetics 162): here by
    quantiles of sorted answers.
    """
    rows = shadows.fold == shadows.fold.min()
    labels = _known_labels(shadows, [simulation])
    clean = distribution.draw(shadows.estimates, labels, derive(seed, "summary"), width)
    simulated = simulation.answer(shadows.x[rows], clean[rows])
    answered = np.isfinite(simulated).all(axis=1)
    if not answered.any():
        return np.inf
    return float(np.abs(_summary(simulated[answered]) - _summary(answers[rows])).sum())


def _summary(answers: Array) -> Array:
    """Return five quantiles (5, classes) of the largest entries, of the second largest, and so on."""
    ranked = np.sort(answers, axis=1)[:, ::-1]
    found: Array = np.quantile(ranked, (0.1, 0.25, 0.5, 0.75, 0.9), axis=0)
    return found
