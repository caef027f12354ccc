"""Which reliability flags a row of the verdict raises.

What a single cell can show was tested while it ran (`bench.metrics.flags`, where the numbered list is) and is
stored with it; here is what only a row can show: its attackers side by side, and its audit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from bench.analysis.attacker_results import AttackerResult, shared_repeats
from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.calls import parse_call
from bench.metrics.flags import FLAGS, label
from bench.metrics.intervals import Interval, paired_difference

WIDE = 0.02
"""Half-width (2 points) above which a gap's interval cannot place a defense among others."""
BELOW = 0.005
"""By how much a victim may stay below its expected accuracy: half a point."""
FLIP = 1e-6
"""A smaller share of flipped labels is rounding: one answer in five draws of 10,000 is 2e-5."""
MARK = "⚑"


@dataclass(frozen=True)
class RaisedWarning:
    """A flag that a row raises. ``flag``: its name; ``detail``: one clause with the numbers seen."""

    flag: str
    detail: str


def row_flags(findings: Findings, row: DefenseResult) -> tuple[RaisedWarning, ...]:
    """Return the flags that a row raises, by number.

    What depends on the budget is tested at those of the verdict: the reference and the largest. The
    flags of cells are those of the row's strongest attackers there.
    """
    return _by_row(findings)[row.threat, row.defense]


@lru_cache(maxsize=4)
def _by_row(findings: Findings) -> dict[tuple[VictimThreatModel, Defense], tuple[RaisedWarning, ...]]:
    # A page names each defense many times, and flags with it.
    return {
        (row.threat, row.defense): _tested(_Case(findings, row))
        for rows in findings.rows.values()
        for row in rows
    }


def _tested(case: _Case) -> tuple[RaisedWarning, ...]:
    return tuple(RaisedWarning(name, detail) for name in FLAGS if (detail := _TESTS[name](case)))


def warning_labels(findings: Findings, row: DefenseResult) -> str:
    """Return the numbers of a row's flags, ``⚑ F3, F5``; empty where it raises none."""
    labels = [label(each.flag) for each in row_flags(findings, row)]
    return f"{MARK} {', '.join(dict.fromkeys(labels))}" if labels else ""


def name_with_warnings(findings: Findings, row: DefenseResult) -> str:
    """Return the defense's short name with its flags."""
    return f"{findings.defense_name(row.defense)} {warning_labels(findings, row)}".strip()


class _Case:
    """A row as the tests below want it, each of which returns a detail, or nothing."""

    def __init__(self, findings: Findings, row: DefenseResult) -> None:
        self.findings, self.row = findings, row
        spent = [budget for budget in findings.summary_budgets(row.threat) if budget in row.results]
        self.results = {b: row.results[b] for b in spent or sorted(row.results)[-1:]}
        self.fields = {b: findings.candidates(row.threat, row.defense, b) for b in self.results}
        self.claims: Mapping[str, Any] = row.evaluation.info.get("claims", {}) if row.evaluation else {}

    @property
    def family(self) -> list[VictimThreatModel]:
        """The threat models that differ from the row's by what the thief knows, its own among them."""
        mine = self.row.threat
        return [t for t in self.findings.threats if replace(t, knowledge=mine.knowledge) == mine]

    @property
    def better_informed(self) -> list[VictimThreatModel]:
        """Those of the family whose thieves know more than the row's."""
        mine = self.row.threat
        return [t for t in self.family if t != mine and t not in set(mine.weaker())]

    def declared(self) -> Iterator[tuple[str, Collection[str] | None]]:
        """Give each defense of the stack with the attacks that know it; None where no record says."""
        for text in self.row.defense:
            name = parse_call(text)[0]
            yield name, self.findings.known_by.get(name)


def _randomised(case: _Case) -> str:
    if case.row.evaluation is None or not case.claims.get("stochastic"):
        return ""
    answer = "the same" if case.claims.get("consistent_noise") else "another"
    return (
        f"{case.row.evaluation.spec['repeats']} draws in the audit; an input asked again gets {answer} answer"
    )


