"""What changed from one run to another: best attacks, fidelity reductions, utility loss, recommendations.

Unlike the gate, this decides nothing. Both runs are reduced to the attacks that have results under a
condition in both, so that a row compares like with like; what only one of them has is listed by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.analysis.attacker_results import AttackerResult, Condition, agreement_of, in_both
from bench.analysis.comparison import best_of
from bench.analysis.display_names import attack_of
from bench.analysis.findings import Findings
from bench.analysis.recommendation import recommendations
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.analysis.verdicts import Recommendation
from bench.gate.baseline import Baseline
from bench.gate.runs import Pairing, Run, pairing
from bench.metrics.intervals import Interval, paired_difference, unpaired_difference
from bench.records import Record
from bench.tasks import Cell

UTILITY = ("honest.accuracy_lost", "honest.refused")
"""Metrics of a defense evaluation that are compared."""
Table = dict[int, NDArray[np.float64]]
"""A value for each test input, (inputs,), by repeat."""


@dataclass(frozen=True)
class State:
    """A defense in one run: the best attack's fidelity and its reduction, fractions with intervals."""

    fidelity: Interval
    attack: str
    reduction: Interval | None


@dataclass(frozen=True)
class Change:
    """A defense under one threat model at one budget in both runs.

    ``fidelity``, ``reduction``: what was added from ``before`` to ``after``; None where there is none.
    """

    threat: VictimThreatModel
    defense: Defense
    budget: int
    before: State
    after: State
    fidelity: Interval
    reduction: Interval | None

    @property
    def is_significant(self) -> bool:
        """Whether the interval of some difference does not hold 0."""
        known = [each for each in (self.fidelity, self.reduction) if each is not None]
        return any(each.low > 0 or each.high < 0 for each in known)


@dataclass(frozen=True)
class Answer:
    """The recommendation for a victim in each run; None for a run without that victim."""

    victim: str
    before: Recommendation | None
    after: Recommendation | None


@dataclass(frozen=True)
class Changes:
    """Two runs side by side.

    ``only``: for the earlier and the later run the names of what it alone has, by kind. ``utility``: the
    defense evaluations that both have and whose metrics differ, by victim and defense.
    """

    before: Findings
    after: Findings
    pairing: Pairing
    rows: list[Change]
    answers: list[Answer]
    utility: dict[tuple[str, Defense], tuple[Record, Record]]
    only: tuple[dict[str, list[str]], dict[str, list[str]]]


def changes(before: Baseline, after: Baseline) -> Changes:
    """Compare two runs."""
    old, new = (Findings.of_run(run.records, run.meta) for run in (before, after))
    lost, added = _results(old) - _results(new), _results(new) - _results(old)
    shared = _results(old) & _results(new)
    small = [
        Findings.of_run([each for each in run.records if _counts(each, shared)], run.meta)
        for run in (before, after)
    ]
    belong = pairing(Run(before), Run(after))
    return Changes(
        old,
        new,
        belong,
        [*_rows(*small, paired=belong is not Pairing.broken)],
        _answers(before, after, [old, new]),
        _utility(old, new),
        (_alone(old, lost, new), _alone(new, added, old)),
    )


def _results(findings: Findings) -> set[tuple[Condition, str]]:
    return {(condition, attack) for condition, found in findings.raw_results.items() for attack in found}


def _counts(record: Record, shared: Collection[tuple[Condition, str]]) -> bool:
    cell = record.task
    if not isinstance(cell, Cell):
        return True
    condition = (VictimThreatModel.of(cell), defense_of(cell), cell.budget)
    return not cell.confirmation and (condition, attack_of(cell)) in shared


def _rows(before: Findings, after: Findings, *, paired: bool) -> Iterator[Change]:
    for threat in before.threats:
        if threat not in after.conditions:
            continue
        for defense, budgets in before.conditions[threat].items():
            for budget in sorted(set(budgets) & set(after.conditions[threat].get(defense, []))):
                was = _state(before, threat, defense, budget)
                now = _state(after, threat, defense, budget)
                if was is None or now is None:
                    continue
                fidelity = _difference(now[1], was[1], paired=paired)
                reduction = _difference(now[2], was[2], paired=paired)
                if fidelity is not None:
                    yield Change(threat, defense, budget, was[0], now[0], fidelity, reduction)


def _state(
    findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int
) -> tuple[State, Table, Table] | None:
    """Return the state of a defense, with the agreement of the best attack, and its reduction, by repeat."""
    candidates = findings.candidates(threat, defense, budget)
    result = findings.result(threat, defense, budget)
    if result.best is None:
        return None
    best = candidates[result.best.attack]
    agreement = _table(best)
    reduced: Table = {}
    if defense != UNDEFENDED:
        rivals = in_both(findings.candidates(threat, UNDEFENDED, budget), candidates)
        if rival := best_of(rivals):
            other = _table(rivals[rival.attack])
            reduced = {r: other[r] - agreement[r] for r in other if r in agreement}
    state = State(result.best.interval, result.best.attack, result.reduction)
    return state, agreement, reduced


def _table(result: AttackerResult) -> Table:
    rows = agreement_of(result, result.repeats).astype(np.float64)
    return dict(zip(result.repeats, rows, strict=True))


def _difference(new: Table, old: Table, *, paired: bool) -> Interval | None:
    """Return the mean of the second table subtracted from that of the first; None if one is empty."""
    if not new or not old:
        return None
    both = sorted(new.keys() & old.keys())
    if paired and both and new[both[0]].shape == old[both[0]].shape:
        return paired_difference(np.stack([new[r] for r in both]), np.stack([old[r] for r in both]))
    return unpaired_difference(np.stack([*new.values()]), np.stack([*old.values()]))


def _answers(before: Baseline, after: Baseline, whole: list[Findings]) -> list[Answer]:
    found = [
        {each.victim: each.strongest for each in recommendations(findings, run.meta.report)}
        for run, findings in zip((before, after), whole, strict=True)
    ]
    return [Answer(victim, found[0].get(victim), found[1].get(victim)) for victim in found[0] | found[1]]


def _utility(before: Findings, after: Findings) -> dict[tuple[str, Defense], tuple[Record, Record]]:
    return {
        key: (old, new)
        for key, old in before.evaluations.items()
        if (new := after.evaluations.get(key)) is not None
        and any(old.metrics.get(name) != new.metrics.get(name) for name in UTILITY)
    }


def _alone(
    own: Findings, results: Collection[tuple[Condition, str]], other: Findings
) -> dict[str, list[str]]:
    """Return what only one run has: victims, defenses, attacks; then how many other results."""
    theirs = _results(other)
    victims = {threat.victim for (threat, _, _), _ in theirs}
    defenses = {defense for (_, defense, _), _ in theirs} | {key[1] for key in other.evaluations}
    attacks = {attack for _, attack in theirs}
    mine = {defense for (_, defense, _), _ in _results(own)} | {key[1] for key in own.evaluations}
    found = {
        "victims": sorted({threat.victim for (threat, _, _), _ in results} - victims),
        "defenses": sorted(map(own.defense_name, mine - defenses)),
        "attacks": sorted(map(own.attack_name, {attack for _, attack in results} - attacks)),
    }
    rest = [
        condition
        for condition, attack in results
        if condition[0].victim in victims and condition[1] in defenses and attack in attacks
    ]
    if rest:
        found["other combinations of defense, attack, budget and threat model"] = [str(len(rest))]
    return {kind: names for kind, names in found.items() if names}
