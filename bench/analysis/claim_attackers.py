"""The attacks that were run with a defense and without it, and what the best of them loses to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.attacker_results import AttackerResult
from bench.analysis.claim_records import Adaptation, CompetentAttacker, Estimate
from bench.analysis.confirmed_reduction import TAIL
from bench.analysis.display_names import weaker_note
from bench.analysis.findings import Findings
from bench.analysis.published_claims import Quantity
from bench.analysis.study_results import ARRAYS
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel
from bench.metrics.intervals import Interval, difference_bounds, paired_difference


@dataclass(frozen=True, eq=False)
class Contender:
    """An attack that met both the defense and none, in the repeats that both sides have.

    ``undefended``, ``defended``: (repeats, test inputs), 1 where the surrogate is right (by the quantity that
    is compared). ``adaptive``: whether it was told of the defense. ``knowledge``: what it was told.
    """

    name: str
    knowledge: str
    repeats: tuple[int, ...]
    undefended: NDArray[Any]
    defended: NDArray[Any]

    @property
    def adaptive(self) -> bool:
        """Whether it knows the defense."""
        return self.knowledge != "none"


def contenders(
    findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int, quantity: Quantity
) -> list[Contender]:
    """Return the attacks under ``threat`` and weaker threat models that were run both ways, by name.

    Attacks that are near chance without the defense are left out, as in every ranking. Nothing is carried
    over from another defense.
    """
    found = []
    for source in (threat, *threat.weaker()):
        without = findings.raw_results.get((source, UNDEFENDED, budget), {})
        against = findings.raw_results.get((source, defense, budget), {})
        for text in sorted(without.keys() & against.keys()):
            if not without[text].ranked:
                continue
            pair = _paired(without[text], against[text], quantity)
            if pair is not None:
                name = findings.attack_name(text) + weaker_note(source, threat)
                found.append(Contender(name, source.knowledge, *pair))
    return sorted(found, key=lambda each: each.name)


def _paired(
    without: AttackerResult, against: AttackerResult, quantity: Quantity
) -> tuple[tuple[int, ...], NDArray[Any], NDArray[Any]] | None:
    """Return the shared repeats and the tables of both sides; None without a shared repeat."""
    left, right = _by_repeat(without, quantity), _by_repeat(against, quantity)
    shared = tuple(repeat for repeat in left if repeat in right)
    if not shared or any(left[repeat].shape != right[repeat].shape for repeat in shared):
        return None
    return shared, np.stack([left[r] for r in shared]), np.stack([right[r] for r in shared])


def _by_repeat(result: AttackerResult, quantity: Quantity) -> dict[int, NDArray[Any]]:
    if quantity == "fidelity":
        return dict(zip(result.repeats, result.agreement, strict=True))  # balanced where the house balances
    name = ARRAYS[f"extraction.{quantity}"]
    return {record.repeat: record.arrays[name] for record in result.records if name in record.arrays}


def competent_attacker(met: Sequence[Contender]) -> CompetentAttacker | None:
    """Return the best attack without the defense against the best with it; None without any.

    The interval is that of :func:`bench.analysis.confirmed_reduction.reduction`, as in a report's summary:
    its lower end is the lowest over all attacks against the defense, since any may be the best one.
    """
    if not met:
        return None
    before, after = _best(met, "undefended"), _best(met, "defended")
    shared = _shared(before, after)
    if not shared:
        return None
    left, right = _rows(before, "undefended", shared), _rows(after, "defended", shared)
    paired = paired_difference(left, right)
    low = min((_lowest(before, each) for each in met if _shared(before, each)), default=paired.low)
    return CompetentAttacker(
        undefended=float(left.mean()),
        undefended_attack=before.name,
        defended=float(right.mean()),
        attack=after.name,
        loss=Estimate.of(Interval(paired.value, max(min(low, paired.value), -1.0), paired.high)),
        attacks=len(met),
        repeats=len(shared),
    )


def adaptation(met: Sequence[Contender]) -> Adaptation | None:
    """Return what adaptation adds; None where no adaptive attack was run, or no other one.

    Both are the best of their kind against the defense; the same two are compared without it. A trainer that
    is better anyway then adds nothing: it is as much better without the defense.
    """
    adapting = [each for each in met if each.adaptive]
    others = [each for each in met if not each.adaptive]
    if not adapting or not others:
        return None
    one, other = _best(adapting, "defended"), _best(others, "defended")
    shared = _shared(one, other)
    if not shared:
        return None
    with_defense, without = (
        _rows(one, side, shared).astype(np.float64) - _rows(other, side, shared)
        for side in ("defended", "undefended")
    )
    return Adaptation(
        adaptive=one.name,
        non_adaptive=other.name,
        adds=Estimate.of(paired_difference(with_defense, without)),
    )


def _lowest(before: Contender, against: Contender) -> float:
    """Return the lower 95 % limit of what the defense takes, if ``against`` is the best attack on it."""
    shared = _shared(before, against)
    left, right = _rows(before, "undefended", shared), _rows(against, "defended", shared)
    return difference_bounds(left, right, TAIL, TAIL)[0]


def _best(met: Sequence[Contender], side: str) -> Contender:
    """Return the one with the highest mean on a side.

    Of equal ones, that with the highest on the other: behind labels alone, who learns whole answers and who
    learns labels get the same. Of these, the first name.
    """
    (other,) = {"undefended", "defended"} - {side}

    def means(each: Contender) -> tuple[float, float]:
        return float(getattr(each, side).mean()), float(getattr(each, other).mean())

    return max(sorted(met, key=lambda each: each.name), key=means)


def _shared(a: Contender, b: Contender) -> list[int]:
    return [repeat for repeat in a.repeats if repeat in b.repeats]


def _rows(contender: Contender, side: str, repeats: Sequence[int]) -> NDArray[Any]:
    table: NDArray[Any] = getattr(contender, side)
    return table[[contender.repeats.index(repeat) for repeat in repeats]]
