"""Results of one attack under one condition, and which attacks are equal under several names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.analysis.display_names import attack_of
from bench.analysis.label_weights import labels_kept
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.metrics.balance import balanced_agreement, near_chance
from bench.metrics.intervals import Interval, as_share, mean_interval
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

    ``agreement``: (repeats, test inputs) uint8, 1 where the surrogate agrees with the undefended victim; for
    an imbalanced victim doubles, so that means are balanced fidelity
    (:func:`bench.metrics.balance.balanced_agreement`).
    ``flags``: in how many repeats each is raised. ``ranked``: False where the attack is near chance without
    defense; such attacks are shown, not ranked. ``adaptive``: whether the threat model includes the defense.
    ``carried_over``: whether it was run against ``label_only``, and stands here by argument.
    """

    attack: str
    repeats: tuple[int, ...]
    agreement: NDArray[Any]
    flags: Counter[str]
    records: tuple[Record, ...]
    ranked: bool
    adaptive: bool = False
    carried_over: bool = False

    @property
    def usable_knowledge(self) -> set[str]:
        """The knowledge that the attack declares it can use; empty where its records do not say."""
        return set(self.records[0].info.attack.knowledge)

    @cached_property
    def fidelity(self) -> Interval:
        """The mean over repeats and test inputs, a fraction with its 95 % interval."""
        return as_share(mean_interval(self.agreement))


def results_by_condition(
    records: Sequence[Record],
    weights: Mapping[str, NDArray[np.float64]] | None = None,
    *,
    confirmation: bool = False,
) -> dict[Condition, dict[str, AttackerResult]]:
    """Return the extraction cells that ran, by condition and attack.

    ``weights``: of the test inputs, (inputs,), by victim, for victims whose fidelity is balanced.
    ``confirmation``: whether those of the confirmation run are returned, or all others.
    """
    found: dict[tuple[Condition, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        cell = record.task
        if not isinstance(cell, Cell) or cell.confirmation is not confirmation:
            continue
        if record.status == "ok" and "agreement" in record.arrays:
            condition = (VictimThreatModel.of(cell), defense_of(cell), cell.budget)
            found[condition, attack_of(cell)][cell.repeat] = record
    kept = labels_kept(records)
    weak = {
        (condition, attack)
        for (condition, attack), by_repeat in found.items()
        if condition[1] == UNDEFENDED and _near_chance(by_repeat.values(), kept.get(condition[0].victim))
    }
    samples: dict[Condition, dict[str, AttackerResult]] = defaultdict(dict)
    for (condition, attack), by_repeat in found.items():
        threat, _, budget = condition
        is_weak = ((threat, UNDEFENDED, budget), attack) in weak
        marked = (condition, attack) in weak
        weight = (weights or {}).get(threat.victim)
        samples[condition][attack] = _sample(attack, by_repeat, weight, ranked=not is_weak, weak=marked)
    return samples


def _near_chance(records: Collection[Record], labels: int | None) -> bool:
    """Return whether the mean over repeats of balanced fidelity is near chance.

    ``labels``: over how many it is averaged; None where that is unknown: all classes. Older records do not
    have it: there, whether any repeat was marked when it ran.
    """
    balanced = [record.metrics.get("extraction.balanced_fidelity") for record in records]
    values = [value for value in balanced if value is not None]
    classes = [len(record.info.confusion) for record in records if record.info.confusion]
    if len(values) < len(balanced) or not classes:
        return any(NEAR_CHANCE in record.info.flags for record in records)
    return near_chance(sum(values) / len(values), labels or classes[0])


def _sample(
    attack: str,
    by_repeat: Mapping[int, Record],
    weight: NDArray[np.float64] | None,
    *,
    ranked: bool,
    weak: bool,
) -> AttackerResult:
    repeats = tuple(sorted(by_repeat))
    records = tuple(by_repeat[repeat] for repeat in repeats)
    flags = Counter(flag for record in records for flag in record.info.flags)
    if all("extraction.balanced_fidelity" in record.metrics for record in records):
        # It is tested on the mean over repeats: all of them, or none.
        flags.pop(NEAR_CHANCE, None)
        flags += Counter({NEAR_CHANCE: len(records)} if weak else {})
    agreement: NDArray[Any] = np.stack([record.arrays["agreement"] for record in records])
    if weight is not None and agreement.shape[1:] == weight.shape:
        agreement = balanced_agreement(agreement, weight)
    adaptive = records[0].cell.threat.knowledge != "none"
    return AttackerResult(attack, repeats, agreement, flags, records, ranked, adaptive)


def shared_repeats(a: AttackerResult, b: AttackerResult) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the agreement of both in the repeats that both have, in one order; each (repeats, inputs)."""
    if a.repeats == b.repeats:
        return a.agreement, b.agreement
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


def agreement_of(sample: AttackerResult, repeats: Sequence[int]) -> NDArray[Any]:
    """Return the agreement in these repeats, in this order; (repeats, inputs)."""
    if sample.repeats == tuple(repeats):
        return sample.agreement
    return sample.agreement[[sample.repeats.index(repeat) for repeat in repeats]]


def in_both(
    candidates: Mapping[str, AttackerResult], others: Mapping[str, AttackerResult]
) -> dict[str, AttackerResult]:
    """Return those of ``candidates`` whose attack is among ``others`` too.

    Two conditions are compared under the attacks that were run in both: one that only one of them has
    would raise its fidelity alone. An attack on whole answers that is only carried over to one of them was
    not run there: that it learns little from labels says nothing of what it learns from these answers.
    """
    met: dict[str, list[AttackerResult]] = defaultdict(list)
    for other in others.values():
        met[other.attack].append(other)
    return {
        name: sample
        for name, sample in candidates.items()
        if any(
            sample.carried_over is other.carried_over or equal_agreement(sample, other)
            for other in met[sample.attack]
        )
    }


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
        if len(shared) and not (shared == 1).all() and not EMPTY & (a.flags.keys() | b.flags.keys()):
            equal = True
    return equal
