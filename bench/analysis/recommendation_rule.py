"""The rule that recommends a defense: select, then confirm. A function of small values, without records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.confirmed_reduction import (
    AttackTable,
    Strongest,
    confirmed_reduction,
    paired,
    reduction,
    smallest_reduction,
    strongest,
    strongest_pair,
)
from bench.analysis.eligibility import (
    WAYS,
    Sells,
    failed_criteria,
    ways_to_sell,
)
from bench.analysis.threat_models import Defense
from bench.analysis.verdicts import (
    Conclusion,
    Criterion,
    DefenseVerdict,
    Reduction,
)
from bench.run_facts import ReportOptions

MOST_SELECTED = 3
"""At most this many defenses are confirmed, besides those that results are carried over from."""


@dataclass(frozen=True, eq=False)
class DefenseCase:
    """What the rule knows of one defense.

    ``criteria``: those that have to be met; one that is not among them is not asked for. ``attacks``: the
    agreement of every ranked attack against it, ``fresh`` in the confirmation run. ``fresh_adaptive``: the
    criterion on adaptive attackers by fresh repeats, which replaces the other. ``costs``: decide ties, the
    smaller the better, in this order.
    """

    defense: Defense
    criteria: tuple[Criterion, ...]
    attacks: tuple[AttackTable, ...]
    fresh: tuple[AttackTable, ...] = ()
    fresh_adaptive: Criterion | None = None
    costs: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Conclusions:
    """What the rule concludes: a verdict for each case, in the order of a page, and figures on the run."""

    verdicts: tuple[DefenseVerdict, ...]
    selected: tuple[Defense, ...]
    compared: int
    fresh_repeats: int
    smallest: float | None
    others: tuple[tuple[Sells, Defense | None], ...]


@dataclass(eq=False)
class _Judged:
    """A case with its estimates. ``first``: by the repeats of the matrix; ``again``: by fresh ones."""

    case: DefenseCase
    first: Reduction | None
    pair: Strongest | None
    again: Reduction | None = None
    ways: tuple[Sells, ...] = ()
    criteria: tuple[Criterion, ...] = ()

    @property
    def estimate(self) -> float:
        return self.first.interval.value if self.first else -math.inf

    @property
    def confirmed_value(self) -> float:
        return self.again.interval.value if self.again else -math.inf

    def confirmed(self, least: float) -> bool:
        return self.again is not None and self.again.interval.low > 0 and self.confirmed_value >= least

    def promising(self, least: float) -> bool:
        """Return whether fresh repeats would make it recommended, if they gave what the matrix's gave."""
        return self.first is not None and self.first.interval.low > 0 and self.estimate >= least

    @property
    def strongest_again(self) -> AttackTable:
        return strongest(self.case.fresh)


def conclude(
    undefended: Sequence[AttackTable],
    cases: Sequence[DefenseCase],
    options: ReportOptions,
    fresh_undefended: Sequence[AttackTable] = (),
) -> Conclusions:
    """Return the verdict on every defense: the rule, without any record.

    ``undefended``: the agreement of every ranked attack without defense; ``fresh_undefended``: in the
    confirmation run, empty without one.
    """
    pairs = {case.defense: strongest_pair(undefended, case.attacks) for case in cases}
    compared = sum(pair is not None for pair in pairs.values())
    judged = [_Judged(case, reduction(undefended, case.attacks), pairs[case.defense]) for case in cases]
    chosen = _select(judged, options.sells)
    for each in judged:
        each.criteria = _criteria_again(each.case)
        each.ways = ways_to_sell(each.criteria)
        if fresh_undefended and each.pair and _all_again(each.case):
            each.again = confirmed_reduction(fresh_undefended, each.case.fresh, each.pair, compared)
    best, tied = _best(judged, options.sells, options.least)
    verdicts = [_verdict(each, best, tied, chosen, options) for each in judged]
    fresh = [each for each in judged if each.again]
    repeats = min((each.again.repeats for each in fresh if each.again), default=0)
    again = [Strongest(strongest(fresh_undefended), strongest(each.case.fresh)) for each in fresh]
    known = again or [each.pair for each in judged if each.pair]
    others = tuple(
        (way, found.case.defense if (found := _best(judged, way, options.least)[0]) else None)
        for way in WAYS
        if way != options.sells
    )
    return Conclusions(
        tuple(sorted(verdicts, key=_page_order)),
        tuple(each.case.defense for each in chosen),
        compared,
        repeats,
        smallest_reduction(known, repeats or options.confirm, compared, options.least),
        others,
    )


