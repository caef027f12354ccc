"""The reliability warnings of a defense under a threat model.

Warnings of a single cell are raised while it runs (`bench.metrics.flags`, with the numbered list) and stored
with it. Here are those that need all attacks of a row, or its defense evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from bench.analysis.attacker_results import AttackerResult, shared_repeats
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of, victim_of
from bench.calls import parse_call
from bench.metrics.flags import FLAGS, label
from bench.metrics.intervals import Interval, paired_difference
from bench.records import ClaimsRecord
from bench.tasks import Cell, DefenseEvaluation

WIDE = 0.02
"""Half-width of a fidelity reduction's interval (2 pp) above which it is too wide to rank defenses."""
BELOW = 0.005
"""By how much a victim may be below its expected accuracy: half a percentage point."""
FLIP = 1e-6
"""Smaller shares of changed labels are rounding: one answer in five draws of 10,000 is 2e-5."""
MARK = "⚑"


@dataclass(frozen=True)
class RaisedWarning:
    """A reliability warning of a row. ``flag``: its name; ``detail``: one clause with the numbers."""

    flag: str
    detail: str


def row_flags(findings: Findings, row: DefenseResult) -> tuple[RaisedWarning, ...]:
    """Return the warnings of a row, in the order of their numbers.

    Those that depend on the budget are tested at the budgets of the summary. Warnings of cells are
    those of the row's best attacks there.
    """
    return _by_row(findings)[row.threat, row.defense]


@lru_cache(maxsize=4)
def _by_row(findings: Findings) -> dict[tuple[VictimThreatModel, Defense], tuple[RaisedWarning, ...]]:
    # A page names each defense many times, each time with its warnings.
    return {
        (row.threat, row.defense): _tested(_Row(findings, row))
        for rows in findings.rows.values()
        for row in rows
    }


def _tested(case: _Row) -> tuple[RaisedWarning, ...]:
    return tuple(RaisedWarning(name, detail) for name in FLAGS if (detail := _TESTS[name](case)))


def warning_labels(findings: Findings, row: DefenseResult) -> str:
    """Return the numbers of a row's warnings, ``⚑ F3, F5``; empty without any."""
    labels = [label(each.flag) for each in row_flags(findings, row)]
    return f"{MARK} {', '.join(dict.fromkeys(labels))}" if labels else ""


def name_with_warnings(findings: Findings, row: DefenseResult) -> str:
    """Return the defense's short name with the numbers of its warnings."""
    return f"{findings.defense_name(row.defense)} {warning_labels(findings, row)}".strip()


class _Row:
    """A row at the budgets of the summary. Each test below returns a detail, or an empty text."""

    def __init__(self, findings: Findings, row: DefenseResult) -> None:
        self.findings, self.row = findings, row
        spent = [budget for budget in findings.summary_budgets(row.threat) if budget in row.results]
        self.results = {b: row.results[b] for b in spent or sorted(row.results)[-1:]}
        self.candidates = {b: findings.candidates(row.threat, row.defense, b) for b in self.results}
        self.claims = row.evaluation.info.claims if row.evaluation else ClaimsRecord()

    @property
    def other_knowledge(self) -> list[VictimThreatModel]:
        """The threat models that differ from the row's in knowledge alone, its own among them."""
        own = self.row.threat
        return [t for t in self.findings.threats if replace(t, knowledge=own.knowledge) == own]

    @property
    def better_informed(self) -> list[VictimThreatModel]:
        """Those of them with more knowledge than the row's."""
        own = self.row.threat
        return [t for t in self.other_knowledge if t != own and t not in set(own.weaker())]

    def known_by(self) -> Iterator[tuple[str, Collection[str] | None]]:
        """Give each defense of the stack with the attacks that are declared to know it; None if unknown."""
        for text in self.row.defense:
            name = parse_call(text)[0]
            yield name, self.findings.known_by.get(name)


def _randomised(case: _Row) -> str:
    if case.row.evaluation is None or not case.claims.stochastic:
        return ""
    answer = "the same" if case.claims.consistent_noise else "another"
    return (
        f"{case.row.evaluation.task.repeats} draws in the defense evaluation; "
        f"an input that is sent again gets {answer} answer"
    )


def _averaging_helps(case: _Row) -> str:
    claims = case.claims
    varies = (claims.stochastic or claims.counts_queries) and not claims.consistent_noise
    if case.row.defense == UNDEFENDED or (claims.model_fields_set and not varies):
        # An attack may repeat a few inputs to test that nothing varies, and be ahead for another reason.
        return ""
    details = []
    for budget, candidates in case.candidates.items():
        again = {name: sample for name, sample in candidates.items() if _reports(sample, "repeated")}
        once = {name: sample for name, sample in candidates.items() if name not in again}
        details.append(_lead(budget, again, once))
    return _joined(details)


