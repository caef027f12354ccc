"""A target utility loss in place of a parameter: ``reverse_sigmoid(l1=0.3)`` finds the strength.

Defenses are comparable only at equal utility loss for benign users. The utility loss of an answer is its
L1 distance, in [0, 2], from the victim's. ``l1`` is a target for its mean over benign queries;
``l1_max`` bounds the largest of any answer, as Tang et al. 2024, "ModelGuard: Information-Theoretic
Defense Against Model Extraction Attacks" (USENIX Security), bound every perturbed answer, and
Orekondy, Schiele, Fritz 2020, "Prediction Poisoning" (arXiv 1906.10908), before them.

The benign queries are the victim's calibration split, so that the strength is fixed before the test
split is seen; the loss on the test split is measured by the defense evaluation. Rejected queries have no
distance. A randomized defense is measured on about 10,000 answers with independent noise: ``l1_max`` then
bounds the answers that were drawn, not all possible ones. A defense that remembers its calibration split
(``remembers``, as a codebook does) would change these answers less than new ones: it is measured on each
fifth of the split by an instance that is fitted on the others. In a stack, the loss is that of this member
alone, on the victim's own answers, whatever defenses are before or after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import NotFittedError

from bench.calls import format_call
from bench.errors import NotApplicable, UsageError
from bench.parameters import validate
from bench.seeds import derive, legacy_numpy
from defenses.base import (
    Answers,
    Array,
    Batch,
    Calibration,
    Claims,
    Defense,
    DefenseStack,
    OutputDefense,
    Predicate,
)

TARGETS = {"l1": "a mean L1", "l1_max": "a largest L1"}
"""The kinds of target, and their names in messages."""
TOLERANCE = 0.01
"""Share of the target by which a continuous strength range may stay below it."""
LEAST = 0.5
"""Smallest share of the target that must be reached where the loss grows in steps."""
STEPS = 31
"""Strengths between the two ends of a strength range that are tried first."""
HALVINGS = 40
"""Largest number of bisections between two of them."""
FOLDS = 5
"""Parts of the calibration split, of which each measures a defense that remembers the others."""
ANSWERS = 10_000
"""Smallest number of answers on which the loss of a randomized defense is measured."""
TARGET = inspect.Parameter(
    "l1", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[float, Field(gt=0, le=2)]
)


def with_utility_loss(kind: str, family: type[Defense], values: dict[str, Any]) -> Defense | None:
    """Return the defense that ``values`` specify by a target utility loss; None where they have no target.

    Raises UsageError for a family without a strength range, for a target outside (0, 2], and where two
    of the range's parameter, ``l1`` and ``l1_max`` are given.
    """
    own = family.parameters()
    targets = [key for key in TARGETS if key in values and key not in own]
    if not targets:
        return None
    bound, strength = targets[0], family.strength
    if strength is None:
        reason = "it declares no strength range from weak to strong" if own else "it is a single point"
        raise UsageError(f"{kind} {family.name!r} takes no {bound}: {reason}")
    if len(targets) > 1:
        raise UsageError(f"{kind} {family.name!r} takes l1 or l1_max, not both")
    if strength.parameter in values:
        raise UsageError(
            f"{kind} {family.name!r} takes {strength.parameter} or {bound}, not both: "
            f"{strength.parameter} is found for that target"
        )
    others = {key: parameter for key, parameter in own.items() if key != strength.parameter}
    given = validate(kind, family, values, others | {bound: TARGET.replace(name=bound)})
    cls = OutputUtilityLossTarget if issubclass(family, OutputDefense) else UtilityLossTarget
    return cls(family, given, bound)


class UtilityLossTarget(Defense):
    """A defense given by its utility loss for benign users: ``fit`` finds the strength.

    Strength grows from the weakest end of the family's range until the next step would, for the first
    time, exceed the target; the loss need not be linear or monotone. If it is continuous, the loss
    found is at most 1 % below the target. If it grows in steps, it may be lower: anything above zero for
    integer parameters, at least half of the target for others (OOD detectors, cut-offs).

    ``family``: the defense's class. ``given``: its parameters except the range's, and the target under
    the name ``bound``. Fitted: ``effective``, the defense that was found, which answers from then on.
    """

    def __init__(self, family: type[Defense], given: dict[str, Any], bound: str) -> None:
        strength: Any = family.strength
        self._family, self._given, self._bound, self._target = family, given, bound, given[bound]
        # The attributes that the harness reads from any defense are the family's.
        vars(self).update(
            given, name=family.name, paper=family.paper, known_by=family.known_by, strength=strength
        )
        self._others = {key: value for key, value in given.items() if key != bound}
        self._ends = strength.ends(given)
        inside = [] if strength.whole else [sum(self._ends) / 2]
        self._members = [self._build(value) for value in (*self._ends, *inside)]
        self._effective: Defense | None = None

    def _build(self, value: float) -> Defense:
        strength: Any = self._family.strength
        defense: Defense = self._family(**self._others | {strength.parameter: value})
        return defense

    def __repr__(self) -> str:
        """Return the call that makes this defense, with the target in place of the strength's parameter."""
        return format_call(self.name, self._given)

    @property
    def plugin_class(self) -> type[Defense]:
        """The class of the defense that is searched."""
        return self._family

    @property
    def auxiliary_data(self) -> str:
        """The auxiliary data of the defense that is searched."""
        return self._members[0].auxiliary_data

    @property
    def effective(self) -> Defense:
        """The defense that was found; before ``fit``, this one."""
        return self if self._effective is None else self._effective

    @property
    def claims(self) -> Claims:
        """The claims of the defense that was found; before ``fit``, those of the whole range."""
        return (
            DefenseStack(tuple(self._members)).claims if self._effective is None else self._effective.claims
        )

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The predicates of the defense that was found; none before ``fit``."""
        return () if self._effective is None else self._effective.predicates

    def _require_found(self) -> Defense:
        if self._effective is None:
            raise NotFittedError(f"call fit with a calibration split before {self!r} answers a query")
        return self._effective

    def answer(self, batch: Batch) -> Answers:
        """Return the answers of the defense that was found; raises NotFittedError before ``fit``."""
        return self._require_found().answer(batch)

    def fit(self, calibration: Calibration) -> None:
        """Find the strength; raises NotApplicable, with the nearest loss, where there is none."""
        self._effective, strongest = None, self._members[1]
        strongest.fit(calibration)
        found = self._search(partial(_cost, strongest, calibration, list(TARGETS).index(self._bound)))
        self._effective = strongest.at(found, calibration)

    def _search(self, cost: Callable[[float], float]) -> float:
        """Return the range's last value before ``cost`` exceeds the target."""
        strength: Any = self._family.strength
        steps = list(_steps(*self._ends, whole=strength.whole))
        below, above = steps[0], None
        if cost(below) > self._target:
            weakest = f"{self._format(below)}, its weakest,"
            raise self._not_reachable("cannot cost as little as", weakest, cost(below))
        for step in steps[1:]:
            if cost(step) > self._target:
                above = step
                break
            below = step
        if above is None:
            most = max(reversed(steps), key=cost)
            if cost(most) < (1 - TOLERANCE) * self._target:
                which = "strongest" if most == steps[-1] else "costliest"
                raise self._not_reachable("cannot reach", f"{self._format(most)}, its {which},", cost(most))
            return max(steps, key=cost)
        for _ in range(HALVINGS):
            middle = (below + above) // 2 if strength.whole else (below + above) / 2
            if middle in (below, above) or cost(below) >= (1 - TOLERANCE / 2) * self._target:
                break
            below, above = (below, middle) if cost(middle) > self._target else (middle, above)
        if cost(below) <= (0 if strength.whole else LEAST * self._target):
            steps_over = f"its cost goes in steps, and after {cost(below):.3g} {self._format(above)}"
            raise self._not_reachable("has nothing at", steps_over, cost(above))
        return below

    def _format(self, value: float) -> str:
        strength: Any = self._family.strength
        return f"{strength.parameter}={value:.6g}"

    def _not_reachable(self, verb: str, where: str, cost: float) -> NotApplicable:
        refuses = "; a rejected query has no distance" if self.claims.may_refuse else ""
        targets = f"{TARGETS[self._bound]} of {self._target:g}"
        return NotApplicable(
            f"{self.name} {verb} {targets} on this victim: {where} costs {cost:.3g}{refuses}"
        )


