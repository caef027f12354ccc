"""The verdicts of a comparison.

An alarm is a one-sided test against a true difference of at most the tolerance, on the rows of strength, of
the sentinels, and of what honest users pay where noise is drawn, together. They are correlated in ways nobody
knows (the same attacker, the same inputs), so Holm's procedure (1979), which needs no assumption on that,
keeps the chance of any false alarm at 5 %.

That the strongest attacker got stronger is claimed only where some attacker is above all attackers of the
baseline by more than the tolerance: an intersection over these, and a union over those, which Bonferroni pays
for. That nothing changed is claimed by two one-sided tests (Schuirmann 1987), each at 5 %.

What is seen of answers has no error of this kind, nor has what honest users pay without noise: probes and
test inputs are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from scipy import special

from bench.analysis.attacker_results import AttackerResult
from bench.analysis.attacker_results import shared_repeats as shared
from bench.calls import parse_call
from bench.gate.baseline import Baseline
from bench.gate.decisions import Trial, judged, needed
from bench.gate.defense_rows import answered, honest
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.gate.runs import Side, absent, in_step
from bench.metrics.intervals import Interval
from bench.metrics.pooled_difference import (
    Contrast,
    Prior,
    common_prior,
    contrast,
    p_value_above,
    p_value_below,
)

K = TypeVar("K")

TOLERANCE = 0.02
"""Difference of a share that is put up with, unless told otherwise."""


@dataclass(frozen=True)
class Comparison:
    """All rows, what they rest on in words, and whether repeats were compared in pairs."""

    rows: list[ComparisonRow]
    paired: bool
    tolerance: float

    def of(self, *verdicts: Decision) -> list[ComparisonRow]:
        """Return the rows with one of these verdicts."""
        return [row for row in self.rows if row.verdict in verdicts]


def compare(before: Baseline, after: Baseline, tolerance: float = TOLERANCE) -> Comparison:
    """Compare a candidate (``after``) with a baseline, at a ``tolerance`` given as a share."""
    sides = Side(before), Side(after)
    paired = in_step(*sides)
    names = Names([*before.records, *after.records])
    prior = common_prior(_contrasts(*sides, paired=paired))
    named = {str(text) for side in sides for text in side.baseline.meta.get("sentinels") or ()}
    tests = [*_strength(*sides, names, prior, tolerance, paired=paired)]
    tests += _sentinels(*sides, names, prior, tolerance, named, paired=paired)
    facts: list[ComparisonRow] = []
    for place in before_and_after(sides[0].evaluations, sides[1].evaluations):
        where = ", ".join([place[0], names.stack(place[1])])
        evaluations = sides[0].evaluations[place], sides[1].evaluations[place]
        tests += honest(where, *evaluations, tolerance, paired=paired)
        facts += answered(where, *evaluations)
    return Comparison([*absent(*sides, names), *judged(tests), *facts], paired, tolerance)


def before_and_after(one: Mapping[K, Any], other: Mapping[K, Any]) -> list[K]:
    """Return the keys of both, in the order of the first."""
    return [key for key in one if key in other]


def _contrasts(before: Side, after: Side, *, paired: bool) -> Iterator[Contrast]:
    """Give the contrast of every attacker with itself, wherever both runs have it."""
    for place in before_and_after(before.samples, after.samples):
        ours, theirs = after.samples[place], before.samples[place]
        for attack in before_and_after(theirs, ours):
            if (each := _contrast(ours[attack], theirs[attack], paired=paired)) is not None:
                yield each


def _strength(
    before: Side, after: Side, names: Names, prior: Prior, tolerance: float, *, paired: bool
) -> Iterator[Trial]:
    for place in before_and_after(before.samples, after.samples):
        old, new = before.field(place), after.field(place, every=True)
        both = before_and_after(old, new)
        if both:
            fields = {name: old[name] for name in both}, {name: new[name] for name in both}
            yield _tested(
                RowKind.strength, names.place(place), *fields, names, prior, tolerance, paired=paired
            )


def _sentinels(
    before: Side,
    after: Side,
    names: Names,
    prior: Prior,
    tolerance: float,
    named: set[str],
    *,
    paired: bool,
) -> Iterator[Trial]:
    for place in before_and_after(before.samples, after.samples):
        old, new = before.samples[place], after.samples[place]
        for attack in before_and_after(old, new):
            # Alone in its field, it is the strongest, and has been looked at as such.
            alone = len(before.field(place)) == 1 and old[attack].ranked
            if meant(str(old[attack].records[0].spec["attack"]), named) and not alone:
                fields = {attack: old[attack]}, {attack: new[attack]}
                yield _tested(
                    RowKind.sentinel, names.place(place), *fields, names, prior, tolerance, paired=paired
                )


def meant(attack: str, named: Collection[str]) -> bool:
    """Return whether a sentinel of the matrix is this attack, parameters that it leaves out left open."""
    name, values = parse_call(attack)
    return any(other == name and having.items() <= values.items() for other, having in map(parse_call, named))


def _tested(
    family: RowKind,
    place: str,
    old: Mapping[str, AttackerResult],
    new: Mapping[str, AttackerResult],
    names: Names,
    prior: Prior,
    tolerance: float,
    *,
    paired: bool,
) -> Trial:
    """Compare the strongest of one field with the strongest of another."""
    best = [max(field, key=lambda name: float(field[name].agreement.mean())) for field in (old, new)]
    levels = [float(field[name].agreement.mean()) for field, name in zip((old, new), best, strict=True)]
    what = names.attack(best[0]) + (f", now {names.attack(best[1])}" if best[0] != best[1] else "")
    row = ComparisonRow(
        family, place, what, Decision.same, levels[0], levels[1], Interval(levels[1] - levels[0], 0, 0)
    )
    if paired and all(_equal(old[name], new[name]) for name in old):
        return Trial(replace(row, note="to the last bit"), apart=0.0)
    found = {(o, t): _contrast(new[o], old[t], paired=paired) for o in new for t in old}
    pairs = {pair: each for pair, each in found.items() if each is not None}
    if len(pairs) < len(found):
        return Trial(replace(row, difference=None), still=lambda _: "the runs share no repeat of it")
    error = {pair: prior.error(each) for pair, each in pairs.items()}

    def chance(test: Callable[..., float], pair: tuple[str, str], limit: float) -> float:
        return test(pairs[pair], error[pair], limit)

    def some_above(limit: float) -> float:
        """Return the p-value of: some attacker is now above all that there were, by more than this."""
        each = (max(chance(p_value_above, (ours, theirs), limit) for theirs in old) for ours in new)
        return min(1.0, len(new) * min(each))

    def all_below(limit: float) -> float:
        """Return the p-value of: all attackers are now below one that there was, by more than this."""
        each = (max(chance(p_value_below, (ours, theirs), limit) for ours in new) for theirs in old)
        return min(1.0, len(old) * min(each))

    def none_above(limit: float) -> float:
        each = (min(1.0, len(old) * min(chance(p_value_below, (o, t), limit) for t in old)) for o in new)
        return max(each)

    def none_lost(limit: float) -> float:
        each = (min(1.0, len(new) * min(chance(p_value_above, (o, t), limit) for o in new)) for t in old)
        return max(each)

    strongest = best[1], best[0]
    half = float(special.stdtrit(max(error[strongest].freedom, 1e-9), 0.975)) * error[strongest].size
    value = pairs[strongest].value
    interval = Interval(value, value - half, value + half)
    return Trial(
        replace(row, difference=interval),
        some_above(tolerance),
        all_below(-tolerance),
        max(none_above(tolerance), none_lost(-tolerance)),
        lambda alpha: needed(pairs[strongest], prior, tolerance, alpha),
    )


def _contrast(ours: AttackerResult, theirs: AttackerResult, *, paired: bool) -> Contrast | None:
    """Return the contrast of two attackers; in pairs, of the repeats both have, None if there are none."""
    if not paired:
        return contrast(ours.agreement, theirs.agreement, paired=False)
    first, second = shared(ours, theirs)
    return contrast(first, second, paired=True) if len(first) else None


def _equal(a: AttackerResult, b: AttackerResult) -> bool:
    return a.agreement.shape == b.agreement.shape and a.agreement.tobytes() == b.agreement.tobytes()
