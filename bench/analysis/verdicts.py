"""What is concluded about each defense of a victim: criteria, fidelity reductions, recommendations.

:mod:`bench.analysis.recommendation` makes them from findings; pages, terminal and exports show them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.metrics.intervals import Interval
from bench.run_facts import ReportOptions

Affordability = Literal["affordable", "too dear", "not shown"]
Conclusion = Literal[
    "undefended",  # the row of no defense
    "recommended",
    "tied",  # eligible and confirmed; not significantly and not relevantly worse than the recommended one
    "confirmed",  # eligible, confirmed to reduce fidelity, less than the recommended one
    "not confirmed",  # eligible and selected, but fresh repeats do not show a reduction
    "candidate",  # eligible and selected; there was no confirmation run
    "eligible",  # eligible, not selected
    "not shown",  # some criterion cannot be decided, none is failed
    "no adaptive attacker",  # affordable, but it did not meet the adaptive attackers it has to meet
    "not usable",  # some criterion is failed: benign users lose more than they can afford
    "invalid",  # an invalidating warning: its numbers cannot be used
]
CriterionName = Literal[
    "accuracy",
    "balanced accuracy",
    "rejected",
    "ranking",
    "brier",
    "changed",
    "confidence",
    "adaptive",
    "valid",
]
"""``confidence``: whether answers have one at all; ``adaptive`` and ``valid`` have a detail, no interval."""


@dataclass(frozen=True)
class Criterion:
    """One condition that a defense has to meet to be eligible.

    ``loss``: what benign users lose, a fraction or a difference of scores, with its 95 % interval (lower is
    better); None where nothing is measured. ``limit``: the largest affordable loss. ``needed``: number of
    labelled test inputs that would decide it, for "not shown". ``detail``: a clause for readers.
    """

    name: CriterionName
    verdict: Affordability
    loss: Interval | None = None
    limit: float | None = None
    needed: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Reduction:
    """A fidelity reduction: best attack without the defense against best attack with it, all fractions.

    Both are the best of the same attacks at the same budget in the same ``repeats``, so that ``undefended``
    minus ``defended`` is ``interval.value``. ``undefended_attack``, ``attack``: display names. ``attacks``:
    how many were compared. ``fresh``: whether the repeats are those of the confirmation run.
    """

    undefended: float
    undefended_attack: str
    defended: float
    attack: str
    interval: Interval
    repeats: int
    attacks: int
    fresh: bool = False


@dataclass(frozen=True)
class DefenseVerdict:
    """One defense of a victim: criteria, fidelity reduction, conclusion.

    ``criteria``: all of them, those of every way to sell; ``eligible_for``: the ways to sell for which it is
    eligible. ``failed``: those that decide against it under the report's ``sells``; empty for eligible ones.
    ``largest``: of a recommended one, the
    reduction at the largest budget, where that is another than the recommendation's.
    """

    defense: Defense
    conclusion: Conclusion
    criteria: tuple[Criterion, ...] = ()
    failed: tuple[Criterion, ...] = ()
    eligible_for: tuple[Literal["labels", "ranking", "probabilities"], ...] = ()
    reduction: Reduction | None = None
    largest: Reduction | None = None

    def criterion(self, name: CriterionName) -> Criterion | None:
        """Return the criterion of this name; None where it was not tested."""
        return next((each for each in self.criteria if each.name == name), None)


@dataclass(frozen=True)
class Recommendation:
    """What to do under one threat model at one budget.

    ``rows``: no defense first, then all defenses, in the order of a page: the recommended one, tied, other
    eligible ones by reduction, then those that are not. ``undefended``: fidelity of the best attack without
    defense, with its interval; of the fresh repeats where there are any. ``attacks``,
    ``adaptive``: numbers of attacks, and of adaptive ones. ``compared``: number of defenses that intervals
    are corrected for.
    ``selection_repeats``, ``fresh_repeats``: of each cell; 0 fresh ones without a confirmation run.
    ``smallest``: the smallest reduction, a fraction, that this run would find in 90 %; None where unknown.
    ``others``: for the other ways to sell, the defense that would be recommended; None for none.
    ``holds_at_largest``: whether the reduction's lower end is above 0 at the largest budget; None if that is
    the budget itself, or was not run.
    """

    threat: VictimThreatModel
    budget: int
    options: ReportOptions
    rows: tuple[DefenseVerdict, ...]
    undefended: Interval | None
    undefended_attack: str
    attacks: int
    adaptive: int
    compared: int
    selection_repeats: int
    fresh_repeats: int
    smallest: float | None
    others: tuple[tuple[Literal["labels", "ranking", "probabilities"], Defense | None], ...] = ()
    holds_at_largest: bool | None = None

    @property
    def recommended(self) -> DefenseVerdict | None:
        """The recommended defense; None if none is."""
        return next((row for row in self.rows if row.conclusion == "recommended"), None)

    @property
    def confirmed(self) -> bool:
        """Whether there was a confirmation run."""
        return self.fresh_repeats > 0


@dataclass(frozen=True)
class VictimRecommendations:
    """The answers for one victim, at most three: under the strongest threat model, and under weaker ones.

    ``without_data``: the strongest threat model without data like the users'; ``non_adaptive``: as the
    strongest, but the defense is unknown to the attacker; None where not run. Only the strongest one is ever
    confirmed.
    """

    victim: str
    strongest: Recommendation
    without_data: Recommendation | None = None
    non_adaptive: Recommendation | None = None
