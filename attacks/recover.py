"""Recovery: the defenses are known, and their inverses are applied to the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Known,
    Pool,
    RandomSeeds,
    SurrogateFactory,
    TransferSet,
)
from attacks.inverse import inverse_of
from attacks.inverse.base import Inverse, StackPosition
from attacks.inverse.numerics.intervals import one_hot
from bench.seeds import random_state

Mask = NDArray[np.bool_]

EFFORT = 0.3
"""Share of the training steps that surrogates take which only estimate rows."""
FOLDS = 3
ROUNDS = 2
"""How often surrogates are trained to estimate every row, and the rows recovered again with the estimate."""
FEW = 20
"""Answers below which no surrogate is trained for that: two thirds of them are too few to learn from."""


@dataclass(frozen=True)
class RecoveredAnswers:
    """The victim's answers, estimated under the hypothesis that the defenses are the known ones.

    ``targets``: (n, classes) float64 distributions, the estimates. ``usable``: (n,), False where the
    answer is not the victim's and should not be learned from. ``explained``: (n,), True where the
    defenses could be inverted; elsewhere the target is the label of the answer. ``forward``: maps rows
    (n, classes) to the mean answers of the defenses; None where a defense cannot be simulated.
    ``facts``: fitted parameters, by name.
    """

    targets: Array
    usable: Mask
    explained: Mask
    forward: Callable[[Array], Array] | None
    facts: Mapping[str, float] = field(default_factory=dict)


class Recover(Extraction):
    """Queries at random, as Copycat does, and learns from estimates of the undefended answers.

    The defenses are inverted one after another, the last one first, each by its module in
    :mod:`attacks.inverse`. What an answer leaves open is filled in by an estimate: surrogates are
    trained on two thirds of the rows recovered so far and predict the other third; two rounds of this.
    Of rows that cannot be explained the label is learned, rejected ones are dropped. With knowledge
    "family" parameters are fitted to the answers. Without a defense the answers are learned unchanged.

    Facts: ``recovered``, the share of answers that were explained; each fitted parameter by its name.
    """

    name = "recover"
    knowledge = ("family", "full")
    row_by_row = False
    prefix = False

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement, and recover."""
        queries = pool.x[random_state(seeds.order).permutation(len(pool.x))[: api.budget]]
        answers = api.predict(queries)
        answered = np.isfinite(answers).all(axis=1)
        x, answers = np.ascontiguousarray(queries[answered]), answers[answered]
        recovered = recover(api.known or (), x, answers, surrogates)
        share = float(recovered.explained.mean()) if len(x) else None
        return TransferSet(
            np.ascontiguousarray(x[recovered.usable]),
            recovered.targets[recovered.usable].astype(np.float32),
            facts={"recovered": share, **recovered.facts},
        )


def recover(
    known: Sequence[Known], x: Images, answers: Array, surrogates: SurrogateFactory
) -> RecoveredAnswers:
    """Return estimates of the victim's answers to ``x``, from ``answers`` (n, classes) of ``known`` defenses.

    No answer may be rejected (NaN). The same arguments give the same result.
    """
    nothing = np.zeros(len(answers), dtype=bool)
    if not known or not len(answers):
        return RecoveredAnswers(answers, ~nothing, ~nothing, lambda rows: rows)
    labels = one_hot(answers)
    if (answers == labels).all():  # the API shows labels, and no arithmetic is left to invert
        return _relabelled(known, answers)
    inverses, facts = _inverses(known, answers, lambda: _estimate(x, labels, ~nothing, surrogates))
    stack = InverseStack(inverses)
    recovered = stack.invert(answers, None)
    if stack.uses_estimate and len(answers) >= FEW:
        for _ in range(ROUNDS):
            estimate = _estimate(x, recovered.targets, recovered.usable, surrogates)
            recovered = stack.invert(answers, estimate)
    return RecoveredAnswers(recovered.targets, recovered.usable, recovered.explained, stack.forward, facts)


