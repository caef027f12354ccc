"""Whether the victims of two runs are the same, by what the runs know of them.

The last bits of a victim that is trained in a run depend on the processor and on patch versions of libraries.
So a shipped victim is the same if it was trained by the same recipe on the same data, with the same major
versions; and a user's, of which no recipe is known, if its answers are the same within a tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

import numpy as np

from bench.run_facts import Meta, VictimFacts

MEAN_L1 = 0.015
"""Largest mean L1 distance between the answers of two models that are taken for the same."""
SAME_TOP1 = 0.98
"""Smallest share of inputs on which their top-1 is the same."""
ROUNDING = 1e-4
"""Largest mean L1 distance, with equal top-1, that leaves facts on the same inputs what they are.

Other instruction sets moved no metric of a defense evaluation on digits by as much.
"""
PROJECTION = 1e-5
"""Largest difference of a projection of inputs that rounding explains."""
ACCURACY = 0.02
"""Difference of two accuracies from which victims are others, where nothing better is known."""


class Sameness(Enum):
    """What is known of a victim in two runs."""

    equal = "equal to the bit"
    retrained = "trained by the same recipe on the same data"
    close = "on the same data, with answers that agree within the tolerance"
    unclear = "too little is known to say whether it is the same"
    other = "another model, or other data"


@dataclass(frozen=True)
class VictimMatch:
    """What is known of one victim in two runs.

    ``text``: a predicate whose subject is the victim's name. ``keeps_facts``: whether metrics on the same
    inputs differ by the defense alone, since the victim is equal to the bit or differs by rounding.
    """

    sameness: Sameness
    text: str = ""
    keeps_facts: bool = False


@dataclass(frozen=True)
class Distance:
    """How far the answers of two victims to the same inputs are apart. ``is_exact``: they are equal."""

    mean_l1: float
    same_top1: float
    rows: int
    is_exact: bool

    @classmethod
    def of(cls, before: VictimFacts, after: VictimFacts) -> Self | None:
        """Return the distance; None where the answers of one are not known, or of other shapes."""
        if before.answers is None or after.answers is None:
            return None
        old, new = before.answers.array(), after.answers.array()
        if old.shape != new.shape or not old.size:
            return None
        apart = np.abs(old.astype(np.float64) - new).sum(axis=1).mean()
        same = (old.argmax(axis=1) == new.argmax(axis=1)).mean()
        return cls(float(apart), float(same), len(old), old.tobytes() == new.tobytes())

    @property
    def is_rounding(self) -> bool:
        """Whether the answers differ too little to change any metric noticeably."""
        return self.mean_l1 <= ROUNDING and self.same_top1 == 1

    @property
    def is_tolerated(self) -> bool:
        """Whether both models are taken for the same."""
        return self.mean_l1 <= MEAN_L1 and self.same_top1 >= SAME_TOP1

    def __str__(self) -> str:
        other = round(self.rows * (1 - self.same_top1))
        labels = f", and the top-1 of {other}" if other else ""
        return f"its answers differ by a mean L1 of {self.mean_l1:.2g} on {self.rows} test inputs{labels}"


def match_victims(before: Meta, after: Meta) -> dict[str, VictimMatch]:
    """Return what is known of each victim that both runs know, by its name with splits and seed."""
    sides = [{each.identity: each for each in meta.victims if each.fingerprint} for meta in (before, after)]
    majors = not moved_versions(before.versions, after.versions)
    names = sorted(sides[0].keys() & sides[1].keys())
    return {name: _matched(sides[0][name], sides[1][name], same_majors=majors) for name in names}


def _matched(before: VictimFacts, after: VictimFacts, *, same_majors: bool) -> VictimMatch:
    if before.fingerprint == after.fingerprint:
        return VictimMatch(Sameness.equal, keeps_facts=True)
    if not all(each.data and each.answers for each in (before, after)):
        return _by_little(before, after)
    if before.recipe != after.recipe:
        return VictimMatch(Sameness.other, f"is another model ({after.recipe}, not {before.recipe})")
    if before.data != after.data and (before.recipe or not _data_agree(before, after)):
        return VictimMatch(Sameness.other, "has other data")
    return _by_answers(before, after, is_recipe_enough=bool(before.recipe) and same_majors)


def _by_answers(before: VictimFacts, after: VictimFacts, *, is_recipe_enough: bool) -> VictimMatch:
    apart = Distance.of(before, after)
    if apart is None:
        return VictimMatch(Sameness.other, "is another model, with answers of another shape")
    if is_recipe_enough and apart.is_exact:
        # A user's victim may still differ in other answers; that of one recipe on one set of data does not.
        return VictimMatch(Sameness.equal, keeps_facts=True)
    if is_recipe_enough:
        return VictimMatch(Sameness.retrained, f"was trained anew: {apart}", apart.is_rounding)
    if apart.is_tolerated:
        what = "differs by rounding" if apart.is_rounding else "is another one within the tolerance"
        return VictimMatch(Sameness.close, f"{what}: {apart}", apart.is_rounding)
    limits = f"more than {MEAN_L1:g}, or than {1 - SAME_TOP1:.0%} of the top-1"
    return VictimMatch(Sameness.other, f"is another model: {apart}, {limits}")


def _data_agree(before: VictimFacts, after: VictimFacts) -> bool:
    """Return whether labels are equal, and inputs as far as their projections tell."""
    one, other = before.sketch, after.sketch
    if one is None or other is None or one.labels != other.labels or len(one.inputs) != len(other.inputs):
        return False
    return all(abs(a - b) <= PROJECTION for a, b in zip(one.inputs, other.inputs, strict=True))


def _by_little(before: VictimFacts, after: VictimFacts) -> VictimMatch:
    """Return whether anything tells two victims apart, one of which is of a run before 0.2."""
    apart = []
    if before.sizes.values() and after.sizes.values() and before.sizes.values() != after.sizes.values():
        apart.append("splits of other sizes")
    if before.parameters and after.parameters and before.parameters != after.parameters:
        apart.append(f"{after.parameters:,} parameters instead of {before.parameters:,}")
    levels = before.accuracy, after.accuracy
    if levels[0] is not None and levels[1] is not None and abs(levels[1] - levels[0]) > ACCURACY:
        apart.append(f"an accuracy of {levels[1]:.3f} instead of {levels[0]:.3f}")
    if apart:
        return VictimMatch(
            Sameness.other, f"is another model, or has other data: it has {' and '.join(apart)}"
        )
    return VictimMatch(
        Sameness.unclear,
        "may be another model: name, splits and accuracy agree, but one of the runs kept neither recipe nor "
        "answers of it; export the baseline again with this version",
    )


def moved_versions(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the two versions of each package whose major version differs, of those that both runs know."""
    return {
        name: (before[name], after[name])
        for name in sorted(before.keys() & after.keys())
        if _major(before[name]) != _major(after[name])
    }


def _major(version: str) -> str:
    """Return the major version; for 0.x it includes the x."""
    parts = str(version).split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]
