"""Compares two runs: rows on strength and tracked attacks, and the tests behind their decisions.

An alarm is a one-sided test against a true difference of at most the tolerance. The rows on strength and on
tracked attacks, tests of the independence of noise, and, where noise or a retrained victim is behind them,
rows on utility loss and detection rates are tested together. Their dependence is unknown (they share attacks
and inputs), so Holm's procedure (1979), which needs no assumption on it, keeps the probability of any false
alarm at 4.5 %. Answer statistics are a family of their own at .5 %, so that all together keep 5 %.

A stronger best attack is claimed only if some attack exceeds all attacks of the baseline by more than the
tolerance: an intersection of tests over the earlier attacks, and a union over the new ones, corrected by
Bonferroni. That nothing changed is claimed by two one-sided tests (Schuirmann 1987), each at 5 %.

A difference has no error where nothing random differs: probes, pools and test inputs are frozen.
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
from bench.gate.claim_rows import claim_rows
from bench.gate.decisions import RowTest, decide, repeats_needed
from bench.gate.defense_rows import answer_rows, detection_rows, utility_rows, without_same
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.gate.runs import Pairing, Run, balanced_victims, missing_rows, pairing, victims_equal
from bench.gate.spread import Sides
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
"""Tolerated difference of a share, by default."""


@dataclass(frozen=True)
class Comparison:
    """All rows of a comparison.

    ``pairing``: whether repeats were compared in pairs, and why; ``tolerance``: as a share; ``retrained``:
    the victims that differ by more than rounding; ``unknown``: those of them without values on retrained
    victims.
    """

    rows: list[ComparisonRow]
    pairing: Pairing
    tolerance: float
    retrained: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    balanced: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether repeats were compared in pairs."""
        return self.pairing is not Pairing.broken

    def of(self, *decisions: Decision) -> list[ComparisonRow]:
        """Return the rows with one of these decisions."""
        return [row for row in self.rows if row.decision in decisions]


def compare(before: Baseline, after: Baseline, tolerance: float = TOLERANCE) -> Comparison:
    """Compare a candidate (``after``) with a baseline, at a ``tolerance`` given as a share."""
    balanced = balanced_victims(before, after)
    sides = Run(before, balanced), Run(after, balanced)
    belong = pairing(*sides)
    paired = belong is not Pairing.broken
    names = Names([*before.records, *after.records])
    prior = common_prior(_contrasts(*sides, paired=paired))
    named = {text for side in sides for text in side.baseline.meta.sentinels}
    tests = [*_strength(*sides, names, prior, tolerance, paired=paired)]
    tests += _sentinels(*sides, names, prior, tolerance, named, paired=paired)
    equal = victims_equal(before, after)
    shared = shared_keys(sides[0].evaluations, sides[1].evaluations)
    for condition in shared:
        where = ", ".join([condition[0], names.stack(condition[1])])
        old, new = sides[0].evaluations[condition], sides[1].evaluations[condition]
        spread = Sides(paired=paired, equal=equal.get(condition[0], False))
        tests += utility_rows(where, old, new, tolerance, spread)
        tests += detection_rows(where, old, new, tolerance, spread)
        tests += answer_rows(where, old, new, spread)
    tests += claim_rows(*sides, names)
    rows = [*missing_rows(*sides, names), *without_same(decide(tests))]
    retrained = tuple(dict.fromkeys(victim for victim, _ in shared if not equal.get(victim, False)))
    known = {
        victim for side in sides for (victim, _), each in side.evaluations.items() if each.info.retrained
    }
    unknown = tuple(victim for victim in retrained if victim not in known)
    return Comparison(rows, belong, tolerance, retrained, unknown, tuple(balanced))


def shared_keys(one: Mapping[K, Any], other: Mapping[K, Any]) -> list[K]:
    """Return the keys that are in both, in the order of the first."""
    return [key for key in one if key in other]


def _contrasts(before: Run, after: Run, *, paired: bool) -> Iterator[Contrast]:
    """Yield the contrast of every attack with itself, under each condition that both runs have."""
    for condition in shared_keys(before.samples, after.samples):
        ours, theirs = after.samples[condition], before.samples[condition]
        for attack in shared_keys(theirs, ours):
            if (each := _contrast(ours[attack], theirs[attack], paired=paired)) is not None:
                yield each