def _averaging_helps(case: _Case) -> str:
    claims = case.claims
    varies = (claims.get("stochastic") or claims.get("counts_queries")) and not claims.get("consistent_noise")
    if case.row.defense == UNDEFENDED or (claims and not varies):
        # An attack may repeat a few inputs to learn that nothing varies, and then win by other means.
        return ""
    told = []
    for budget, field in case.fields.items():
        again = {name: sample for name, sample in field.items() if _fact(sample, "repeated")}
        once = {name: sample for name, sample in field.items() if name not in again}
        told.append(_duel(budget, again, once))
    return _joined(told)


def _labels_flip(case: _Case) -> str:
    metrics = case.row.evaluation.metrics if case.row.evaluation else {}
    kept, refused = metrics.get("honest.top1_kept"), metrics.get("honest.refused") or 0.0
    if kept is None:
        return ""
    # A refusal is a miss in top1_kept. Where one label was seen to flip, no interval holds zero flips.
    flipped = 1 - refused - kept
    if flipped < FLIP:
        return ""
    beside = f", and {100 * refused:.1f} % were refused" if refused else ""
    return f"{100 * flipped / (1 - refused):.2g} % of the answered honest queries{beside}"


def _aware_attacker_wins(case: _Case) -> str:
    row = case.row
    if row.defense == UNDEFENDED:
        return ""
    declared = {name for _, known_by in case.declared() for name in known_by or ()}
    told = []
    for budget, field in case.fields.items():
        aware = {name: sample for name, sample in field.items() if _aware(sample, row, declared)}
        static = {name: sample for name, sample in field.items() if name not in aware}
        for threat in case.better_informed:
            aware |= {
                f"{name} (knowledge = {threat.knowledge})": sample
                for name, sample in case.findings.candidates(threat, row.defense, budget).items()
                if sample.records[0].spec["knowledge"] == threat.knowledge and _aware(sample, row, declared)
            }
        told.append(_duel(budget, aware, static))
    return _joined(told)


def _aware(sample: AttackerResult, row: DefenseResult, declared: Iterable[str]) -> bool:
    """Return whether this thief was told of the defense, or was built against it and can use such news.

    One who is replayed on the labels met another defense.
    """
    spec = sample.records[0].spec
    name = parse_call(spec["attack"])[0]
    # Stores of older versions do not say what an attack can use.
    usable = set(sample.records[0].info.get("attack", {}).get("knowledge", ()))
    return sample.adaptive or (
        defense_of(spec) == row.defense and name in declared and bool(usable - {"none"})
    )


def _near_chance(case: _Case) -> str:
    told = []
    for budget, field in case.fields.items():
        best = case.results[budget].best
        weak = {name: sample for name, sample in field.items() if not sample.ranked}
        if weak and best is None:
            told.append(f"none of {len(weak)} attackers is ranked at {budget:,} queries")
        elif best and weak and (value := _mean(weak[_highest(weak)])) > best.interval.value:
            told.append(f"{_highest(weak)}, not ranked at {budget:,} queries, gets {100 * value:.1f} %")
    return _joined(told)


def _inherited(flag: str, case: _Case) -> str:
    """Tell how many repeats of the strongest attacker carry a cell flag; of all, where none is ranked."""
    told = []
    for budget, standing in case.results.items():
        of = f"of {standing.repeats} repeats" if standing.best else "cells, none of them ranked,"
        if standing.flags[flag]:
            told.append(f"{standing.flags[flag]} {of} at {budget:,} queries")
    return _joined(told)


def _wide_interval(case: _Case) -> str:
    if case.row.defense == UNDEFENDED:
        return ""
    told = []
    for budget, standing in case.results.items():
        shown = standing.reduction or (standing.best.interval if standing.best else None)
        if shown is None:
            continue
        half = (shown.high - shown.low) / 2
        if standing.repeats < 2:
            told.append(f"a single repeat at {budget:,} queries")
        elif half > WIDE:
            told.append(f"±{100 * half:.1f} points at {budget:,} queries")
    return _joined(told)


