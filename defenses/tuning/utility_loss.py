"""Honest cost in place of a parameter: ``reverse_sigmoid(l1=0.3)``, and the strength is found.

Defenses can only be compared where honest users pay the same for them. The cost of an answer is its
L1 distance, in [0, 2], from what the victim said. ``l1`` asks for its mean over honest traffic;
``l1_max`` bounds the largest of any answer, as Tang et al. 2024, "ModelGuard: Information-Theoretic
Defense Against Model Extraction Attacks" (USENIX Security), bound every perturbed answer, and
Orekondy, Schiele, Fritz 2020, "Prediction Poisoning" (arXiv 1906.10908), before them.

Honest traffic is the victim's calibration split, so that the strength is fixed before the test split
is seen; what it costs there, the audit measures. Refused queries have no distance. A random defense is
measured on some 10,000 answers with noise of their own: ``l1_max`` then bounds what was drawn, not
what can be. In a stack, the cost is that of this member alone, on the victim's own answers, whatever
stands before or behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from sklearn.exceptions import NotFittedError

from bench.calls import format_call
from bench.errors import NotApplicable, UsageError
from bench.parameters import validate
from bench.seeds import derive, legacy_numpy
from defenses.base import Answers, Array, Batch, Calibration, Claims, Defense, DefenseStack, OutputDefense

BOUNDS = {"l1": "a mean L1", "l1_max": "a largest L1"}
"""The ways to give a cost, and what to call it."""
TOLERANCE = 0.01
"""Share of the cost asked for by which a continuous strength range may stay below it."""
LEAST = 0.5
"""Share of the cost asked for that must be spent where steps are not whole numbers."""
STEPS = 31
"""Strengths between the two ends of a strength range that are looked at first."""
HALVINGS = 40
"""Times that the interval between two of them is halved, at most."""
ANSWERS = 10_000
"""Answers of a random defense that its cost is measured on, at least."""
EPSILON = inspect.Parameter(
    "l1", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[float, Field(gt=0, le=2)]
)


def with_utility_loss(kind: str, family: type[Defense], values: dict[str, Any]) -> Defense | None:
    """Return the defense that ``values`` give by an honest cost; None where they give none.

    Raises UsageError for a family without a strength range, for a cost outside (0, 2], and where two
    of the range's parameter, ``l1`` and ``l1_max`` are given.
    """
    own = family.parameters()
    asked = [key for key in BOUNDS if key in values and key not in own]
    if not asked:
        return None
    bound, strength = asked[0], family.strength
    if strength is None:
        reason = "it declares no strength range from weak to strong" if own else "it is a single point"
        raise UsageError(f"{kind} {family.name!r} takes no {bound}: {reason}")
    if len(asked) > 1:
        raise UsageError(f"{kind} {family.name!r} takes l1 or l1_max, not both")
    if strength.parameter in values:
        raise UsageError(
            f"{kind} {family.name!r} takes {strength.parameter} or {bound}, not both: "
            f"{strength.parameter} is what is found for the cost"
        )
    others = {key: parameter for key, parameter in own.items() if key != strength.parameter}
    given = validate(kind, family, values, others | {bound: EPSILON.replace(name=bound)})
    made = OutputUtilityLossTarget if issubclass(family, OutputDefense) else UtilityLossTarget
    return made(family, given, bound)


class UtilityLossTarget(Defense):
    """A defense given by what it costs honest users: ``fit`` finds how strong it may be for that.

    Strength grows from the weakest end of the family's range until the next step would, for the first
    time, cost more than was asked for; the cost need not grow evenly, nor all the way. Where it is
    continuous, what is found costs at most 1 % less than that. Where it goes in steps it may cost less:
    along whole numbers anything above nothing, in other steps (gates, cut-offs) at least half.

    ``family``: the defense's class. ``given``: its parameters but the range's, and the cost under the
    name ``bound``. Fitted: ``effective``, the defense that was found, which answers from then on.
    """

    def __init__(self, family: type[Defense], given: dict[str, Any], bound: str) -> None:
        strength: Any = family.strength
        self._family, self._given, self._bound, self._epsilon = family, given, bound, given[bound]
        # What the harness reads from any defense is the family's.
        vars(self).update(
            given, name=family.name, paper=family.paper, known_by=family.known_by, strength=strength
        )
        self._others = {key: value for key, value in given.items() if key != bound}
        self._ends = strength.ends(given)
        inside = [] if strength.whole else [sum(self._ends) / 2]
        self._along = [self._made(value) for value in (*self._ends, *inside)]
        self._found: Defense | None = None

    def _made(self, value: float) -> Defense:
        strength: Any = self._family.strength
        made: Defense = self._family(**self._others | {strength.parameter: value})
        return made

    def __repr__(self) -> str:
        """Return the call that makes this defense: the cost stands for the strength's parameter."""
        return format_call(self.name, self._given)

    @property
    def effective(self) -> Defense:
        """The defense that was found; before ``fit``, this one."""
        return self if self._found is None else self._found

    @property
    def claims(self) -> Claims:
        """Those of the defense that was found; before ``fit``, what the whole range promises."""
        return DefenseStack(tuple(self._along)).claims if self._found is None else self._found.claims

    def _standing(self) -> Defense:
        if self._found is None:
            raise NotFittedError(f"call fit with a calibration split before {self!r} answers a query")
        return self._found

    def answer(self, batch: Batch) -> Answers:
        """Answer as the defense that was found; raises NotFittedError before ``fit``."""
        return self._standing().answer(batch)

    def fit(self, calibration: Calibration) -> None:
        """Find the strength; raises NotApplicable, with the nearest cost, where there is none."""
        self._found, strongest = None, self._along[1]
        strongest.fit(calibration)
        found = self._search(partial(_cost, strongest, calibration, list(BOUNDS).index(self._bound)))
        self._found = strongest.at(found, calibration)

    def _search(self, cost: Callable[[float], float]) -> float:
        """Return the range's last value before ``cost`` is above the one asked for."""
        strength: Any = self._family.strength
        steps = list(_steps(*self._ends, whole=strength.whole))
        below, above = steps[0], None
        if cost(below) > self._epsilon:
            weakest = f"{self._at(below)}, its weakest,"
            raise self._unreachable("cannot cost as little as", weakest, cost(below))
        for step in steps[1:]:
            if cost(step) > self._epsilon:
                above = step
                break
            below = step
        if above is None:
            most = max(reversed(steps), key=cost)
            if cost(most) < (1 - TOLERANCE) * self._epsilon:
                which = "strongest" if most == steps[-1] else "costliest"
                raise self._unreachable("cannot reach", f"{self._at(most)}, its {which},", cost(most))
            return max(steps, key=cost)
        for _ in range(HALVINGS):
            middle = (below + above) // 2 if strength.whole else (below + above) / 2
            if middle in (below, above) or cost(below) >= (1 - TOLERANCE / 2) * self._epsilon:
                break
            below, above = (below, middle) if cost(middle) > self._epsilon else (middle, above)
        if cost(below) <= (0 if strength.whole else LEAST * self._epsilon):
            steps_over = f"its cost goes in steps, and after {cost(below):.3g} {self._at(above)}"
            raise self._unreachable("has nothing at", steps_over, cost(above))
        return below

    def _at(self, value: float) -> str:
        strength: Any = self._family.strength
        return f"{strength.parameter}={value:.6g}"

    def _unreachable(self, verb: str, where: str, cost: float) -> NotApplicable:
        refuses = "; a refused query has no distance" if self.claims.may_refuse else ""
        asked = f"{BOUNDS[self._bound]} of {self._epsilon:g}"
        return NotApplicable(f"{self.name} {verb} {asked} on this victim: {where} costs {cost:.3g}{refuses}")


