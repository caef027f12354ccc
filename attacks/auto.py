"""The attack ``auto``: one way to query, several ways to interpret and learn answers, and no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attacks.active_thief import ActiveThief
from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    Predictor,
    RandomSeeds,
    SurrogateFactory,
    TransferSet,
)
from attacks.common.validation import most_complex, negative_log_likelihood
from attacks.inverse.numerics.intervals import one_hot
from attacks.labels import has_single_maximum
from attacks.recover import InverseStack, RecoveredAnswers, recover
from attacks.restoring.left_out import restored
from attacks.transfer_sets.guided_queries import MISLEADING, GuidedQueries, changed_labels
from attacks.transfer_sets.repeated_answers import SAME, RepeatedAnswers
from attacks.transfer_sets.ways import ANSWERS, NOISY, VIEWS, WAYS, Ways, kept
from bench.seeds import derive

LEAST = 200
"""Queries below which there is too little to compare interpretations by."""
TWICE = 5
"""Inputs that are queried a second time, to find out whether answers are randomized."""
FOLDS = 3
EFFORT = 0.3
"""Share of the training steps that surrogates take which only evaluate an interpretation."""
EXPLAINED = 0.9
"""Share of the answers in use from which a hand-written inverse is taken to be enough."""
CHANGED = 0.5
"""Share of labels that a simulation changes from which no interpretation takes them for the victim's.

Above that of answers which an inverse explains: which answers a simulation changes is only guessed."""
ENOUGH = 50
"""Answers with a label below which there is too little to train shadow models on."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Interpretation:
    """What the answers mean under one hypothesis.

    ``targets``: (n, classes), what a surrogate learns of each input that was answered. ``usable``: (n,)
    True where that should be learned. ``forward``: maps a surrogate's probabilities (m, classes) to the
    API's answers under the hypothesis; None where it answers them unchanged. ``left_out``: for each fold,
    targets (n, classes) that owe nothing to its labels; empty where those of other rows never do.
    """

    name: str
    targets: Array
    usable: Mask
    forward: Callable[[Array], Array] | None = None
    left_out: Sequence[Array] = ()

    def for_fold(self, number: int) -> Interpretation:
        """Return the same with the targets to learn where a fold is left out."""
        return replace(self, targets=self.left_out[number]) if self.left_out else self


