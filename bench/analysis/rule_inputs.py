"""What the rule needs to know of a threat model at one budget, from findings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from bench.analysis.adaptive_attackers import AttackRun, Behaviour, adaptive_criterion, needs
from bench.analysis.attacker_results import AttackerResult, Condition
from bench.analysis.confirmed_reduction import (
    AttackTable,
    reduction,
    strongest_pair,
)
from bench.analysis.display_names import TRAINED, weaker_note
from bench.analysis.eligibility import (
    utility_criteria,
)
from bench.analysis.findings import Findings
from bench.analysis.recommendation_rule import DefenseCase
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.analysis.verdicts import (
    Criterion,
    CriterionName,
    Reduction,
)
from bench.calls import parse_call
from bench.metrics.intervals import Interval, value_interval
from bench.records import Record
from bench.run_facts import ReportOptions
from bench.tasks import Cell

WEAK_VICTIM = 0.005
"""By how much a victim may be below its expected accuracy, a fraction."""


class RuleInputs:
    """A threat model at one budget: makes the values for the rule from findings."""

    def __init__(
        self,
        findings: Findings,
        threat: VictimThreatModel,
        budget: int,
        options: ReportOptions,
        *,
        adaptive: bool,
    ) -> None:
        self.findings, self.threat, self.budget, self.options = findings, threat, budget, options
        self._adaptive = adaptive
        self.undefended = tables(findings, threat, UNDEFENDED, budget)
        self.defenses = [
            defense
            for defense, budgets in findings.conditions[threat].items()
            if defense and budget in budgets
        ]
        self.runs = {defense: _runs(findings, threat, defense, budget) for defense in self.defenses}
        self.inputs = self.undefended[0].agreement.shape[1] if self.undefended else None

    @property
    def attacks(self) -> set[str]:
        """All attacks here; equal ones count once."""
        runs = (run.table.attack for runs in self.runs.values() for run in runs)
        return {self.findings.equal_attack(text) for text in [*runs, *(e.attack for e in self.undefended)]}

    @property
    def adaptive_attacks(self) -> set[str]:
        """Those of them that are proven to be adaptive to some defense."""
        runs = (run for runs in self.runs.values() for run in runs if run.adaptive)
        return {self.findings.equal_attack(run.table.attack) for run in runs}

    def cases(self, fresh: Findings | None) -> list[DefenseCase]:
        """Return a case for each defense; ``fresh``: the findings of the confirmation run."""
        return [self._case(defense, fresh) for defense in self.defenses]

    def _case(self, defense: Defense, fresh: Findings | None) -> DefenseCase:
        findings, threat, budget = self.findings, self.threat, self.budget
        attacks = tables(findings, threat, defense, budget)
        evaluation = findings.evaluations.get((threat.victim, defense))
        again = tables(fresh, threat, defense, budget) if fresh and self._repeated(defense, fresh) else []
        criteria = [*self._utility(evaluation), self._valid(defense, fresh)]
        adaptive = None
        if self._adaptive:
            criteria.append(self._adaptive_criterion(defense, self.runs[defense]))
            if fresh and again:
                runs = self._known_to_adapt(_runs(fresh, threat, defense, budget), self.runs[defense])
                # A defense that lacks an attack lacks it still.
                if criteria[-1].loss is not None and any(run.adaptive for run in runs):
                    adaptive = self._adaptive_criterion(defense, runs, confirmed=True)
        return DefenseCase(
            defense=defense,
            criteria=tuple(criteria),
            attacks=tuple(attacks),
            fresh=tuple(again),
            fresh_adaptive=adaptive,
            costs=_costs(evaluation, criteria, len(defense)),
        )

    def _repeated(self, defense: Defense, fresh: Findings) -> bool:
        """Return whether all attacks against the defense were run again, and those that are carried over."""
        findings, threat, budget = self.findings, self.threat, self.budget
        sources = findings.label_only_stacks if findings.carries_over(threat, defense) else ()
        return all(
            _own(findings, threat, each, budget) <= _own(fresh, threat, each, budget)
            for each in (defense, *sources)
        )

    def _utility(self, evaluation: Record | None) -> list[Criterion]:
        if evaluation is not None:
            return utility_criteria(evaluation, self.options, self.inputs)
        why = "no defense evaluation was run"
        return [
            Criterion(name, "not shown", detail=why) for name in ("accuracy", "balanced accuracy", "rejected")
        ]

    def _adaptive_criterion(
        self, defense: Defense, runs: Sequence[AttackRun], *, confirmed: bool = False
    ) -> Criterion:
        evaluation = self.findings.evaluations.get((self.threat.victim, defense))
        if evaluation is None:
            return Criterion("adaptive", "too dear", detail="no defense evaluation says how it behaves")
        without = _of_status("not_applicable", self.findings, self.threat, defense, self.budget)
        inapplicable = {parse_call(record.cell.attack)[0] for record in without}
        known_by = [
            attack
            for text in evaluation.task.defense
            for attack in evaluation.info.known_by.get(parse_call(text)[0], ())
            if attack not in inapplicable
        ]
        wanted = () if confirmed else needs(Behaviour.of(evaluation), known_by)
        return adaptive_criterion(runs, wanted, self.options.shortfall, self.inputs)

    @staticmethod
    def _known_to_adapt(fresh: Sequence[AttackRun], first: Sequence[AttackRun]) -> list[AttackRun]:
        """Return fresh runs with what the others say on whether they adapt."""
        adapting = {run.table.name for run in first if run.adaptive}
        return [replace(run, adapts=run.table.name in adapting) for run in fresh]

    def _valid(self, defense: Defense, fresh: Findings | None) -> Criterion:
        reasons = [*self._reasons(defense, fresh)]
        return Criterion("valid", "too dear" if reasons else "affordable", detail="; ".join(reasons))

    def _reasons(self, defense: Defense, fresh: Findings | None) -> Iterable[str]:
        """Give why figures on a defense cannot be used, a clause each."""
        findings, threat, budget = self.findings, self.threat, self.budget
        candidates = findings.candidates(threat, defense, budget)
        if not any(result.ranked for result in candidates.values()):
            yield "near chance: no attack learns more than a constant answer without defense"
        evaluation = findings.evaluations.get((threat.victim, defense))
        expected = findings.expected.get(threat.victim)
        reached = evaluation.metrics.get("honest.accuracy_undefended") if evaluation else None
        # A victim of the user's own is theirs to judge.
        own = evaluation is not None and evaluation.task.victim.is_reference
        if expected is not None and reached is not None and not own and reached < expected - WEAK_VICTIM:
            yield f"the victim's accuracy is {100 * reached:.1f} %, {100 * expected:.1f} % is expected"
        pair = strongest_pair(self.undefended, tables(findings, threat, defense, budget))
        if pair is not None:
            sides = (
                (pair.undefended.name, findings.candidates(threat, UNDEFENDED, budget)),
                (pair.defended.name, candidates),
            )
            flags = {flag for name, results in sides for flag in results[name].flags}
            if "nothing_learnt" in flags:
                yield "the best attack learnt nothing: every query was rejected"
            if "overlap" in flags:
                yield "the attacker's inputs overlap the victim's training data or the test inputs"
        for run, where in ((findings, ""), (fresh, " of the confirmation run")):
            failed = _failed_cells(run, threat, defense, budget) if run else 0
            if failed:
                yield f"{failed} {'cell' if failed == 1 else 'cells'}{where} failed"

    def reduction_at_largest(self, defense: Defense) -> Reduction | None:
        """Return the reduction at the largest budget, for this defense alone.

        None if it is this budget, or lacks attacks of this one: fewer say little of whether it holds.
        """
        findings, threat = self.findings, self.threat
        budgets = set(findings.conditions[threat][defense]) & set(
            findings.conditions[threat].get(UNDEFENDED, [])
        )
        largest = max(budgets, default=0)
        if any(
            not _own(findings, threat, each, self.budget) <= _own(findings, threat, each, largest)
            for each in (UNDEFENDED, defense)
        ):
            return None
        if largest <= self.budget:
            return None
        undefended, defended = (
            tables(self.findings, self.threat, each, largest) for each in (UNDEFENDED, defense)
        )
        return reduction(undefended, defended)


def tables(findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int) -> list[AttackTable]:
    """Return the agreement of the ranked candidate attacks."""
    candidates = findings.candidates(threat, defense, budget)
    return [_table(name, result) for name, result in candidates.items() if result.ranked]


def _own(
    findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int
) -> set[tuple[VictimThreatModel, str]]:
    """Return the attacks that were run against the defense itself.

    What is carried over to a defense from ``label_only`` does not make its own fresh repeats: where
    ``label_only`` alone was repeated, these would be the attacks that get least.
    """
    return {
        (source, text)
        for source in (threat, *threat.weaker())
        for text in findings.raw_results.get((source, defense, budget), {})
    }


def _table(name: str, result: AttackerResult) -> AttackTable:
    return AttackTable(name, result.attack, result.repeats, result.agreement, result.carried_over)


def _runs(findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int) -> list[AttackRun]:
    """Return every attack that was run against a defense, equal ones too, or is carried over to it."""
    own = [
        _run(findings, threat, source, text, result)
        for source in (threat, *threat.weaker())
        for text, result in sorted(findings.raw_results.get((source, defense, budget), {}).items())
    ]
    if defense and findings.carries_over(threat, defense):
        for stack in findings.label_only_stacks:
            note = f", carried over from {findings.defense_name(stack)}"
            own += [_carried_over(run, note) for run in _runs(findings, threat, stack, budget)]
    return own


def _carried_over(run: AttackRun, note: str) -> AttackRun:
    return replace(run, carried_over=True, table=replace(run.table, name=run.table.name + note))


def _run(
    findings: Findings,
    threat: VictimThreatModel,
    source: VictimThreatModel,
    text: str,
    result: AttackerResult,
) -> AttackRun:
    plugin, values = parse_call(text.partition(TRAINED)[0])
    cell = result.records[0].cell
    said = [record.info.adaptation for record in result.records if record.info.adaptation is not None]
    name = findings.attack_name(text) + weaker_note(source, threat)
    return AttackRun(
        plugin=plugin,
        table=AttackTable(name, text, result.repeats, result.agreement),
        can_use_knowledge="full" in result.usable_knowledge,
        informed=cell.threat.knowledge == "full",
        adapts=all(each.proven for each in said) if said else None,
        finished=len(result.repeats) >= cell.repeats,
        ranked=result.ranked,
        accounts=values.get("clients", 1) != 1,
        small=any(record.metrics.get("extraction.small_budget") for record in result.records),
        simulates=any(record.info.attack.simulates for record in result.records),
        restoration=restoration(result.records),
    )


def restoration(records: Sequence[Record]) -> Interval | None:
    """Return by how much L1 restored answers are nearer to the victim's own than obtained ones, over repeats.

    The mean of paired differences with its 95 % interval. A repeat that restored nothing counts as 0: it
    learnt the answers as they are, or their labels. None where no repeat has restored answers on record, or
    the victim's own are unknown.
    """
    pairs = [
        (record.metrics.get("extraction.l1_answers"), record.metrics.get("extraction.l1_restored"))
        for record in records
    ]
    known = [
        obtained - restored for obtained, restored in pairs if obtained is not None and restored is not None
    ]
    if not known:
        return None
    return value_interval(known + [0.0] * (len(pairs) - len(known)))


@lru_cache(maxsize=4)
def _without_result(findings: Findings) -> dict[Condition, list[Record]]:
    found: dict[Condition, list[Record]] = defaultdict(list)
    for record in findings.records:
        cell = record.task
        if record.status != "ok" and isinstance(cell, Cell):
            found[VictimThreatModel.of(cell), defense_of(cell), cell.budget].append(record)
    return found


def _failed_cells(findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int) -> int:
    return len(_of_status("failed", findings, threat, defense, budget))


def _of_status(
    status: str, findings: Findings, threat: VictimThreatModel, defense: Defense, budget: int
) -> list[Record]:
    """Return the cells without a result that have this status, of weaker threat models too."""
    without = _without_result(findings)
    cells = (
        each for source in (threat, *threat.weaker()) for each in without.get((source, defense, budget), ())
    )
    return [record for record in cells if record.status == status]


def _costs(evaluation: Record | None, criteria: Sequence[Criterion], members: int) -> tuple[float, ...]:
    """Return what decides ties: balanced accuracy lost, rejections, Brier score, latency, members."""
    losses = {each.name: each.loss.value for each in criteria if each.loss is not None}
    latency = evaluation.costs.latency_us.get("1", math.inf) if evaluation else math.inf
    names: tuple[CriterionName, ...] = ("balanced accuracy", "rejected", "brier")
    return (*(losses.get(name, math.inf) for name in names), latency, float(members))