def _strength(
    before: Run, after: Run, names: Names, prior: Prior, tolerance: float, *, paired: bool
) -> Iterator[RowTest]:
    for condition in shared_keys(before.samples, after.samples):
        old, new = before.candidates(condition), after.candidates(condition, every=True)
        both = shared_keys(old, new)
        if both:
            pair = {name: old[name] for name in both}, {name: new[name] for name in both}
            yield _tested(
                RowKind.strength, names.condition(condition), *pair, names, prior, tolerance, paired=paired
            )


def _sentinels(
    before: Run,
    after: Run,
    names: Names,
    prior: Prior,
    tolerance: float,
    named: set[str],
    *,
    paired: bool,
) -> Iterator[RowTest]:
    for condition in shared_keys(before.samples, after.samples):
        old, new = before.samples[condition], after.samples[condition]
        for attack in shared_keys(old, new):
            # Alone under its condition, it is the best attack and has a row already.
            alone = len(before.candidates(condition)) == 1 and old[attack].ranked
            if is_named(old[attack].records[0].cell.attack, named) and not alone:
                pair = {attack: old[attack]}, {attack: new[attack]}
                yield _tested(
                    RowKind.sentinel,
                    names.condition(condition),
                    *pair,
                    names,
                    prior,
                    tolerance,
                    paired=paired,
                )


def is_named(attack: str, named: Collection[str]) -> bool:
    """Return whether a tracked attack of ``named`` is this one; omitted parameters may have any value."""
    name, values = parse_call(attack)
    return any(other == name and having.items() <= values.items() for other, having in map(parse_call, named))


def _tested(
    kind: RowKind,
    condition: str,
    old: Mapping[str, AttackerResult],
    new: Mapping[str, AttackerResult],
    names: Names,
    prior: Prior,
    tolerance: float,
    *,
    paired: bool,
) -> RowTest:
    """Compare the best of some attacks of the baseline with the best of some of the candidate."""
    best = [max(attacks, key=lambda name: float(attacks[name].agreement.mean())) for attacks in (old, new)]
    levels = [float(attacks[name].agreement.mean()) for attacks, name in zip((old, new), best, strict=True)]
    what = names.attack(best[0]) + (f", now {names.attack(best[1])}" if best[0] != best[1] else "")
    row = ComparisonRow(
        kind, condition, what, Decision.same, levels[0], levels[1], Interval(levels[1] - levels[0], 0, 0)
    )
    if paired and all(_equal(old[name], new[name]) for name in old):
        return RowTest(replace(row, note="to the last bit"), apart=0.0)
    found = {(o, t): _contrast(new[o], old[t], paired=paired) for o in new for t in old}
    pairs = {pair: each for pair, each in found.items() if each is not None}
    if len(pairs) < len(found):
        return RowTest(
            replace(row, difference=None), still=lambda _: "the runs share no repeat or no test inputs of it"
        )
    error = {pair: prior.error(each) for pair, each in pairs.items()}

    def chance(test: Callable[..., float], pair: tuple[str, str], limit: float) -> float:
        return test(pairs[pair], error[pair], limit)

    def some_above(limit: float) -> float:
        """Return the p-value of: some attack now exceeds all earlier ones by more than ``limit``."""
        each = (max(chance(p_value_above, (ours, theirs), limit) for theirs in old) for ours in new)
        return min(1.0, len(new) * min(each))

    def all_below(limit: float) -> float:
        """Return the p-value of: all attacks are now below one earlier attack by more than ``-limit``."""
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
    return RowTest(
        replace(row, difference=interval),
        some_above(tolerance),
        all_below(-tolerance),
        max(none_above(tolerance), none_lost(-tolerance)),
        lambda alpha: repeats_needed(pairs[strongest], prior, tolerance, alpha),
    )


def _contrast(ours: AttackerResult, theirs: AttackerResult, *, paired: bool) -> Contrast | None:
    """Return the contrast of two attacks; if ``paired``, of their common repeats.

    None without any, and where the test inputs are not equally many, as those of another victim may be.
    """
    if ours.agreement.shape[1] != theirs.agreement.shape[1]:
        return None
    if not paired:
        return contrast(ours.agreement, theirs.agreement, paired=False)
    first, second = shared(ours, theirs)
    return contrast(first, second, paired=True) if len(first) else None


def _equal(a: AttackerResult, b: AttackerResult) -> bool:
    return a.agreement.shape == b.agreement.shape and a.agreement.tobytes() == b.agreement.tobytes()
