"""What a table of published claims holds, as it is stored beside its page."""

from __future__ import annotations

import math
from typing import Literal

import pydantic

from bench.metrics.intervals import Interval
from bench.records import Typed

SCHEMA_VERSION = 1
Strength = Literal["published", "default", "affordable", "default, affordable", "default, none affordable"]
"""``published``: that of a claim. ``default``: the paper's, or the plugin's. ``affordable``: the strongest
whose accuracy users can afford. ``none affordable``: of none that the run has for the victim is that
shown."""


class Estimate(Typed):
    """A number with its 95 % interval, fractions; limits are None where there are none."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        """Return an interval without NaN."""
        low, high = (None if math.isnan(limit) else limit for limit in (interval.low, interval.high))
        return cls(value=interval.value, low=low, high=high)

    @property
    def interval(self) -> Interval:
        """The same as an interval, NaN for what is missing."""
        low, high = (math.nan if limit is None else limit for limit in (self.low, self.high))
        return Interval(self.value, low, high)


class Setting(Typed):
    """Under which conditions a row was measured. ``run``: the matrix; ``victim``: with its splits and seed.

    ``accuracy``: of the undefended victim, a fraction.
    """

    run: str
    victim: str
    surrogate: str
    pool: str
    budget: int
    knowledge: str
    quantity: str
    accuracy: float | None = None


class UtilityLoss(Typed):
    """What benign users lose: L1 to the undefended answer, mean and largest, and accuracy (a fraction)."""

    l1_mean: float | None = None
    l1_max: float | None = None
    accuracy_lost: Estimate | None = None


class SameRecipe(Typed):
    """The published recipe, measured: levels and loss are fractions.

    ``predicted``: where one further run of it would lie. ``repeats``: those that both sides have.
    ``warnings``: names of the reliability warnings of its cells by which numbers cannot be used.
    """

    undefended: float
    defended: float
    loss: Estimate
    predicted: Estimate
    repeats: int
    warnings: list[str] = pydantic.Field(default_factory=list)


class CompetentAttacker(Typed):
    """The best attack without the defense and the best one against it, among ``attacks`` that met both."""

    undefended: float
    undefended_attack: str
    defended: float
    attack: str
    loss: Estimate
    attacks: int
    repeats: int


class Adaptation(Typed):
    """What adaptation adds: (adaptive - non-adaptive, defended) minus (the same, undefended), fractions."""

    adaptive: str
    non_adaptive: str
    adds: Estimate


class ClaimRow(Typed):
    """One row. ``claim``: the claim's id; empty for a row that shows measured values alone.

    ``verdict``, ``reason``: from :func:`bench.analysis.claim_rule.verdict`. ``affordable_elsewhere``: of the
    default, the strongest affordable strength if that was run, but not under this threat model and budget.
    """

    plugin: str
    defense: str
    strength: Strength
    claim: str = ""
    verdict: str = "no claim"
    reason: str = ""
    setting: Setting | None = None
    utility: UtilityLoss | None = None
    same_recipe: SameRecipe | None = None
    competent: CompetentAttacker | None = None
    adaptation: Adaptation | None = None
    affordable_elsewhere: str = ""


class ClaimSource(Typed):
    """The run that rows come from, so that every number can be traced."""

    run: str
    command: str = ""
    commit: str = ""
    dirty: bool = False
    machine: str = ""
    versions: dict[str, str] = pydantic.Field(default_factory=dict)


class ClaimTable(Typed):
    """All rows in the order of the page, with the runs that they come from."""

    schema_version: Literal[1] = 1
    rows: list[ClaimRow]
    sources: list[ClaimSource] = pydantic.Field(default_factory=list)
