"""Recovery: a thief who knows the defenses works his way back through them, row by row."""

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
from attacks.inversion import one_hot
from attacks.inversions import Inversion, View, inversion
from bench.seeds import random_state

Mask = NDArray[np.bool_]

EFFORT = 0.3
"""Share of the training rule's steps for a copy that only guesses."""
FOLDS = 3
ROUNDS = 2
"""How often copies are trained for a guess of every row, and the rows recovered again with it."""
FEW = 20
"""Answers below which no copy is trained for that: two thirds of them would teach it next to nothing."""


@dataclass(frozen=True)
class Recovered:
    """What a thief makes of answers under the hypothesis that he knows the defenses.

    ``targets``: (n, classes) float64 distributions, what the victim may have said. ``worth``: (n,),
    False where the answer is not the victim's and should not be learnt from. ``found``: (n,), True
    where the defenses could be undone; elsewhere the target is the label of the answer. ``forward``:
    what the defenses make of rows (n, classes) on average; None where a defense is not known well
    enough. ``facts``: fitted parameters, by name.
    """

    targets: Array
    worth: Mask
    found: Mask
    forward: Callable[[Array], Array] | None
    facts: Mapping[str, float] = field(default_factory=dict)


class Recover(Extraction):
    """Buys at random, as Copycat does, and learns from its estimate of what the undefended victim said.

    The defenses are undone one after another, the last one first, each as :mod:`attacks.inversions`
    says. What an answer leaves open is filled in by a guess: copies of the thief's own are trained on
    two thirds of the rows recovered so far, and guess the other third; twice over. Rows that cannot be
    explained are learnt by their label, refused ones not at all. With knowledge "family" parameters
    are fitted from the answers. Without a defense the answers are learnt as they are.

    Facts: ``recovered``, the share of answers that were explained; each fitted parameter by its name.
    """

    name = "recover"
    knowledge = ("family", "full")
    row_by_row = False
    prefix = False

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget on random inputs of the pool, drawn without replacement, and recover."""
        asked = pool.x[random_state(streams.order).permutation(len(pool.x))[: api.budget]]
        told = api.predict(asked)
        answered = np.isfinite(told).all(axis=1)
        x, told = np.ascontiguousarray(asked[answered]), told[answered]
        made = hypothesis(api.known or (), x, told, learner)
        share = float(made.found.mean()) if len(x) else None
        return TransferSet(
            np.ascontiguousarray(x[made.worth]),
            made.targets[made.worth].astype(np.float32),
            facts={"recovered": share, **made.facts},
        )


def hypothesis(known: Sequence[Known], x: Images, told: Array, learner: SurrogateFactory) -> Recovered:
    """Return what answers ``told`` (n, classes) to inputs ``x`` say, if the defenses are the ``known`` ones.

    No answer may be refused (NaN). The same arguments give the same result.
    """
    nothing = np.zeros(len(told), dtype=bool)
    if not known or not len(told):
        return Recovered(told, ~nothing, ~nothing, lambda rows: rows)
    shown = one_hot(told)
    if (told == shown).all():  # labels are shown, and no arithmetic is left to undo
        return Recovered(told, ~nothing, nothing, None)
    steps, facts = _steps(known, told, lambda: _guess(x, shown, ~nothing, learner))
    stack = _Stack(steps)
    made = stack.undo(told, None)
    if stack.guided and len(told) >= FEW:
        for _ in range(ROUNDS):
            made = stack.undo(told, _guess(x, made.targets, made.worth, learner))
    return Recovered(made.targets, made.worth, made.found, stack.forward, facts)


def _steps(
    known: Sequence[Known], told: Array, guess: Callable[[], Array]
) -> tuple[list[Inversion], dict[str, float]]:
    """Return each defense's inversion, and the parameters that had to be fitted."""
    steps: list[Inversion] = []
    facts: dict[str, float] = {}
    for each in known:
        how, parameters = inversion(each), each.parameters
        if parameters is not None:
            steps.append(how(parameters))
            continue
        found = how().fit(told, guess)
        facts |= {name: float(value) for name, value in found.items()}
        steps.append(how(found, fitted=True))
    return steps, facts


@dataclass(frozen=True)
class _Stack:
    """Inversions in the order in which the defenses answer."""

    steps: Sequence[Inversion]

    @property
    def guided(self) -> bool:
        return any(step.guided for step in self.steps)

    @property
    def forward(self) -> Callable[[Array], Array] | None:
        return self._answer if all(step.simulated for step in self.steps) else None

    def _answer(self, rows: Array) -> Array:
        for step in self.steps:
            rows = step.forward(rows)
        return rows

    def undo(self, told: Array, guess: Array | None) -> Recovered:
        """Return the rows behind the answers; ``guess`` (n, classes) is of what the victim said."""
        guesses = [guess]
        for step in self.steps:
            guesses.append(None if guess is None else step.forward(np.asarray(guesses[-1])))
        rows, found, worth = told.copy(), np.ones(len(told), dtype=bool), np.ones(len(told), dtype=bool)
        exact = True
        for place in reversed(range(len(self.steps))):
            step, near = self.steps[place], guesses[place]
            before = self.steps[place - 1] if place else None
            view = View(before is None or before.sums, exact, before.unit if before else None)
            rows[worth], ok = step.undo(rows[worth], None if near is None else near[worth], view)
            found[worth] &= ok
            worth &= np.isfinite(rows).all(axis=1)
            exact &= step.exact
        if not worth.any():  # whoever would learn nothing learns what there is
            return Recovered(told, ~worth, worth, None)
        lost = worth & ~found
        rows[lost] = one_hot(told)[lost]
        return Recovered(rows, worth, found & worth, None)


def _guess(x: Images, targets: Array, worth: Mask, learner: SurrogateFactory) -> Array:
    """Return (n, classes), what copies say of rows that they were not trained on, fold by fold."""
    fold = np.arange(len(x)) % FOLDS
    said = np.empty(targets.shape)
    parts = [worth & (fold != number) for number in range(FOLDS)]
    copies = learner.fit([(x[part], targets[part]) for part in parts], EFFORT)
    for number, copy in enumerate(copies):
        said[fold == number] = copy(x[fold == number])
    return said