def _relabelled(known: Sequence[Known], labels: Array) -> RecoveredAnswers:
    """Return what is behind ``labels`` (n, classes) alone: the same, unless a defense swaps two classes."""
    every = np.ones(len(labels), dtype=bool)
    certain = [each for each in known if each.parameters is not None]
    rows, swaps = InverseStack.of(certain).relabelled(labels)
    if not swaps:
        return RecoveredAnswers(labels, every, ~every, None)
    return RecoveredAnswers(
        rows, every, every, (lambda clean: clean) if swaps % 2 == 0 else lambda clean: 1 - clean
    )


def _inverses(
    known: Sequence[Known], answers: Array, estimator: Callable[[], Array]
) -> tuple[list[Inverse], dict[str, float]]:
    """Return each defense's inverse, and the parameters that had to be fitted."""
    inverses: list[Inverse] = []
    facts: dict[str, float] = {}
    for defense in known:
        inverse, parameters = inverse_of(defense.name), defense.parameters
        if parameters is not None:
            inverses.append(inverse(parameters))
            continue
        fitted = inverse().fit(answers, estimator)
        facts |= {name: float(value) for name, value in fitted.items()}
        inverses.append(inverse(fitted, fitted=True))
    return inverses, facts


@dataclass(frozen=True)
class InverseStack:
    """The inverses of a stack of defenses, in the order in which the defenses answer."""

    inverses: Sequence[Inverse]

    @classmethod
    def of(cls, known: Sequence[Known]) -> InverseStack:
        """Return the inverses of ``known`` defenses, the parameters of all of which are known."""
        return cls([inverse_of(each.name)(each.parameters) for each in known])

    @property
    def uses_estimate(self) -> bool:
        """Whether any inverse makes use of an estimate."""
        return any(inverse.uses_estimate for inverse in self.inverses)

    @property
    def forward(self) -> Callable[[Array], Array] | None:
        """The map from rows to mean answers of the stack; None where a defense cannot be simulated."""
        return self._answers if all(inverse.has_forward for inverse in self.inverses) else None

    def _answers(self, rows: Array) -> Array:
        for inverse in self.inverses:
            rows = inverse.forward(rows)
        return rows

    def relabelled(self, labels: Array) -> tuple[Array, int]:
        """Return the victim's labels behind ``labels`` (n, classes), one-hot rows, and how many swaps.

        Those whose parameters were fitted to answers are not asked.
        """
        swaps = 0
        for inverse in reversed(self.inverses):
            found = None if inverse.fitted else inverse.relabelled(labels)
            if found is not None:
                labels, swaps = found, swaps + 1
        return labels, swaps

    def invert(self, answers: Array, estimate: Array | None) -> RecoveredAnswers:
        """Return the rows behind the answers; ``estimate`` (n, classes) is of the victim's answers."""
        estimates = [estimate]
        for inverse in self.inverses:
            estimates.append(None if estimate is None else inverse.forward(np.asarray(estimates[-1])))
        rows = answers.copy()
        explained, usable = np.ones(len(answers), dtype=bool), np.ones(len(answers), dtype=bool)
        exact = True
        for place in reversed(range(len(self.inverses))):
            inverse, near = self.inverses[place], estimates[place]
            before = self.inverses[place - 1] if place else None
            position = StackPosition(
                before is None or before.sums_to_one, exact, before.resolution if before else None
            )
            rows[usable], ok = inverse.invert(rows[usable], None if near is None else near[usable], position)
            explained[usable] &= ok
            usable &= np.isfinite(rows).all(axis=1)
            exact &= inverse.exact
        if not usable.any():  # the answers as they are teach more than nothing
            return RecoveredAnswers(answers, ~usable, usable, None)
        lost = usable & ~explained
        rows[lost] = self.relabelled(one_hot(answers)[lost])[0]
        return RecoveredAnswers(rows, usable, explained & usable, None)


def _estimate(x: Images, targets: Array, usable: Mask, surrogates: SurrogateFactory) -> Array:
    """Return (n, classes), predictions of surrogates for rows that they were not trained on, by folds."""
    fold = np.arange(len(x)) % FOLDS
    estimate = np.empty(targets.shape)
    parts = [usable & (fold != number) for number in range(FOLDS)]
    trained = surrogates.fit([(x[part], targets[part]) for part in parts], EFFORT)
    for number, surrogate in enumerate(trained):
        estimate[fold == number] = surrogate(x[fold == number])
    return estimate
