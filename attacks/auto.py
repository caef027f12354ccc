"""One attacker for every defense: no parameters, one budget, and several ways to read what it was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from attacks.active_thief import ActiveThief
from attacks.base import Api, Array, Extraction, Images, Pool, RandomSeeds, SurrogateFactory, TransferSet
from attacks.labels import Labels, named
from attacks.recover import recover

LEAST = 200
"""With fewer queries there is too little to judge hypotheses by."""
TWICE = 5
"""Inputs that are asked about a second time, to learn whether answers are drawn."""
FOLDS = 3
EFFORT = 0.3
"""Share of the training rule's steps for a copy that only judges a reading."""
SURE = 0.95
"""Probability from which a copy's own label of an input that was not asked about is learnt from."""
SAME = 1e-6
"""Answers that differ by less are equal: a model's last bits may depend on the batch."""
FLOOR = 1e-12

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """What the answers mean under one hypothesis.

    ``targets``: (n, classes), what a copy learns of each input that was answered. ``kept``: (n,) True
    where that is worth learning. ``forward``: what the API would make of a copy's probabilities
    (m, classes) if the hypothesis is true; None where it shows them as they are. ``rest``: whether the
    part of the pool that was not asked about is labelled by a first copy and learnt from as well.
    """

    name: str
    targets: Array
    kept: Mask
    forward: Callable[[Array], Array] | None = None
    rest: bool = False


