"""The strongest attacker in a field of them, and its distances from the strongest against others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.analysis.attacker_results import AttackerResult, in_both, shared_repeats
from bench.metrics.intervals import BestAttack, Interval, paired_difference, strongest

CandidateAttacks: TypeAlias = Mapping[str, AttackerResult]
"""Every attacker that counts against one defense at one budget, by name."""


@dataclass(frozen=True)
class NonAdaptive:
    """The best of the non-adaptive attacks under one condition.

    ``reduction``: the fidelity reduction under these attacks alone. ``adaptive_gain``: the fidelity of the
    best of all attacks minus theirs (a fraction); None where the two share no repeat.
    """

    best: BestAttack
    reduction: Interval | None
    adaptive_gain: Interval | None


@dataclass(frozen=True)
class BestAttackResult:
    """The best attack against one defense at one budget; ``best`` is None where no attack is ranked.

    ``reduction``: fidelity of the best attack without defense minus that with it (a fraction; above 0: the
    defense helps); None where there is nothing to compare with. ``reduction_from_labels``: the same from
    ``label_only`` (above 0: better than answering labels alone). ``flags``, ``repeats``: of the best attack.
    ``non_adaptive``: None where every attack is adaptive, or none is.
    """

    best: BestAttack | None
    reduction: Interval | None
    flags: Counter[str]
    repeats: int
    reduction_from_labels: Interval | None = None
    non_adaptive: NonAdaptive | None = None


def best_of(field: CandidateAttacks) -> BestAttack | None:
    """Return the strongest of those in the field that are ranked; None where none is."""
    ranked = {name: sample.agreement for name, sample in field.items() if sample.ranked}
    return strongest(ranked) if ranked else None


def best_attack_result(
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
        reduction_between(undefended, field),
        sample.flags,
        len(sample.repeats),
        reduction_between(labels, field),
        _non_adaptive(field, undefended) if undefended else None,
    )


def reduction_between(others: CandidateAttacks, field: CandidateAttacks) -> Interval | None:
    """Return by how much the strongest of ``others`` that is in ``field`` too leads the field's strongest."""
    best = best_of(field)
    rivals = in_both(others, field)
    rival = best_of(rivals)
    if best is None or rival is None:
        return None
    theirs, ours = shared_repeats(rivals[rival.attacker], field[best.attacker])
    return paired_difference(theirs, ours) if len(ours) else None


def _non_adaptive(field: CandidateAttacks, undefended: CandidateAttacks) -> NonAdaptive | None:
    told_nothing = {name: sample for name, sample in field.items() if not sample.adaptive}
    best, best_of_all = best_of(told_nothing), best_of(field)
    if best is None or best_of_all is None or len(told_nothing) == len(field):
        return None
    theirs, ours = shared_repeats(field[best_of_all.attacker], told_nothing[best.attacker])
    knowing = paired_difference(theirs, ours) if len(ours) else None
    rivals = {name: sample for name, sample in undefended.items() if not sample.adaptive}
    return NonAdaptive(best, reduction_between(rivals, told_nothing), knowing)