class OutputUtilityLossTarget(UtilityLossTarget, OutputDefense):
    """A utility loss target for an output defense: once fitted, it is an ART postprocessor, too."""

    def __init__(self, family: type[Defense], given: dict[str, Any], bound: str) -> None:
        OutputDefense.__init__(self)
        UtilityLossTarget.__init__(self, family, given, bound)

    def __call__(self, preds: Any) -> Any:
        """Return the answers of the defense that was found to ``preds`` (n, classes)."""
        found: Any = self._require_found()
        return found(preds)


def _steps(weakest: float, strongest: float, *, whole: bool) -> Iterator[float]:
    """Yield the strengths to try first, from the weakest end to the strongest."""
    low, high = sorted((weakest, strongest))
    spaced = np.geomspace if low > 0 and high >= 100 * low else np.linspace
    inner = [float(step) for step in spaced(weakest, strongest, STEPS + 2)[1:-1]]
    yield from dict.fromkeys((weakest, *(map(round, inner) if whole else inner), strongest))


def _cost(fitted: Defense, calibration: Calibration, which: int, value: float) -> float:
    """Return the utility loss of ``fitted`` at ``value`` of its range: the mean (0) or the largest (1)."""
    strength: Any = type(fitted).strength
    values = {name: getattr(fitted, name) for name in fitted.parameters()}
    text = format_call(fitted.name, values | {strength.parameter: value})
    if text not in calibration.costs:
        whole = not getattr(fitted, "remembers", False)
        distances = (
            _distances(fitted.at(value, calibration), calibration)
            if whole
            else np.concatenate(
                [_distances(fitted.at(value, others), fold) for others, fold in _parts(calibration)]
            )
        )
        calibration.costs[text] = (distances.mean(), distances.max()) if len(distances) else (0.0, 0.0)
    return calibration.costs[text][which]


