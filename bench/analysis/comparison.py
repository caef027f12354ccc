"""The best of the candidate attacks, and fidelity reductions: the best attacks of two conditions compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.analysis.attacker_results import AttackerResult, in_both, shared_repeats
from bench.metrics.intervals import BestAttack, Interval, best_attack, paired_difference

CandidateAttacks: TypeAlias = Mapping[str, AttackerResult]
"""The attacks that are compared under one condition, by name."""


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


def best_of(candidates: CandidateAttacks) -> BestAttack | None:
    """Return the best of the ranked candidates; None where none is ranked."""
    ranked = {name: sample.agreement for name, sample in candidates.items() if sample.ranked}
    return best_attack(ranked) if ranked else None


def best_name(candidates: CandidateAttacks) -> str | None:
    """Return the name of the best of the ranked candidates, as :func:`best_of` does, without its interval."""
    ranked = sorted(name for name, sample in candidates.items() if sample.ranked)
    return max(ranked, key=lambda name: float(candidates[name].agreement.mean()), default=None)


def best_attack_result(
    candidates: CandidateAttacks, undefended: CandidateAttacks, labels: CandidateAttacks
) -> BestAttackResult:
    """Return the best of ``candidates`` with its fidelity reductions.

    ``undefended``, ``labels``: the candidates without defense and against ``label_only`` at the same
    budget; empty where there is nothing to compare with.
    """
    best = best_of(candidates)
    if best is None:
        return BestAttackResult(None, None, sum((s.flags for s in candidates.values()), Counter()), 0)
    sample = candidates[best.attack]
    return BestAttackResult(
        best,
        reduction_between(undefended, candidates),
        sample.flags,
        len(sample.repeats),
        reduction_between(labels, candidates),
        _non_adaptive(candidates, undefended) if undefended else None,
    )


def reduction_between(others: CandidateAttacks, candidates: CandidateAttacks) -> Interval | None:
    """Return fidelity of the best of ``others`` minus that of the best candidate, paired; a fraction.

    Only those of ``others`` count whose attack is a candidate too. None without any, or without a
    shared repeat.
    """
    best = best_name(candidates)
    rivals = in_both(others, candidates)
    rival = best_name(rivals)
    if best is None or rival is None:
        return None
    theirs, ours = shared_repeats(rivals[rival], candidates[best])
    return paired_difference(theirs, ours) if len(ours) else None


def _non_adaptive(candidates: CandidateAttacks, undefended: CandidateAttacks) -> NonAdaptive | None:
    plain = {name: sample for name, sample in candidates.items() if not sample.adaptive}
    if len(plain) == len(candidates):
        return None
    best, best_of_all = best_of(plain), best_name(candidates)
    if best is None or best_of_all is None:
        return None
    theirs, ours = shared_repeats(candidates[best_of_all], plain[best.attack])
    gain = paired_difference(theirs, ours) if len(ours) else None
    rivals = {name: sample for name, sample in undefended.items() if not sample.adaptive}
    return NonAdaptive(best, reduction_between(rivals, plain), gain)