class Auto(Extraction):
    """Queries once, interprets the answers in several ways and learns them in several, and keeps the best.

    What AutoAttack (Croce, Hein 2020, arXiv 2003.01690) is for evasion: a procedure without parameters
    that can be run against any defense, as the minimum that an evaluation reports.

    It queries as :class:`attacks.active_thief.ActiveThief` does, guided by surrogates that learn labels,
    since a defense that keeps the label cannot mislead these.

    The interpretations: the answers are the victim's (*as is*; *averaged* where an input was queried
    twice and the answers differ); only their top-1 is reliable (*labels*); the known defense changed them
    and can be inverted (*recovered*, :class:`attacks.recover.Recover`, or *restored*, as
    :class:`attacks.restore.Restore` does).

    Each is evaluated by three-fold cross-validation: by the likelihood of the *label of the answer* to
    inputs that a surrogate was not trained on, under the interpretation's own hypothesis, at the
    temperature that suits it best. The likelihood of whole answers would be no criterion, since a
    surrogate trained on misleading answers predicts misleading answers; nor would a surrogate's
    confidence, which is that of its targets. Of the interpretations within one standard error of the
    best, the one that uses most of the answers is kept (the rule of Breiman et al. 1984, section 3.4.3):
    using too little of a truthful answer costs more than using one that was changed so little. All
    answers are then interpreted that way.

    Then it chooses what to learn, by the same folds and criterion (:mod:`attacks.transfer_sets.ways`): the
    *answers* alone; with *pseudo-labels*, a surrogate's confident labels of inputs that were not queried
    (Lee 2013); with weak *views* of the answered inputs; or by *self-training*, where strong views of inputs
    that were not queried have the labels of a teacher, which was itself trained so (Xie et al. 2020, "Noisy
    Student", arXiv 1911.04252). The best is kept, unless the answers alone are within one standard error. It
    does so where it knows that there is no defense, too: a better trainer is no broken defense.

    Below 200 queries nothing is compared (the fact ``small_budget``), and none repeated: what is learned are
    the labels, or the recovered answers where an inverse with known parameters explains them.
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
        return ActiveThief().round_trips(budget) + (budget >= LEAST)

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget; a few inputs are repeated, unless it is known that there is no defense.

        Facts: ``small_budget`` (1 below 200 queries), ``repeated`` (queries that were repeats),
        ``unlabelled_inputs`` (those of the pool that were not queried and may be learned from),
        ``read_as_NAME`` for each interpretation that was evaluated, and ``trained_on_NAME`` for each way to
        make the transfer set: 1 for the one that was kept, else 0.
        """
        if api.budget < LEAST:
            transfer_set = without_comparison(api, pool, surrogates, seeds)
            return replace(
                transfer_set, facts={"small_budget": 1.0, "repeated": 0.0, "unlabelled_inputs": 0.0}
            )
        queried, answers = query(api, pool, surrogates, seeds)
        answered = np.isfinite(answers).all(axis=1)
        bought = RepeatedAnswers.of(queried[answered], answers[answered])
        answers = bought.means
        facts: dict[str, float | None] = {"small_budget": 0.0}
        facts["repeated"] = float(len(queried) - len(np.unique(queried)))
        x, rest = pool.x[bought.inputs], pool.x[not_queried(pool, queried, seeds.choices)]
        comparable = has_single_maximum(answers).sum() >= FOLDS
        facts["unlabelled_inputs"] = float(comparable * len(rest))
        if comparable:
            candidates, judged = interpretations(x, bought, rest, api, surrogates, seeds.choices)
        else:
            candidates = [Interpretation("labels", one_hot(answers), has_single_maximum(answers))]
        ways = Ways(rest, surrogates, seeds.choices, EFFORT)
        choice = chosen(x, judged, candidates, ways) if comparable else as_bought(x, candidates[0])
        facts |= {f"read_as_{each.name}": float(each is choice.interpretation) for each in candidates}
        facts |= {f"trained_on_{name}": float(name == choice.way) for name in WAYS}
        inputs, targets = choice.transfer_set
        return TransferSet(np.ascontiguousarray(inputs), targets.astype(np.float32), facts=facts)


