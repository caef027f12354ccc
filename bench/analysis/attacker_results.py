"""What one attacker did at one budget, and which attackers are one under several names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.analysis.display_names import attack_of
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.metrics.intervals import Interval, mean_interval
from bench.store import Record

NEAR_CHANCE = "near_chance"
EMPTY = frozenset({NEAR_CHANCE, "nothing_learnt"})
"""Flags of copies that hold next to nothing of the victim: that two of them agree says nothing."""

Condition: TypeAlias = tuple[VictimThreatModel, Defense, int]
"""Where attackers meet: a threat model, a defense and a budget."""


@dataclass(frozen=True, eq=False)
class AttackerResult:
    """One attacker at one budget.

    ``agreement``: (repeats, test inputs) uint8, 1 where its copy agrees with the victim. ``ranked``: False
    where with no defense some repeat sits near chance: such attackers are shown, not ranked.
    ``adaptive``: whether it was told anything of the defense.
    """

    attack: str
    repeats: tuple[int, ...]
    agreement: NDArray[np.uint8]
    flags: Counter[str]
    records: tuple[Record, ...]
    ranked: bool
    adaptive: bool = False

    @cached_property
    def fidelity(self) -> Interval:
        """The mean over repeats and test inputs, a fraction with its 95 % interval."""
        return mean_interval(self.agreement)


def results_by_condition(records: Sequence[Record]) -> dict[Condition, dict[str, AttackerResult]]:
    """Return the extraction cells that ran, as samples by place and attacker."""
    found: dict[tuple[Condition, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        if record.status == "ok" and record.kind == "cell" and "agreement" in record.arrays:
            spec = record.spec
            place = (VictimThreatModel.of(spec), defense_of(spec), int(spec["budget"]))
            found[place, attack_of(spec)][int(spec["repeat"])] = record
    weak = {
        (threat, budget, attack)
        for ((threat, defense, budget), attack), by_repeat in found.items()
        if defense == UNDEFENDED and any(NEAR_CHANCE in _flags(record) for record in by_repeat.values())
    }
    samples: dict[Condition, dict[str, AttackerResult]] = defaultdict(dict)
    for (place, attack), by_repeat in found.items():
        threat, _, budget = place
        samples[place][attack] = _sample(attack, by_repeat, ranked=(threat, budget, attack) not in weak)
    return samples


def _sample(attack: str, by_repeat: Mapping[int, Record], *, ranked: bool) -> AttackerResult:
    repeats = tuple(sorted(by_repeat))
    records = tuple(by_repeat[repeat] for repeat in repeats)
    flags = Counter(flag for record in records for flag in _flags(record))
    agreement = np.stack([record.arrays["agreement"] for record in records])
    adaptive = str(records[0].spec["knowledge"]) != "none"
    return AttackerResult(attack, repeats, agreement, flags, records, ranked, adaptive)


def _flags(record: Record) -> list[str]:
    return list(record.info.get("flags", ()))


def shared_repeats(a: AttackerResult, b: AttackerResult) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the hits of both in the repeats that both have, in one order."""
    left, right = (
        dict(zip(a.repeats, a.agreement, strict=True)),
        dict(zip(b.repeats, b.agreement, strict=True)),
    )
    shared = [repeat for repeat in a.repeats if repeat in right]
    if not shared:
        return a.agreement[:0], b.agreement[:0]
    return np.stack([left[r] for r in shared]), np.stack([right[r] for r in shared])


def equal_agreement(a: AttackerResult, b: AttackerResult) -> bool:
    """Return whether both agree with the victim on the same inputs in every repeat that both have."""
    left, right = shared_repeats(a, b)
    return len(left) > 0 and left.shape == right.shape and bool((left == right).all())


def agreement_of(sample: AttackerResult, repeats: Sequence[int]) -> NDArray[np.uint8]:
    """Return the hits of these repeats, in this order."""
    if sample.repeats == tuple(repeats):
        return sample.agreement
    return sample.agreement[[sample.repeats.index(repeat) for repeat in repeats]]


def in_both(
    field: Mapping[str, AttackerResult], others: Mapping[str, AttackerResult]
) -> dict[str, AttackerResult]:
    """Return the attackers that are among ``others`` too.

    An attacker that one row lacks would make the other look weaker: rows are compared under the
    attackers that both have met.
    """
    known = {sample.attack for sample in others.values()}
    return {name: sample for name, sample in field.items() if sample.attack in known}


def equal_attacks(
    samples: Mapping[Condition, Mapping[str, AttackerResult]],
) -> dict[str, list[str]]:
    """Return for every attacker all that make its copies, itself among them, in order.

    Two are one if they agree with the victim on the same inputs wherever both were run, and
    somewhere did so with copies that had something to differ in: neither empty nor perfect. Attackers
    that agree at one place by luck, or where a budget leaves them no choice, differ at another.
    """
    places: dict[str, list[Condition]] = defaultdict(list)
    for place in sorted(samples, key=lambda place: (place[0].order, *place[1:])):
        for attack in samples[place]:
            places[attack].append(place)
    groups: list[list[str]] = []
    for attack in sorted(places):
        for group in groups:
            verdicts = [_alike(_pairs(samples, places[attack], attack, other)) for other in group]
            if False not in verdicts and True in verdicts:
                group.append(attack)
                break
        else:
            groups.append([attack])
    return {attack: group for group in groups for attack in group}


def _pairs(
    samples: Mapping[Condition, Mapping[str, AttackerResult]],
    places: Sequence[Condition],
    one: str,
    other: str,
) -> Iterator[tuple[AttackerResult, AttackerResult]]:
    return ((samples[p][one], samples[p][other]) for p in places if other in samples[p])


def _alike(pairs: Iterator[tuple[AttackerResult, AttackerResult]]) -> bool | None:
    """Return whether all pairs are the same; None where none of them could tell."""
    told = None
    for a, b in pairs:
        shared = shared_repeats(a, b)[0]
        if len(shared) and not equal_agreement(a, b):
            return False
        if len(shared) and not shared.all() and not EMPTY & (a.flags.keys() | b.flags.keys()):
            told = True
    return told