class OutputUtilityLossTarget(UtilityLossTarget, OutputDefense):
    """The same of an output defense: once fitted, it works in ART as one."""

    def __init__(self, family: type[Defense], given: dict[str, Any], bound: str) -> None:
        OutputDefense.__init__(self)
        UtilityLossTarget.__init__(self, family, given, bound)

    def __call__(self, preds: Any) -> Any:
        """Return what the defense that was found makes of ``preds`` (n, classes)."""
        found: Any = self._standing()
        return found(preds)


def _steps(weakest: float, strongest: float, *, whole: bool) -> Iterator[float]:
    """Yield the strengths to look at first, from the weakest end to the strongest."""
    low, high = sorted((weakest, strongest))
    spaced = np.geomspace if low > 0 and high >= 100 * low else np.linspace
    inner = [float(step) for step in spaced(weakest, strongest, STEPS + 2)[1:-1]]
    yield from dict.fromkeys((weakest, *(map(round, inner) if whole else inner), strongest))


def _cost(fitted: Defense, calibration: Calibration, which: int, value: float) -> float:
    """Return what ``fitted`` costs honest users at ``value`` of its range: 0, the mean; 1, the largest."""
    strength: Any = type(fitted).strength
    values = {name: getattr(fitted, name) for name in fitted.parameters()}
    text = format_call(fitted.name, values | {strength.parameter: value})
    if text not in calibration.costs:
        distances = _distances(fitted.at(value, calibration), calibration)
        calibration.costs[text] = (distances.mean(), distances.max()) if len(distances) else (0.0, 0.0)
    return calibration.costs[text][which]


def _distances(fitted: Defense, calibration: Calibration) -> Array:
    """Return the L1 distance of every answer to the calibration split from what the victim said."""
    raw, found = calibration.probabilities, []
    rounds = -(-ANSWERS // len(raw)) if fitted.claims.stochastic else 1
    for draw in range(rounds):
        told = _told(fitted, calibration, derive(calibration.seed, "honest cost", draw))
        found.append(np.abs(told - raw).sum(axis=1))
    distances: Array = np.concatenate(found)
    return distances[~np.isnan(distances)]


def _told(fitted: Defense, calibration: Calibration, seed: int) -> Array:
    raw = calibration.probabilities
    if isinstance(fitted, OutputDefense) and fitted.claims.stochastic:
        # Drawn for all rows at once: the same in law as row by row, and a hundred times faster.
        with legacy_numpy(seed):
            return np.asarray(fitted(np.clip(raw, None, 1)), dtype=np.float64)
    batch = Batch(
        calibration.inputs, raw, raw, client="honest", seed=seed, read_features=calibration.read_features
    )
    answers = fitted.answer(batch)
    return np.where(answers.refused[:, None], np.nan, answers.probabilities)
