"""The strongest attacker in a field of them, and its distances from the strongest against others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.analysis.attacker_results import AttackerResult, common, met
from bench.metrics.intervals import BestAttack, Interval, paired_difference, strongest

CandidateAttacks: TypeAlias = Mapping[str, AttackerResult]
"""Every attacker that counts against one defense at one budget, by name."""


@dataclass(frozen=True)
class NonAdaptive:
    """The strongest of the attackers that are told nothing of the defense, beside the strongest of all.

    ``gap``: as a standing's, under these attackers alone. ``knowing``: by how much fidelity of the
    strongest of all is above theirs (a fraction), None where they share no repeat.
    """

    best: BestAttack
    gap: Interval | None
    knowing: Interval | None


@dataclass(frozen=True)
class BestAttackResult:
    """The strongest attacker against one defense at one budget; None where no attacker is ranked.

    ``gap``: by how much fidelity is below the strongest against no defense (a fraction; above 0: the
    defense helps), None where there is nothing to compare with. ``to_labels``: by how much it is below
    the strongest against ``label_only`` (above 0: better than answering labels alone). ``unaware``:
    None where every attacker knows the defense, or none does.
    """

    best: BestAttack | None
    gap: Interval | None
    flags: Counter[str]
    repeats: int
    to_labels: Interval | None = None
    unaware: NonAdaptive | None = None


def best_of(field: CandidateAttacks) -> BestAttack | None:
    """Return the strongest of those in the field that are ranked; None where none is."""
    ranked = {name: sample.hits for name, sample in field.items() if sample.ranked}
    return strongest(ranked) if ranked else None


def stand(
    field: CandidateAttacks, undefended: CandidateAttacks, labels: CandidateAttacks
) -> BestAttackResult:
    """Return how a defense stands against ``field``.

    ``undefended``, ``labels``: the fields against no defense and against ``label_only`` at the same
    budget; empty where there is nothing to compare with.
    """
    best = best_of(field)
    if best is None:
        return BestAttackResult(None, None, sum((s.flags for s in field.values()), Counter()), 0)
    sample = field[best.attacker]
    return BestAttackResult(
        best,
        lead(undefended, field),
        sample.flags,
        len(sample.repeats),
        lead(labels, field),
        _unaware(field, undefended) if undefended else None,
    )


def lead(others: CandidateAttacks, field: CandidateAttacks) -> Interval | None:
    """Return by how much the strongest of ``others`` that is in ``field`` too leads the field's strongest."""
    best = best_of(field)
    rivals = met(others, field)
    rival = best_of(rivals)
    if best is None or rival is None:
        return None
    theirs, ours = common(rivals[rival.attacker], field[best.attacker])
    return paired_difference(theirs, ours) if len(ours) else None


def _unaware(field: CandidateAttacks, undefended: CandidateAttacks) -> NonAdaptive | None:
    told_nothing = {name: sample for name, sample in field.items() if not sample.aware}
    best, best_of_all = best_of(told_nothing), best_of(field)
    if best is None or best_of_all is None or len(told_nothing) == len(field):
        return None
    theirs, ours = common(field[best_of_all.attacker], told_nothing[best.attacker])
    knowing = paired_difference(theirs, ours) if len(ours) else None
    rivals = {name: sample for name, sample in undefended.items() if not sample.aware}
    return NonAdaptive(best, lead(rivals, told_nothing), knowing)