def _parts(calibration: Calibration) -> Iterator[tuple[Calibration, Calibration]]:
    """Yield the calibration split without each of its folds, and that fold."""
    fold = (
        np.random.default_rng(derive(calibration.seed, "folds")).permutation(len(calibration.inputs)) % FOLDS
    )
    for number in range(FOLDS):
        yield _rows(calibration, fold != number), _rows(calibration, fold == number)


def _rows(calibration: Calibration, rows: NDArray[np.bool_]) -> Calibration:
    return replace(
        calibration,
        inputs=calibration.inputs[rows],
        labels=calibration.labels[rows],
        probabilities=calibration.probabilities[rows],
    )


def _distances(fitted: Defense, calibration: Calibration) -> Array:
    """Return the L1 distances of all answers to the calibration split from the victim's."""
    raw, found = calibration.probabilities, []
    rounds = -(-ANSWERS // len(raw)) if fitted.claims.stochastic else 1
    for draw in range(rounds):
        answers = _answers(fitted, calibration, derive(calibration.seed, "honest cost", draw))
        found.append(np.abs(answers - raw).sum(axis=1))
    distances: Array = np.concatenate(found)
    return distances[~np.isnan(distances)]


def _answers(fitted: Defense, calibration: Calibration, seed: int) -> Array:
    raw = calibration.probabilities
    if isinstance(fitted, OutputDefense) and fitted.claims.stochastic:
        # Noise for all rows at once: the same distribution as row by row, a hundred times faster.
        with legacy_numpy(seed):
            return np.asarray(fitted(np.clip(raw, None, 1)), dtype=np.float64)
    batch = Batch(
        calibration.inputs,
        raw,
        raw.copy(),  # the defense's own, in case that it writes into it
        client="honest",
        seed=seed,
        read_features=calibration.read_features,
    )
    answers = fitted.answer(batch)
    return np.where(answers.refused[:, None], np.nan, answers.probabilities)