def _select(judged: Sequence[_Judged], sells: Sells) -> list[_Judged]:
    """Return up to three eligible defenses by estimated reduction, the largest first.

    A defense may be among them if only the shortfall of adaptive attackers is not shown: more repeats can
    show it. All of them may reduce nothing; then the confirmation says how sure that is.
    """

    def may_be_eligible(each: _Judged) -> bool:
        failed = failed_criteria(each.case.criteria, sells)
        return all(one.name == "adaptive" and one.verdict == "not shown" for one in failed)

    eligible = [each for each in judged if each.first and may_be_eligible(each)]
    return sorted(eligible, key=lambda each: (-each.estimate, each.case.defense))[:MOST_SELECTED]


def _criteria_again(case: DefenseCase) -> tuple[Criterion, ...]:
    """Return the criteria, that on adaptive attackers by fresh repeats where there are any."""
    again = case.fresh_adaptive
    return tuple(again if again and each.name == "adaptive" else each for each in case.criteria)


def _all_again(case: DefenseCase) -> bool:
    """Return whether every attack against the defense was run again in the confirmation run."""
    return {each.attack for each in case.attacks} <= {each.attack for each in case.fresh}


def _best(judged: Sequence[_Judged], way: Sells, least: float) -> tuple[_Judged | None, list[_Judged]]:
    """Return the defense to recommend, and those tied with it.

    Of the eligible ones that are confirmed, the largest reduction; two tie if the interval of their
    difference, each under its strongest attack, holds 0 and the difference is at most ``least``. Of those
    tied with the largest, the one that costs users least.
    """
    confirmed = [each for each in judged if way in each.ways and each.confirmed(least)]
    if not confirmed:
        return None, []
    largest = min(confirmed, key=lambda each: (-each.confirmed_value, each.case.defense))
    group = [largest]
    for each in confirmed:
        if each is not largest:
            behind = paired(each.strongest_again, largest.strongest_again)
            if behind is not None and behind.low <= 0 and behind.value <= least:
                group.append(each)
    best = min(group, key=lambda each: (each.case.costs, -each.confirmed_value, each.case.defense))
    return best, [each for each in group if each is not best]


def _verdict(
    each: _Judged,
    best: _Judged | None,
    tied: Sequence[_Judged],
    chosen: Sequence[_Judged],
    options: ReportOptions,
) -> DefenseVerdict:
    failed = failed_criteria(each.criteria, options.sells)
    conclusion: Conclusion
    if failed:
        conclusion = _unusable(failed)
    elif each is best:
        conclusion = "recommended"
    elif each in tied:
        conclusion = "tied"
    elif each.again:
        conclusion = "confirmed" if each.again.interval.low > 0 else "not confirmed"
    elif each in chosen and each.promising(options.least):
        conclusion = "candidate"
    else:
        conclusion = "eligible"
    return DefenseVerdict(
        defense=each.case.defense,
        conclusion=conclusion,
        criteria=each.criteria,
        failed=failed,
        eligible_for=each.ways,
        reduction=each.again or each.first,
    )


def _unusable(failed: Sequence[Criterion]) -> Conclusion:
    verdicts = {each.name: each.verdict for each in failed}
    if "valid" in verdicts:
        return "invalid"
    if any(verdict == "too dear" for name, verdict in verdicts.items() if name != "adaptive"):
        return "not usable"
    return "no adaptive attacker" if verdicts.get("adaptive") == "too dear" else "not shown"


_ORDER: tuple[Conclusion, ...] = (
    "undefended",
    "recommended",
    "tied",
    "confirmed",
    "candidate",
    "not confirmed",
    "eligible",
    "not shown",
    "no adaptive attacker",
    "not usable",
    "invalid",
)


def _page_order(verdict: DefenseVerdict) -> tuple[int, float, Defense]:
    value = verdict.reduction.interval.value if verdict.reduction else -math.inf
    return _ORDER.index(verdict.conclusion), -value, verdict.defense
