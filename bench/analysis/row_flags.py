"""The reliability warnings of a defense under a threat model.

Warnings of a single cell are raised while it runs (`bench.metrics.flags`, with the numbered list) and stored
with it. Here are those that need all attacks of a row, or its defense evaluation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from bench.analysis.attacker_results import AttackerResult
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, victim_of
from bench.metrics.flags import FLAGS, ReliabilityWarning
from bench.records import ClaimsRecord
from bench.tasks import DefenseEvaluation

BELOW = 0.005
"""By how much a victim may be below its expected accuracy: half a percentage point."""
MARK = "⚑"
"""Stands where a number cannot be used."""


@dataclass(frozen=True)
class RaisedWarning:
    """A reliability warning of a row. ``flag``: its name; ``detail``: one clause with the numbers."""

    flag: str
    detail: str

    @property
    def invalidates(self) -> bool:
        """Whether the row's numbers cannot be used."""
        return FLAGS[self.flag].invalidates


def row_flags(findings: Findings, row: DefenseResult) -> tuple[RaisedWarning, ...]:
    """Return the warnings of a row, in the order of their numbers.

    Those that depend on the budget are tested at the budgets of the summary. Warnings of cells are
    those of the row's best attacks there.
    """
    return _by_row(findings)[row.threat, row.defense]


@lru_cache(maxsize=4)
def _by_row(findings: Findings) -> dict[tuple[VictimThreatModel, Defense], tuple[RaisedWarning, ...]]:
    # Pages ask for a row's warnings several times.
    return {
        (row.threat, row.defense): _tested(_Row(findings, row))
        for rows in findings.rows.values()
        for row in rows
    }


def _tested(case: _Row) -> tuple[RaisedWarning, ...]:
    return tuple(RaisedWarning(name, detail) for name in FLAGS if (detail := _TESTS[name](case)))


def invalidating(findings: Findings, row: DefenseResult) -> tuple[RaisedWarning, ...]:
    """Return the warnings that make a row's numbers useless."""
    return tuple(each for each in row_flags(findings, row) if each.invalidates)


@dataclass(frozen=True)
class Note:
    """A reliability warning of a run: the rows that it concerns, with details, and how many cells have it."""

    flag: ReliabilityWarning
    rows: tuple[tuple[VictimThreatModel, Defense, str], ...]
    cells: int


def grouped(findings: Findings) -> list[Note]:
    """Return the warnings of a run, each once: invalidating ones first, then in the order of numbers.

    Of names that this version does not know, only the number of cells is known.
    """
    cells = Counter(flag for record in findings.records for flag in record.info.flags)
    unknown = {name: ReliabilityWarning(0, name, "unknown to this version", "") for name in cells}
    rows: dict[str, list[tuple[VictimThreatModel, Defense, str]]] = defaultdict(list)
    for (threat, defense), raised in _by_row(findings).items():
        for each in raised:
            rows[each.flag].append((threat, defense, each.detail))
    found = [
        Note(flag, tuple(rows[name]), cells[name])
        for name, flag in (unknown | FLAGS).items()
        if rows[name] or cells[name]
    ]
    return sorted(found, key=lambda note: (not note.flag.invalidates, note.flag.number, note.flag.name))


class _Row:
    """A row at the budgets of the summary. Each test below returns a detail, or an empty text."""

    def __init__(self, findings: Findings, row: DefenseResult) -> None:
        self.findings, self.row = findings, row
        spent = [budget for budget in findings.summary_budgets(row.threat) if budget in row.results]
        self.results = {b: row.results[b] for b in spent or sorted(row.results)[-1:]}
        self.candidates = {b: findings.candidates(row.threat, row.defense, b) for b in self.results}
        self.claims = row.evaluation.info.claims if row.evaluation else ClaimsRecord()


def _near_chance(case: _Row) -> str:
    details = []
    for budget, candidates in case.candidates.items():
        best = case.results[budget].best
        weak = {name: sample for name, sample in candidates.items() if not sample.ranked}
        if weak and best is None:
            details.append(f"none of {len(weak)} attacks is ranked at {budget:,} queries")
        elif best and weak and (value := _mean(weak[_highest(weak)])) > best.interval.value:
            details.append(f"{_highest(weak)}, not ranked at {budget:,} queries, reaches {100 * value:.1f} %")
    return _joined(details)


def _inherited(flag: str, case: _Row) -> str:
    """Return in how many repeats of the best attack a cell's flag is raised; of all, where none is ranked."""
    details = []
    for budget, result in case.results.items():
        of = f"of {result.repeats} repeats" if result.best else "cells, none of them ranked,"
        if result.flags[flag]:
            details.append(f"{result.flags[flag]} {of} at {budget:,} queries")
    return _joined(details)


def _detector_fit(case: _Row) -> str:
    evaluation, threat = case.row.evaluation, case.row.threat
    if evaluation is None or not case.claims.may_flag:
        return ""
    details, own = [], ["train"]
    task = evaluation.task
    if task.victim.splits == "official":
        own += ["in-distribution", task.victim.data]
        details.append("its thresholds were set on images that the victim was trained on")
    judged = [pool for pool in task.pools if pool in own] if isinstance(task, DefenseEvaluation) else []
    if judged:
        details.append(f"it is evaluated on pool {' and '.join(judged)}, on which it was fitted")
    if threat.pool in own:
        details.append(f"the attacker sends {threat.pool}, on which it was fitted")
    return _joined(details)


def _weak_victim(case: _Row) -> str:
    evaluation = case.row.evaluation or case.findings.evaluations.get((case.row.threat.victim, UNDEFENDED))
    if evaluation is None:
        return ""
    # A victim of the user's own is theirs to judge.
    own = evaluation.task.victim.is_reference
    wanted = None if own else case.findings.expected.get(victim_of(evaluation.task))
    reached = evaluation.metrics.get("honest.accuracy_undefended")
    if wanted is None or reached is None or reached >= wanted - BELOW:
        return ""
    return f"accuracy on the test split is {100 * reached:.1f} %, {100 * wanted:.1f} % is expected"


def _small_budget(case: _Row) -> str:
    details = []
    for budget, result in case.results.items():
        best = result.best
        if best and _reports(case.candidates[budget][best.attack], "small_budget"):
            details.append(f"{best.attack} at {budget:,} queries")
    return _joined(details)


def _single_repeat(case: _Row) -> str:
    return _joined(f"at {b:,} queries" for b, result in case.results.items() if result.repeats == 1)


_TESTS: dict[str, Callable[[_Row], str]] = {
    "near_chance": _near_chance,
    "detector_fit": _detector_fit,
    "weak_victim": _weak_victim,
    "small_budget": _small_budget,
    "single_repeat": _single_repeat,
    **{flag: partial(_inherited, flag) for flag in ("still_moving", "overlap", "nothing_learnt")},
}


def _highest(candidates: Mapping[str, AttackerResult]) -> str:
    return max(sorted(candidates), key=lambda name: _mean(candidates[name]))


def _mean(sample: AttackerResult) -> float:
    return float(sample.agreement.mean())


def _reports(sample: AttackerResult, name: str) -> bool:
    """Return whether a metric that the attack itself reports is above 0 in some repeat."""
    return any((record.metrics.get(f"extraction.{name}") or 0) > 0 for record in sample.records)


def _joined(details: Iterable[str]) -> str:
    return "; ".join(part for part in details if part)