def _detector_fit(case: _Case) -> str:
    evaluation, threat = case.row.evaluation, case.row.threat
    if evaluation is None or not case.claims.get("may_flag"):
        return ""
    told, own = [], ["train"]
    if evaluation.spec.get("splits") == "official":
        own += ["in-distribution", str(evaluation.spec["data"])]
        told.append("its thresholds were set on images that the victim was trained on")
    judged = [pool for pool in evaluation.spec.get("pools", ()) if pool in own]
    if judged:
        told.append(f"it judges pool {' and '.join(judged)}, images that it was fitted on")
    if threat.pool in own:
        told.append(f"the thief sends {threat.pool}, images that it was fitted on")
    return _joined(told)


def _weak_victim(case: _Case) -> str:
    evaluation = case.row.evaluation or case.findings.evaluations.get((case.row.threat.victim, UNDEFENDED))
    if evaluation is None:
        return ""
    own = ":" in str(evaluation.spec["data"])
    wanted = None if own else case.findings.expected.get(str(evaluation.spec["victim"]))
    reached = evaluation.metrics.get("honest.accuracy_undefended")
    if wanted is None or reached is None or reached >= wanted - BELOW:
        return ""
    return f"{100 * reached:.1f} % of the test split is right, {100 * wanted:.1f} % is expected"


def _no_declared_attacker(case: _Case) -> str:
    row, family = case.row, set(case.family)
    ran = {
        parse_call(record.spec["attack"])[0]
        for record in case.findings.records
        if record.kind == "cell"
        and record.status == "ok"
        and defense_of(record.spec) == row.defense
        and VictimThreatModel.of(record.spec) in family
    }
    told = []
    for name, known_by in case.declared():
        if known_by is None:
            told.append(f"the store does not say which attacks know {name}")
        elif not known_by:
            told.append(f"{name} declares none")
        elif ran.isdisjoint(known_by):
            told.append(f"{name} declares {', '.join(known_by)}, of which none was run here")
    return _joined(told)


def _small_budget(case: _Case) -> str:
    told = []
    for budget, standing in case.results.items():
        best = standing.best
        if best and _fact(case.fields[budget][best.attacker], "small_budget"):
            told.append(f"{best.attacker} at {budget:,} queries")
    return _joined(told)


_TESTS: dict[str, Callable[[_Case], str]] = {
    "randomised": _randomised,
    "averaging_helps": _averaging_helps,
    "labels_flip": _labels_flip,
    "aware_attacker_wins": _aware_attacker_wins,
    "near_chance": _near_chance,
    "wide_interval": _wide_interval,
    "detector_fit": _detector_fit,
    "weak_victim": _weak_victim,
    "no_declared_attacker": _no_declared_attacker,
    "small_budget": _small_budget,
    **{flag: partial(_inherited, flag) for flag in ("still_moving", "overlap", "nothing_learnt")},
}


def _duel(
    budget: int, challengers: Mapping[str, AttackerResult], others: Mapping[str, AttackerResult]
) -> str:
    """Tell by how much the strongest challenger beats the strongest of the others; nothing if it may not."""
    ours, theirs = ({n: s for n, s in side.items() if s.ranked} for side in (challengers, others))
    if not ours or not theirs:
        return ""
    first, second = _highest(ours), _highest(theirs)
    ahead = paired_difference(*shared_repeats(ours[first], theirs[second]))
    if not ahead.low > 0:
        return ""
    return f"{first} is {_points(ahead)} points ahead of {second} at {budget:,} queries"


def _highest(field: Mapping[str, AttackerResult]) -> str:
    return max(sorted(field), key=lambda name: _mean(field[name]))


def _mean(sample: AttackerResult) -> float:
    return float(sample.agreement.mean())


def _fact(sample: AttackerResult, name: str) -> bool:
    """Return whether an attack's own number is above 0 in some repeat."""
    return any((record.metrics.get(f"extraction.{name}") or 0) > 0 for record in sample.records)


def _points(interval: Interval) -> str:
    value, low, high = (f"{100 * part:.1f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _joined(told: Iterable[str]) -> str:
    return "; ".join(part for part in told if part)