class Auto(Extraction):
    """Buys one transfer set, reads it in several ways, and keeps the reading that explains it best.

    What AutoAttack (Croce, Hein 2020, arXiv 2003.01690) is for evasion: a procedure without
    parameters that anybody can run against any defense, as the least that an evaluation reports.

    It buys as :class:`attacks.active_thief.ActiveThief` does, by what copies that learn the labels
    choose, since no defense that keeps the label can mislead these.

    The readings: the answers are what the victim said (*as is*; *averaged* where the same input was
    answered twice and not alike); their top-1 alone can be trusted (*labels*); the same, with the
    confident part of the pool that was not asked about on top (*pseudo-labels*, Lee 2013); the defense
    that the thief knows changed them and can be inverted (*recovered*, :class:`attacks.recover.Recover`).

    Each is judged by three-fold cross-validation: by the likelihood of the *label that was told*
    about inputs that a copy has not learnt from, under the reading's own hypothesis, at the
    temperature that suits it best. How well whole answers are predicted would say nothing, since a
    copy of poison predicts poison; nor would a copy's sharpness, which is that of its targets. Of
    the readings within one standard error of the best, the one that takes most from the answers is
    kept (the rule of Breiman et al. 1984, section 3.4.3): to trust an honest answer too little costs
    more than to trust one that was changed so little. Everything bought is then read so.

    With fewer than 200 queries it does as :class:`attacks.labels.Labels` and says so (the fact
    ``small_budget``).
    """

    name = "auto"
    paper = "after AutoAttack, Croce, Hein 2020, arXiv 2003.01690"
    knowledge = ("none", "family", "full")
    row_by_row = False
    prefix = False
    universal = True

    def supply(self, size: int) -> int | None:
        """Return None: what the pool cannot use of a budget goes into repeats."""
        return None

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget; a few inputs come twice, unless it is certain that nothing is drawn.

        Facts: ``small_budget`` (1 below 200 queries), ``repeated`` (queries that were repeats), and
        ``read_as_NAME`` for each reading that was judged: 1 for the one that was kept, else 0.
        """
        if api.budget < LEAST:
            bought = Labels().acquire(api, pool, learner, streams)
            return replace(bought, facts={"small_budget": 1.0, "repeated": 0.0})
        asked, told = buy(api, pool, learner, streams)
        answered = np.isfinite(told).all(axis=1)
        rows, answers, drawn = merged(asked[answered], told[answered])
        facts: dict[str, float | None] = {"small_budget": 0.0}
        facts["repeated"] = float(len(asked) - len(np.unique(asked)))
        x, rest = pool.x[rows], pool.x[np.setdiff1d(np.arange(len(pool.x)), asked)]
        if named(answers).sum() < FOLDS:
            found = [Reading("labels", top(answers), named(answers))]
        else:
            found = readings(x, answers, rest, api, learner, "averaged" if drawn else "as_is")
        best = found[0]
        if len(found) > 1:
            best = found[richest(judged(x, answers, rest, found, learner))]
        facts |= {f"read_as_{each.name}": float(each is best) for each in found}
        ((learnt, targets),) = lessons(x, [(best, best.kept)], rest, learner, 1.0)
        return TransferSet(np.ascontiguousarray(learnt), targets.astype(np.float32), facts=facts)


def buy(api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> tuple[Places, Array]:
    """Return the places of the pool that were asked, repeats last, and the answers (n, classes) as told.

    A few inputs come twice even where the pool would hold new ones, unless the thief knows that there
    is no defense; all that is left comes again where the pool is exhausted.
    """
    new = min(len(pool.x), api.budget - (0 if api.known == () else TWICE))
    asked, told = ActiveThief(strategy="both").buy(api, pool, learner, streams, new)
    again = np.resize(asked, api.budget - len(asked))
    return np.concatenate([asked, again]), np.concatenate([told, api.predict(pool.x[again])])


def merged(asked: Places, told: Array) -> tuple[Places, Array, bool]:
    """Return the distinct places in the order of first asking, their mean answers, and whether any differed.

    ``asked``: (n,) places, ``told``: (n, classes).
    """
    sorted_places, first, back = np.unique(asked, return_index=True, return_inverse=True)
    means = np.zeros((len(sorted_places), told.shape[1]))
    np.add.at(means, back, told)
    means /= np.bincount(back, minlength=len(sorted_places))[:, None]
    drawn = bool((np.abs(told - told[first][back]) > SAME).any())
    order = np.argsort(first)
    return sorted_places[order], (means if drawn else told[first])[order], drawn


def top(answers: Array) -> Array:
    """Return one-hot rows of the top-1 of ``answers`` (n, classes)."""
    return np.asarray(np.eye(answers.shape[1])[answers.argmax(axis=1)])


def readings(
    x: Images, answers: Array, rest: Images, api: Api, learner: SurrogateFactory, plain: str
) -> list[Reading]:
    """Return the readings worth judging, what takes most from the answers first; none twice.

    ``x`` (n, …) was answered with ``answers`` (n, classes), ``rest`` (m, …) was not asked about;
    ``plain`` is the name of the answers as they are.
    """
    every, labels, sure = np.ones(len(x), dtype=bool), top(answers), named(answers)
    if api.known == ():
        return [Reading(plain, answers, every)]
    found = []
    if api.known:
        back = recover(api.known, x, answers, learner)
        found.append(Reading("recovered", back.targets, back.usable, back.forward))
    found.append(Reading(plain, answers, every))
    if len(rest):
        found.append(Reading("pseudo_labels", labels, sure, rest=True))
    found.append(Reading("labels", labels, sure))
    kept: list[Reading] = []
    for each in found:
        if not any(_alike(each, other) for other in kept):
            kept.append(each)
    return kept


def _alike(a: Reading, b: Reading) -> bool:
    same = a.rest == b.rest and np.array_equal(a.kept, b.kept)
    return same and bool(np.allclose(a.targets[a.kept], b.targets[b.kept], rtol=0, atol=SAME))


def judged(
    x: Images, answers: Array, rest: Images, found: Sequence[Reading], learner: SurrogateFactory
) -> list[Array]:
    """Return for each reading the negative log-likelihoods (m,) of the labels told, out of fold.

    Of ``answers`` (n, classes), those are judged by that name a class at all.
    """
    fold, said, labels = np.arange(len(x)) % FOLDS, named(answers), answers.argmax(axis=1)
    scores = []
    for reading in found:
        parts = [(reading, reading.kept & (fold != number)) for number in range(FOLDS)]
        copies = learner.fit(lessons(x, parts, rest, learner, EFFORT), EFFORT)
        told = np.zeros((len(x), reading.targets.shape[1]))
        for number, copy in enumerate(copies):
            told[fold == number] = copy(x[fold == number])
        ways = [surprise(told[said], labels[said])]
        # A strong defense's map is so flat that small errors of the copy become large ones of the label.
        if reading.forward is not None:
            ways.append(surprise(reading.forward(told)[said], labels[said]))
        scores.append(min(ways, key=lambda each: float(each.mean())))
    return scores


def richest(scores: Sequence[Array]) -> int:
    """Return the first of the readings that are within one standard error of the best; scores are (n,)."""
    best = min(scores, key=lambda each: float(each.mean()))
    behind = [each - best for each in scores]
    near = [gap.mean() <= gap.std() / np.sqrt(len(gap)) for gap in behind]
    return near.index(True)


def lessons(
    x: Images,
    parts: Sequence[tuple[Reading, Mask]],
    rest: Images,
    learner: SurrogateFactory,
    effort: float,
) -> list[tuple[Images, Array]]:
    """Return what a copy learns from each part: a reading, and the rows of ``x`` that it may use."""
    sets = [(x[rows], reading.targets[rows]) for reading, rows in parts]
    if not any(reading.rest for reading, _ in parts):
        return sets
    taught = []
    for (inputs, targets), teacher in zip(sets, learner.fit(sets, effort), strict=True):
        said = teacher(rest)
        sure = said.max(axis=1) >= SURE
        taught.append((np.concatenate([inputs, rest[sure]]), np.concatenate([targets, top(said[sure])])))
    return taught


def surprise(told: Array, labels: Places) -> Array:
    """Return (n,) negative log-likelihoods of ``labels`` (n,) under ``told`` (n, classes), in nats.

    At the best temperature: all log-probabilities are multiplied by the same factor (Guo et al. 2017,
    arXiv 1706.04599).
    """
    logs = np.log(np.maximum(told, FLOOR))

    def at(sharpness: float) -> Array:
        scaled = logs * np.exp(sharpness)
        scaled -= scaled.max(axis=1, keepdims=True)
        each: Array = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]
        return each

    found = minimize_scalar(lambda sharpness: float(at(sharpness).mean()), bounds=(-4, 4), method="bounded")
    return at(float(found.x))
