"""The attack ``auto``: one way to query, several interpretations of the answers, and no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attacks.active_thief import ActiveThief
from attacks.base import Api, Array, Extraction, Images, Pool, RandomSeeds, SurrogateFactory, TransferSet
from attacks.common.validation import most_complex, negative_log_likelihood
from attacks.labels import Labels, has_single_maximum
from attacks.recover import RecoveredAnswers, recover
from attacks.restoring.left_out import restored

LEAST = 200
"""Queries below which there is too little to compare interpretations by."""
TWICE = 5
"""Inputs that are queried a second time, to find out whether answers are randomized."""
FOLDS = 3
EFFORT = 0.3
"""Share of the training steps that surrogates take which only evaluate an interpretation."""
SURE = 0.95
"""Probability from which a surrogate's label of an input that was not queried is used as a pseudo-label."""
EXPLAINED = 0.9
"""Share of the answers in use from which a hand-written inverse is taken to be enough."""
CHANGED = 0.5
"""Share of labels changed by the known defense from which no interpretation takes them for the victim's."""
ENOUGH = 50
"""Answers with a label below which there is too little to train shadow models on."""
SAME = 1e-6
"""Answers that differ by less are equal: a model's last bits may depend on the batch."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Interpretation:
    """What the answers mean under one hypothesis.

    ``targets``: (n, classes), what a surrogate learns of each input that was answered. ``usable``: (n,)
    True where that should be learned. ``forward``: maps a surrogate's probabilities (m, classes) to the
    API's answers under the hypothesis; None where it answers them unchanged. ``pseudo_labels``: whether
    the part of the pool that was not queried is labelled by a first surrogate and learned, too.
    ``left_out``: for each fold, targets (n, classes) that owe nothing to its labels; empty where those of
    other rows never do.
    """

    name: str
    targets: Array
    usable: Mask
    forward: Callable[[Array], Array] | None = None
    pseudo_labels: bool = False
    left_out: Sequence[Array] = ()

    def for_fold(self, number: int) -> Interpretation:
        """Return the same with the targets to learn where a fold is left out."""
        return replace(self, targets=self.left_out[number]) if self.left_out else self


class Auto(Extraction):
    """Queries one transfer set, interprets it in several ways, and keeps the best interpretation.

    What AutoAttack (Croce, Hein 2020, arXiv 2003.01690) is for evasion: a procedure without parameters
    that can be run against any defense, as the minimum that an evaluation reports.

    It queries as :class:`attacks.active_thief.ActiveThief` does, guided by surrogates that learn labels,
    since a defense that keeps the label cannot mislead these.

    The interpretations: the answers are the victim's (*as is*; *averaged* where an input was queried
    twice and the answers differ); only their top-1 is reliable (*labels*); the same, and a surrogate's
    confident labels of inputs that were not queried are learned, too (*pseudo-labels*, Lee 2013); the
    known defense changed them and can be inverted (*recovered*, :class:`attacks.recover.Recover`).

    Each is evaluated by three-fold cross-validation: by the likelihood of the *label of the answer* to
    inputs that a surrogate was not trained on, under the interpretation's own hypothesis, at the
    temperature that suits it best. The likelihood of whole answers would be no criterion, since a
    surrogate trained on misleading answers predicts misleading answers; nor would a surrogate's
    confidence, which is that of its targets. Of the interpretations within one standard error of the
    best, the one that uses most of the answers is kept (the rule of Breiman et al. 1984, section 3.4.3):
    using too little of a truthful answer costs more than using one that was changed so little. All
    answers are then interpreted that way.

    Below 200 queries it does what :class:`attacks.labels.Labels` does (the fact ``small_budget``).
    """

    name = "auto"
    paper = "after AutoAttack, Croce, Hein 2020, arXiv 2003.01690"
    knowledge = ("none", "family", "full")
    row_by_row = False
    prefix = False
    universal = True

    def supply(self, size: int) -> int | None:
        """Return None: queries beyond the size of the pool are repeats."""
        return None

    def round_trips(self, budget: int) -> int:
        """Return the batches of its queries, and the repeats."""
        return min(1, budget) if budget < LEAST else ActiveThief().round_trips(budget) + 1

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget; a few inputs are repeated, unless it is known that there is no defense.

        Facts: ``small_budget`` (1 below 200 queries), ``repeated`` (queries that were repeats), and
        ``read_as_NAME`` for each interpretation that was evaluated: 1 for the one that was kept, else 0.
        """
        if api.budget < LEAST:
            transfer_set = Labels().acquire(api, pool, surrogates, seeds)
            return replace(transfer_set, facts={"small_budget": 1.0, "repeated": 0.0})
        queried, answers = query(api, pool, surrogates, seeds)
        answered = np.isfinite(answers).all(axis=1)
        rows, answers, randomized = averaged(queried[answered], answers[answered])
        facts: dict[str, float | None] = {"small_budget": 0.0}
        facts["repeated"] = float(len(queried) - len(np.unique(queried)))
        x, rest = pool.x[rows], pool.x[np.setdiff1d(np.arange(len(pool.x)), queried)]
        if has_single_maximum(answers).sum() < FOLDS:
            candidates = [Interpretation("labels", one_hot(answers), has_single_maximum(answers))]
        else:
            unchanged = "averaged" if randomized else "as_is"
            candidates = interpretations(x, answers, rest, api, surrogates, unchanged, seeds.choices)
        best = candidates[0]
        if len(candidates) > 1:
            best = candidates[most_complex(cross_validated(x, answers, rest, candidates, surrogates))]
        facts |= {f"read_as_{candidate.name}": float(candidate is best) for candidate in candidates}
        ((inputs, targets),) = training_sets(x, [(best, best.usable)], rest, surrogates, 1.0)
        return TransferSet(np.ascontiguousarray(inputs), targets.astype(np.float32), facts=facts)