def without_comparison(api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
    """Return the labels of answers to guided queries, or these recovered where an inverse explains them.

    Only an inverse with known parameters does: fitted to few answers, a wrong one may explain them, too.
    Labels that known parameters are certain to swap are swapped back in any case.
    """
    queried, answers = GuidedQueries(api.known or ()).query(api, pool, surrogates, seeds, api.budget)
    answered = np.isfinite(answers).all(axis=1)
    x, answers = pool.x[queried[answered]], answers[answered]
    rows, targets = has_single_maximum(answers), one_hot(answers)
    if api.known is not None and all(each.parameters is not None for each in api.known):
        recovered = recover(api.known, x, answers, surrogates)
        targets = InverseStack.of(api.known).relabelled(targets)[0]
        if explains(recovered):
            rows, targets = recovered.usable, recovered.targets
    return TransferSet(np.ascontiguousarray(x[rows]), targets[rows].astype(np.float32))


def query(api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> tuple[Indices, Array]:
    """Return the indices of the pool that were queried, repeats last, and the answers (n, classes).

    A few inputs are repeated even where the pool holds new ones, unless it is known that there is no
    defense; where the pool is exhausted, the rest of the budget is spent on repeats.
    """
    new = min(len(pool.x), api.budget - (0 if api.known == () else TWICE))
    queried, answers = GuidedQueries(api.known or ()).query(api, pool, surrogates, seeds, new)
    again = np.resize(queried, api.budget - len(queried))
    return np.concatenate([queried, again]), np.concatenate([answers, api.predict(pool.x[again])])


def not_queried(pool: Pool, queried: Indices, seed: int) -> Indices:
    """Return the indices of the pool that are not among those ``queried``, in random order.

    None of the pool "test": nothing is learned of test inputs that were not answered.
    """
    if pool.overlaps == "test":
        return queried[:0]
    left = np.setdiff1d(np.arange(len(pool.x)), queried)
    return np.random.default_rng(derive(seed, "not queried")).permutation(left)


def interpretations(
    x: Images, bought: RepeatedAnswers, rest: Images, api: Api, surrogates: SurrogateFactory, seed: int
) -> tuple[list[Interpretation], Array]:
    """Return the distinct interpretations, the one that uses most of the answers first, and what judges them.

    ``x`` (n, …) is what was answered, ``rest`` (m, …) was not queried. ``seed``: of simulated defenses.

    The answers (n, classes) judge, whose labels are compared with predictions. Those that an inverse explains
    as changed judge nothing, and have a row of zeros: who learnt changed labels predicts them best. Where the
    known defense changed too many, an interpretation that takes labels for the victim's is left out.
    """
    answers, unchanged = bought.means, "averaged" if bought.randomized else "as_is"
    every, labels, single = np.ones(len(x), dtype=bool), one_hot(answers), has_single_maximum(answers)
    if api.known == ():
        return [Interpretation(unchanged, answers, every)], answers
    found = informed(x, bought, rest, api, surrogates, seed) if api.known else Informed([], ~every)
    candidates, judged = list(found.candidates), np.where(found.changed[:, None], 0.0, answers)
    if has_single_maximum(judged).sum() < FOLDS:
        judged = answers
    if found.misleading:
        return candidates, judged
    candidates.append(Interpretation(unchanged, answers, every))
    candidates.append(Interpretation("labels", labels, single))
    distinct: list[Interpretation] = []
    for candidate in candidates:
        if not any(_equal(candidate, other) for other in distinct):
            distinct.append(candidate)
    return distinct, judged


@dataclass(frozen=True)
class Informed:
    """The interpretations by which known defenses are undone.

    ``changed``: (n,) answers whose label is not the victim's, by an inverse that explains the answers.
    ``misleading``: whether none of them is to be taken for the victim's.
    """

    candidates: Sequence[Interpretation]
    changed: Mask
    misleading: bool = False


def informed(
    x: Images, bought: RepeatedAnswers, rest: Images, api: Api, surrogates: SurrogateFactory, seed: int
) -> Informed:
    """Return the interpretations by which known defenses are undone.

    Answers are restored only where hand-written inverses do not explain them, which costs less. The inverse
    judges the labels, or else the simulation.
    """
    found_singly = recover(api.known or (), x[bought.place], bought.single, surrogates)
    recovered = bought.by_input(found_singly) if bought.randomized else found_singly
    answers = bought.firsts()
    inverted = Interpretation("recovered", recovered.targets, recovered.usable, recovered.forward)
    single = has_single_maximum(answers)
    nothing = np.zeros(len(x), dtype=bool)
    if explains(recovered):
        changed = changed_labels(recovered, answers)
        return Informed([inverted], changed, bool(changed[single].mean() > MISLEADING))
    if single.sum() < ENOUGH or np.array_equal(answers, one_hot(answers)):
        return Informed([inverted], nothing)
    found = restored(api, x, answers, single, folds(len(x)), rest, surrogates, seed)
    if found is None:
        return Informed([inverted], nothing)
    first = Interpretation("restored", found.targets, ~nothing, found.forward, found.left_out)
    # An inverse that is missing takes labels for the victim's.
    misleading = found.changed > CHANGED
    return Informed([first] if misleading else [first, inverted], nothing, misleading)


def explains(recovered: RecoveredAnswers) -> bool:
    """Return whether hand-written inverses explain the answers that they would have learned."""
    if recovered.forward is None or not recovered.usable.any():
        return False
    return bool(recovered.explained[recovered.usable].mean() >= EXPLAINED)


def folds(number: int) -> Indices:
    """Return (number,) the fold of each row."""
    return np.arange(number) % FOLDS


def _equal(a: Interpretation, b: Interpretation) -> bool:
    same = np.array_equal(a.usable, b.usable)
    return same and bool(np.allclose(a.targets[a.usable], b.targets[b.usable], rtol=0, atol=SAME))


@dataclass(frozen=True)
class Choice:
    """What is kept: the interpretation, the way (one of WAYS) and the transfer set that is learned."""

    interpretation: Interpretation
    way: str
    transfer_set: tuple[Images, Array]


def as_bought(x: Images, candidate: Interpretation) -> Choice:
    """Return the choice of a transfer set that holds what was bought: ``x`` (n, …), as far as usable."""
    rows = candidate.usable
    return Choice(candidate, ANSWERS, (x[rows], candidate.targets[rows]))


def chosen(x: Images, answers: Array, candidates: Sequence[Interpretation], ways: Ways) -> Choice:
    """Return the interpretation of ``answers`` (n, classes) to ``x`` (n, …), and then the way to learn it.

    Both by three-fold cross-validation, with surrogates that take the same share of the training steps.
    Self-training is tried where views are not worse than the answers alone: it learns from views, too.
    """
    trained = [ways.surrogates.fit(fold_parts(x, each), EFFORT) for each in candidates]
    scores = [out_of_fold(x, answers, *each) for each in zip(candidates, trained, strict=True)]
    number = most_complex(scores)
    best, parts = candidates[number], fold_parts(x, candidates[number])
    # Once an interpretation is kept, its targets have the victim's labels. Those of the answers say nothing
    # where a defense changed them.
    shown, plain = np.where(best.usable[:, None], best.targets, 0.0), replace(best, forward=None)
    if has_single_maximum(shown).sum() < FOLDS:
        return as_bought(x, best)
    found = dict(ways.compared(parts, trained[number]))
    losses = {name: out_of_fold(x, shown, plain, students) for name, students in found.items()}
    if VIEWS in found and len(ways.rest) and not most_complex([losses[VIEWS], losses[ANSWERS]]):
        found[NOISY] = ways.self_trained(parts, found[VIEWS])
        losses[NOISY] = out_of_fold(x, shown, plain, found[NOISY])
    part = x[best.usable], best.targets[best.usable]
    way = kept(losses, labels=np.array_equal(part[1], one_hot(part[1])))
    return Choice(best, way, ways.final(way, part, found[way]))


def fold_parts(x: Images, candidate: Interpretation) -> list[tuple[Images, Array]]:
    """Return for each fold the usable inputs of the others, of ``x`` (n, …), and their targets."""
    fold = folds(len(x))
    parts = [(candidate.for_fold(number), candidate.usable & (fold != number)) for number in range(FOLDS)]
    return [(x[rows], each.targets[rows]) for each, rows in parts]


def out_of_fold(x: Images, answers: Array, candidate: Interpretation, trained: Sequence[Predictor]) -> Array:
    """Return the negative log-likelihoods (m,) of answered labels, by surrogates without their folds.

    ``trained``: a surrogate for each fold of ``x`` (n, …). Those ``answers`` (n, classes) count that have a
    single maximum.
    """
    fold, single, labels = folds(len(x)), has_single_maximum(answers), answers.argmax(axis=1)
    predicted = np.zeros((len(x), candidate.targets.shape[1]))
    for number, surrogate in enumerate(trained):
        predicted[fold == number] = surrogate(x[fold == number])
    options = [negative_log_likelihood(predicted[single], labels[single])]
    # A strong defense's map is so flat that small errors of a surrogate become large ones of the label.
    if candidate.forward is not None:
        options.append(negative_log_likelihood(candidate.forward(predicted)[single], labels[single]))
    return min(options, key=lambda option: float(option.mean()))
