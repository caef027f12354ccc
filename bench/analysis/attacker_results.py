"""Results of one attack under one condition, and which attacks are equal under several names."""

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
from bench.records import Record
from bench.tasks import Cell

NEAR_CHANCE = "near_chance"
EMPTY = frozenset({NEAR_CHANCE, "nothing_learnt"})
"""Flags of surrogates that learnt next to nothing: that two of them agree is no evidence."""

Condition: TypeAlias = tuple[VictimThreatModel, Defense, int]
"""What attacks are compared under: a threat model with its victim, a defense and a budget."""


@dataclass(frozen=True, eq=False)
class AttackerResult:
    """One attack under one condition.

    ``agreement``: (repeats, test inputs) uint8, 1 where the surrogate agrees with the undefended victim.
    ``flags``: in how many repeats each is raised. ``ranked``: False where some repeat without defense is
    near chance; such attacks are shown, not ranked. ``adaptive``: whether the threat model includes the
    defense.
    """

    attack: str
    repeats: tuple[int, ...]
    agreement: NDArray[np.uint8]
    flags: Counter[str]
    records: tuple[Record, ...]
    ranked: bool
    adaptive: bool = False

    @property
    def usable_knowledge(self) -> set[str]:
        """The knowledge that the attack declares it can use; empty where its records do not say."""
        return set(self.records[0].info.attack.knowledge)

    @cached_property
    def fidelity(self) -> Interval:
        """The mean over repeats and test inputs, a fraction with its 95 % interval."""
        return mean_interval(self.agreement)


def results_by_condition(records: Sequence[Record]) -> dict[Condition, dict[str, AttackerResult]]:
    """Return the extraction cells that ran, by condition and attack."""
    found: dict[tuple[Condition, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        cell = record.task
        if record.status == "ok" and isinstance(cell, Cell) and "agreement" in record.arrays:
            condition = (VictimThreatModel.of(cell), defense_of(cell), cell.budget)
            found[condition, attack_of(cell)][cell.repeat] = record
    weak = {
        (threat, budget, attack)
        for ((threat, defense, budget), attack), by_repeat in found.items()
        if defense == UNDEFENDED and any(NEAR_CHANCE in record.info.flags for record in by_repeat.values())
    }
    samples: dict[Condition, dict[str, AttackerResult]] = defaultdict(dict)
    for (condition, attack), by_repeat in found.items():
        threat, _, budget = condition
        samples[condition][attack] = _sample(attack, by_repeat, ranked=(threat, budget, attack) not in weak)
    return samples


def _sample(attack: str, by_repeat: Mapping[int, Record], *, ranked: bool) -> AttackerResult:
    repeats = tuple(sorted(by_repeat))
    records = tuple(by_repeat[repeat] for repeat in repeats)
    flags = Counter(flag for record in records for flag in record.info.flags)
    agreement = np.stack([record.arrays["agreement"] for record in records])
    adaptive = records[0].cell.threat.knowledge != "none"
    return AttackerResult(attack, repeats, agreement, flags, records, ranked, adaptive)


def shared_repeats(a: AttackerResult, b: AttackerResult) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the agreement of both in the repeats that both have, in one order; each (repeats, inputs)."""
    left, right = (
        dict(zip(a.repeats, a.agreement, strict=True)),
        dict(zip(b.repeats, b.agreement, strict=True)),
    )
    shared = [repeat for repeat in a.repeats if repeat in right]
    if not shared:
        return a.agreement[:0], b.agreement[:0]
    return np.stack([left[r] for r in shared]), np.stack([right[r] for r in shared])


def equal_agreement(a: AttackerResult, b: AttackerResult) -> bool:
    """Return whether both have the same agreement in every repeat that both have; False without any."""
    left, right = shared_repeats(a, b)
    return len(left) > 0 and left.shape == right.shape and bool((left == right).all())


def agreement_of(sample: AttackerResult, repeats: Sequence[int]) -> NDArray[np.uint8]:
    """Return the agreement in these repeats, in this order; (repeats, inputs)."""
    if sample.repeats == tuple(repeats):
        return sample.agreement
    return sample.agreement[[sample.repeats.index(repeat) for repeat in repeats]]


def in_both(
    candidates: Mapping[str, AttackerResult], others: Mapping[str, AttackerResult]
) -> dict[str, AttackerResult]:
    """Return those of ``candidates`` whose attack is among ``others`` too.

    Two conditions are compared under the attacks that were run in both: one that only one of them has
    would raise its fidelity alone.
    """
    known = {sample.attack for sample in others.values()}
    return {name: sample for name, sample in candidates.items() if sample.attack in known}


def equal_attacks(
    samples: Mapping[Condition, Mapping[str, AttackerResult]],
) -> dict[str, list[str]]:
    """Return for every attack all that give the same surrogates, itself among them, in order.

    Two attacks are equal if they have the same agreement under every condition in which both were run,
    and under at least one of these the surrogates could have differed: they agree with the victim neither
    on everything nor on next to nothing.
    """
    conditions: dict[str, list[Condition]] = defaultdict(list)
    for condition in sorted(samples, key=lambda condition: (condition[0].order, *condition[1:])):
        for attack in samples[condition]:
            conditions[attack].append(condition)
    groups: list[list[str]] = []
    for attack in sorted(conditions):
        for group in groups:
            alike = [_alike(_pairs(samples, conditions[attack], attack, other)) for other in group]
            if False not in alike and True in alike:
                group.append(attack)
                break
        else:
            groups.append([attack])
    return {attack: group for group in groups for attack in group}


def _pairs(
    samples: Mapping[Condition, Mapping[str, AttackerResult]],
    conditions: Sequence[Condition],
    one: str,
    other: str,
) -> Iterator[tuple[AttackerResult, AttackerResult]]:
    return ((samples[c][one], samples[c][other]) for c in conditions if other in samples[c])


def _alike(pairs: Iterator[tuple[AttackerResult, AttackerResult]]) -> bool | None:
    """Return whether all pairs have equal agreement; None where none of them could have differed."""
    equal = None
    for a, b in pairs:
        shared = shared_repeats(a, b)[0]
        if len(shared) and not equal_agreement(a, b):
            return False
        if len(shared) and not shared.all() and not EMPTY & (a.flags.keys() | b.flags.keys()):
            equal = True
    return equal