def query(api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> tuple[Indices, Array]:
    """Return the indices of the pool that were queried, repeats last, and the answers (n, classes).

    A few inputs are repeated even where the pool holds new ones, unless it is known that there is no
    defense; where the pool is exhausted, the rest of the budget is spent on repeats.
    """
    new = min(len(pool.x), api.budget - (0 if api.known == () else TWICE))
    queried, answers = ActiveThief(strategy="both").query(api, pool, surrogates, seeds, new)
    again = np.resize(queried, api.budget - len(queried))
    return np.concatenate([queried, again]), np.concatenate([answers, api.predict(pool.x[again])])


def averaged(queried: Indices, answers: Array) -> tuple[Indices, Array, bool]:
    """Return distinct indices in order of their first query, their mean answers, and whether any differed.

    ``queried``: (n,) indices, ``answers``: (n, classes).
    """
    distinct, first, back = np.unique(queried, return_index=True, return_inverse=True)
    means = np.zeros((len(distinct), answers.shape[1]))
    np.add.at(means, back, answers)
    means /= np.bincount(back, minlength=len(distinct))[:, None]
    randomized = bool((np.abs(answers - answers[first][back]) > SAME).any())
    order = np.argsort(first)
    return distinct[order], (means if randomized else answers[first])[order], randomized


def one_hot(answers: Array) -> Array:
    """Return one-hot rows of the top-1 of ``answers`` (n, classes)."""
    return np.asarray(np.eye(answers.shape[1])[answers.argmax(axis=1)])


def interpretations(
    x: Images, answers: Array, rest: Images, api: Api, surrogates: SurrogateFactory, unchanged: str, seed: int
) -> list[Interpretation]:
    """Return the distinct interpretations, the one that uses most of the answers first.

    ``x`` (n, …) was answered with ``answers`` (n, classes), ``rest`` (m, …) was not queried;
    ``unchanged`` is the name of the answers as they are. ``seed``: of simulated defenses.

    An interpretation that takes labels for the victim's is left out where the known defense changed most.
    """
    every, labels, single = np.ones(len(x), dtype=bool), one_hot(answers), has_single_maximum(answers)
    if api.known == ():
        return [Interpretation(unchanged, answers, every)]
    candidates, changed = informed(x, answers, rest, api, surrogates, seed) if api.known else ([], 0.0)
    if changed > CHANGED:
        return candidates
    candidates.append(Interpretation(unchanged, answers, every))
    if len(rest):
        candidates.append(Interpretation("pseudo_labels", labels, single, pseudo_labels=True))
    candidates.append(Interpretation("labels", labels, single))
    distinct: list[Interpretation] = []
    for candidate in candidates:
        if not any(_equal(candidate, other) for other in distinct):
            distinct.append(candidate)
    return distinct


def informed(
    x: Images, answers: Array, rest: Images, api: Api, surrogates: SurrogateFactory, seed: int
) -> tuple[list[Interpretation], float]:
    """Return the interpretations by which known defenses are undone, and the share of labels they changed.

    Answers are restored only where hand-written inverses do not explain them, which costs less. The share is
    that of the interpretation that comes first: by the inverse, or else by the simulation.
    """
    recovered = recover(api.known or (), x, answers, surrogates)
    inverted = Interpretation("recovered", recovered.targets, recovered.usable, recovered.forward)
    single = has_single_maximum(answers)
    if explains(recovered):
        return [inverted], _labels_changed(recovered, answers, single)
    if single.sum() < ENOUGH or np.array_equal(answers, one_hot(answers)):
        return [inverted], 0.0
    found = restored(api, x, answers, single, folds(len(x)), rest, surrogates, seed)
    if found is None:
        return [inverted], 0.0
    every = np.ones(len(x), dtype=bool)
    first = Interpretation("restored", found.targets, every, left_out=found.left_out)
    # An inverse that is missing takes labels for the victim's.
    return ([first], found.changed) if found.changed > CHANGED else ([first, inverted], found.changed)


def explains(recovered: RecoveredAnswers) -> bool:
    """Return whether hand-written inverses explain the answers that they would have learned."""
    if recovered.forward is None or not recovered.usable.any():
        return False
    return bool(recovered.explained[recovered.usable].mean() >= EXPLAINED)


def _labels_changed(recovered: RecoveredAnswers, answers: Array, single: Mask) -> float:
    """Return the share of explained answers (n, classes) whose label is not that of the recovered row."""
    rows = recovered.explained & recovered.usable & single
    if not rows.any():
        return 0.0
    return float((recovered.targets[rows].argmax(axis=1) != answers[rows].argmax(axis=1)).mean())


def folds(number: int) -> Indices:
    """Return (number,) the fold of each row."""
    return np.arange(number) % FOLDS


def _equal(a: Interpretation, b: Interpretation) -> bool:
    same = a.pseudo_labels == b.pseudo_labels and np.array_equal(a.usable, b.usable)
    return same and bool(np.allclose(a.targets[a.usable], b.targets[b.usable], rtol=0, atol=SAME))


def cross_validated(
    x: Images,
    answers: Array,
    rest: Images,
    candidates: Sequence[Interpretation],
    surrogates: SurrogateFactory,
) -> list[Array]:
    """Return for each interpretation the negative log-likelihoods (m,) of the answers' labels, out of fold.

    Those ``answers`` (n, classes) count that have a single maximum.
    """
    fold, single, labels = folds(len(x)), has_single_maximum(answers), answers.argmax(axis=1)
    scores = []
    for candidate in candidates:
        parts = [(candidate.for_fold(number), candidate.usable & (fold != number)) for number in range(FOLDS)]
        trained = surrogates.fit(training_sets(x, parts, rest, surrogates, EFFORT), EFFORT)
        predicted = np.zeros((len(x), candidate.targets.shape[1]))
        for number, surrogate in enumerate(trained):
            predicted[fold == number] = surrogate(x[fold == number])
        options = [negative_log_likelihood(predicted[single], labels[single])]
        # A strong defense's map is so flat that small errors of a surrogate become large ones of the label.
        if candidate.forward is not None:
            options.append(negative_log_likelihood(candidate.forward(predicted)[single], labels[single]))
        scores.append(min(options, key=lambda option: float(option.mean())))
    return scores


def training_sets(
    x: Images,
    parts: Sequence[tuple[Interpretation, Mask]],
    rest: Images,
    surrogates: SurrogateFactory,
    effort: float,
) -> list[tuple[Images, Array]]:
    """Return inputs and targets to train on, for each interpretation and the rows of ``x`` it may use."""
    sets = [(x[rows], candidate.targets[rows]) for candidate, rows in parts]
    if not any(candidate.pseudo_labels for candidate, _ in parts):
        return sets
    extended = []
    for (inputs, targets), surrogate in zip(sets, surrogates.fit(sets, effort), strict=True):
        predicted = surrogate(rest)
        sure = predicted.max(axis=1) >= SURE
        extended.append(
            (np.concatenate([inputs, rest[sure]]), np.concatenate([targets, one_hot(predicted[sure])]))
        )
    return extended