def _labels_flip(case: _Row) -> str:
    metrics = case.row.evaluation.metrics if case.row.evaluation else {}
    kept, refused = metrics.get("honest.top1_kept"), metrics.get("honest.refused") or 0.0
    if kept is None:
        return ""
    # A rejection is a miss in top1_kept. Once one label was seen to change, no interval contains zero.
    flipped = 1 - refused - kept
    if flipped < FLIP:
        return ""
    rejected = f", and {100 * refused:.1f} % were rejected" if refused else ""
    return f"{100 * flipped / (1 - refused):.2g} % of the answered benign queries{rejected}"


def _adaptive_attack_wins(case: _Row) -> str:
    row = case.row
    if row.defense == UNDEFENDED:
        return ""
    declared = {name for _, known_by in case.known_by() for name in known_by or ()}
    details = []
    for budget, candidates in case.candidates.items():
        adaptive = {name: sample for name, sample in candidates.items() if _adaptive(sample, row, declared)}
        others = {name: sample for name, sample in candidates.items() if name not in adaptive}
        for threat in case.better_informed:
            adaptive |= {
                f"{name} (knowledge = {threat.knowledge})": sample
                for name, sample in case.findings.candidates(threat, row.defense, budget).items()
                if sample.records[0].cell.threat.knowledge == threat.knowledge
                and _adaptive(sample, row, declared)
            }
        details.append(_lead(budget, adaptive, others))
    return _joined(details)


def _adaptive(sample: AttackerResult, row: DefenseResult, declared: Iterable[str]) -> bool:
    """Return whether an attack is adaptive to this defense.

    It is if its threat model includes the defense, or if the defense declares it and it can use such
    knowledge. A result carried over from ``label_only`` was measured against another defense.
    """
    cell = sample.records[0].cell
    known_by = defense_of(cell) == row.defense and parse_call(cell.attack)[0] in declared
    return sample.adaptive or (known_by and bool(sample.usable_knowledge - {"none"}))


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


def _wide_interval(case: _Row) -> str:
    if case.row.defense == UNDEFENDED:
        return ""
    details = []
    for budget, result in case.results.items():
        shown = result.reduction or (result.best.interval if result.best else None)
        if shown is None:
            continue
        half = (shown.high - shown.low) / 2
        if result.repeats < 2:
            details.append(f"a single repeat at {budget:,} queries")
        elif half > WIDE:
            details.append(f"±{100 * half:.1f} pp at {budget:,} queries")
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


def _no_declared_attacker(case: _Row) -> str:
    row, threats = case.row, set(case.other_knowledge)
    ran = {
        parse_call(record.task.attack)[0]
        for record in case.findings.records
        if isinstance(record.task, Cell)
        and record.status == "ok"
        and defense_of(record.task) == row.defense
        and VictimThreatModel.of(record.task) in threats
    }
    details = []
    for name, known_by in case.known_by():
        if known_by is None:
            details.append(f"the store does not say which attacks know {name}")
        elif not known_by:
            details.append(f"{name} declares no attack that knows it")
        elif ran.isdisjoint(known_by):
            details.append(f"{name} is known by {', '.join(known_by)}, of which none was run here")
    return _joined(details)


def _small_budget(case: _Row) -> str:
    details = []
    for budget, result in case.results.items():
        best = result.best
        if best and _reports(case.candidates[budget][best.attack], "small_budget"):
            details.append(f"{best.attack} at {budget:,} queries")
    return _joined(details)


_TESTS: dict[str, Callable[[_Row], str]] = {
    "randomised": _randomised,
    "averaging_helps": _averaging_helps,
    "labels_flip": _labels_flip,
    "aware_attacker_wins": _adaptive_attack_wins,
    "near_chance": _near_chance,
    "wide_interval": _wide_interval,
    "detector_fit": _detector_fit,
    "weak_victim": _weak_victim,
    "no_declared_attacker": _no_declared_attacker,
    "small_budget": _small_budget,
    **{flag: partial(_inherited, flag) for flag in ("still_moving", "overlap", "nothing_learnt")},
}


def _lead(budget: int, some: Mapping[str, AttackerResult], others: Mapping[str, AttackerResult]) -> str:
    """Return by how much the best of ``some`` is significantly ahead of the best of ``others``, or ""."""
    ours, theirs = ({n: s for n, s in side.items() if s.ranked} for side in (some, others))
    if not ours or not theirs:
        return ""
    first, second = _highest(ours), _highest(theirs)
    ahead = paired_difference(*shared_repeats(ours[first], theirs[second]))
    if not ahead.low > 0:
        return ""
    return f"{first} is {_percent(ahead)} pp ahead of {second} at {budget:,} queries"


def _highest(candidates: Mapping[str, AttackerResult]) -> str:
    return max(sorted(candidates), key=lambda name: _mean(candidates[name]))


def _mean(sample: AttackerResult) -> float:
    return float(sample.agreement.mean())


def _reports(sample: AttackerResult, name: str) -> bool:
    """Return whether a metric that the attack itself reports is above 0 in some repeat."""
    return any((record.metrics.get(f"extraction.{name}") or 0) > 0 for record in sample.records)


def _percent(interval: Interval) -> str:
    value, low, high = (f"{100 * part:.1f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _joined(details: Iterable[str]) -> str:
    return "; ".join(part for part in details if part)
