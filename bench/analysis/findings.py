"""What the records say: attackers per threat model, the strongest of them, and what it costs whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from bench.analysis.attacker_results import (
    AttackerResult,
    Condition,
    agreement_of,
    equal_agreement,
    equal_attacks,
    in_both,
    results_by_condition,
)
from bench.analysis.comparison import BestAttackResult, best_attack_result, best_of
from bench.analysis.display_names import attack_names, attack_of, merged_name, short_names, weaker_note
from bench.analysis.threat_models import (
    UNDEFENDED,
    Defense,
    VictimThreatModel,
    defense_of,
    is_label_only,
    victim_of,
)
from bench.metrics.intervals import BestAttack
from bench.metrics.query_multiplier import Multiplier, query_multiplier
from bench.seeds import derive
from bench.store import Record


@dataclass(frozen=True)
class DefenseResult:
    """A defense under a threat model: its standing by budget, query multiplier and audit."""

    threat: VictimThreatModel
    defense: Defense
    results: dict[int, BestAttackResult]
    multiplier: Multiplier | None
    evaluation: Record | None


class Findings:
    """The records grouped once: everything that tables and figures ask for."""

    def __init__(
        self,
        records: Sequence[Record],
        reference_budget: Mapping[str, int],
        expected: Mapping[str, float] | None = None,
    ) -> None:
        """Group the records.

        ``reference_budget``: by data set, in queries. ``expected``: the test accuracy that a victim
        should reach, by its name, in [0, 1].
        """
        self.records = records
        self.expected = expected or {}
        self._reference = reference_budget
        self._data: dict[str, str] = {}
        self.evaluations: dict[tuple[str, Defense], Record] = {}
        for record in records:
            self._data[victim_of(record.spec)] = str(record.spec["data"])
            if record.kind == "audit" and record.status == "ok":
                self.evaluations[victim_of(record.spec), defense_of(record.spec)] = record
        cells = sorted({attack_of(record.spec) for record in records if record.kind == "cell"})
        self._attack_names = attack_names(cells)
        raw = results_by_condition(records)
        self._alike = equal_attacks(raw)
        self.attack_results: dict[Condition, dict[str, AttackerResult]] = {
            place: self._merged(each) for place, each in raw.items()
        }
        stacks = sorted({defense_of(record.spec) for record in records})
        self._defense_names = short_names((text for stack in stacks for text in stack), limit=26)

    @classmethod
    def of_run(cls, records: Sequence[Record], meta: Mapping[str, Any]) -> Findings:
        """Return the findings of a run's records with what its ``meta`` says of budgets and victims."""
        victims = meta.get("victims", ())
        expected = {v["victim"]: v["expected"] for v in victims if v.get("expected") is not None}
        return cls(records, meta.get("reference_budget", {}), expected)

    @cached_property
    def known_by(self) -> dict[str, Collection[str]]:
        """The attacks that are declared to know a defense, by the defense's plugin, as far as records say."""
        known: dict[str, Collection[str]] = {}
        for record in self.records:
            known |= record.info.get("known_by", {})
        return known

    def _merged(self, samples: Mapping[str, AttackerResult]) -> dict[str, AttackerResult]:
        """Name the samples for readers; one attacker under several names becomes one."""
        groups: dict[str, list[AttackerResult]] = defaultdict(list)
        for text in sorted(samples):
            groups[self._alike[text][0]].append(samples[text])
        return {
            merged_name([self.attack_name(text) for text in self._alike[first]]): replace(
                max(group, key=lambda sample: len(sample.repeats)), attack=first
            )
            for first, group in groups.items()
        }

    @cached_property
    def threats(self) -> list[VictimThreatModel]:
        """All threat models, the best-equipped thief of each victim first."""
        return sorted({threat for threat, _, _ in self.attack_results}, key=lambda threat: threat.order)

    @cached_property
    def strongest(self) -> list[VictimThreatModel]:
        """The threat models of the best-equipped thieves: those that no other in this run can imitate."""
        weaker = {imitated for threat in self.threats for imitated in threat.weaker()}
        return [threat for threat in self.threats if threat not in weaker]

    @cached_property
    def conditions(self) -> dict[VictimThreatModel, dict[Defense, list[int]]]:
        """The budgets, sorted, per threat model and defense; budget 0 (no query) is not among them.

        A thief who knows more also meets the defenses that were run only against one who knows less,
        at the budgets that he was run at: there he does what the other can.
        """
        found: dict[VictimThreatModel, dict[Defense, set[int]]] = {
            threat: defaultdict(set) for threat in self.threats
        }
        for threat, defense, budget in sorted(self.attack_results, key=lambda place: place[2]):
            if budget:
                found[threat][defense].add(budget)
        own = {threat: set().union(*defenses.values()) for threat, defenses in found.items()}
        for threat, defenses in found.items():
            for less in threat.weaker():
                if less.shows == threat.shows and less in own:
                    for defense, budget in product(sorted(self._met_by(less)), sorted(own[threat])):
                        if (less, defense, budget) in self.attack_results:
                            defenses[defense].add(budget)
            known = {budget for budget in own[threat] if self.candidates(threat, UNDEFENDED, budget)}
            defenses.update({UNDEFENDED: known} if known else {})
        return {
            threat: {defense: sorted(budgets) for defense, budgets in defenses.items()}
            for threat, defenses in found.items()
        }

    def _met_by(self, threat: VictimThreatModel) -> set[Defense]:
        return {defense for owner, defense, _ in self.attack_results if owner == threat}

    def defense_name(self, defense: Defense) -> str:
        """Return the stack's short name."""
        return " + ".join(self._defense_names[text] for text in defense) or "none"

    def attack_name(self, attack: str) -> str:
        """Return the attack's short name."""
        return self._attack_names[attack]

    @property
    def short(self) -> dict[str, str]:
        """Return the short names of all attacks and defenses by their full texts."""
        return self._attack_names | self._defense_names

    def measured(self, threat: VictimThreatModel) -> Iterator[tuple[Defense, int, str, AttackerResult]]:
        """Give what was measured under this very threat model: defense, budget, attacker and sample."""
        for row in self.rows[threat]:
            budgets = sorted(self.conditions[threat][row.defense])
            for budget in [0, *budgets] if row.defense == UNDEFENDED else budgets:
                for name, sample in sorted(
                    self.attack_results.get((threat, row.defense, budget), {}).items()
                ):
                    yield row.defense, budget, name, sample

    def evaluations_of(self, victim: str) -> list[tuple[Defense, Record]]:
        """Return a victim's audits, that of no defense first."""
        return sorted(
            (
                (defense, evaluation)
                for (owner, defense), evaluation in self.evaluations.items()
                if owner == victim
            ),
            key=lambda pair: pair[0],
        )

    def planned_reference(self, threat: VictimThreatModel) -> int | None:
        """Return the reference budget that the run names for the victim's data set."""
        return self._reference.get(self._data[threat.victim])

    def reference(self, threat: VictimThreatModel) -> int | None:
        """Return the budget whose fidelity the query multiplier asks for, if the run has it undefended."""
        budget = self.planned_reference(threat)
        return budget if budget in self.conditions[threat].get(UNDEFENDED, []) else None

    def summary_budgets(self, threat: VictimThreatModel) -> list[int]:
        """Return the budgets of the verdict: the reference and the largest."""
        every = sorted({budget for budgets in self.conditions[threat].values() for budget in budgets})
        return sorted({budget for budget in (self.reference(threat), *every[-1:]) if budget})

    def carries_over(self, threat: VictimThreatModel, defense: Defense) -> bool:
        """Return whether a thief can take the argmax and have what ``label_only`` would have given."""
        if not defense:
            return True
        evaluation = self.evaluations.get((threat.victim, defense))
        if evaluation is None or is_label_only(defense):
            return False
        claims = evaluation.info.get("claims", {})
        kept = evaluation.metrics.get("honest.top1_kept") == 1
        return bool(
            kept and claims.get("keeps_label") and not claims.get("ties") and not claims.get("may_refuse")
        )

    def candidates(
        self, threat: VictimThreatModel, defense: Defense, budget: int
    ) -> dict[str, AttackerResult]:
        """Return every attacker that counts, by name: seen, imitated from weaker thieves, or replayed.

        To replay needs no knowledge of the defense that is attacked, whatever the thief knew of
        ``label_only``.
        """
        field: dict[str, AttackerResult] = {}
        for source in (threat, *threat.weaker()):
            note = weaker_note(source, threat)
            for name, sample in self.attack_results.get((source, defense, budget), {}).items():
                if name not in field or not equal_agreement(field[name], sample):
                    field[name + note] = sample
        if self.carries_over(threat, defense):
            for stack in self._label_only:
                for name, sample in self.candidates(threat, stack, budget).items():
                    if name not in field or not equal_agreement(field[name], sample):
                        field[f"{name} on label_only, replayed"] = replace(sample, adaptive=False)
        return field

    @cached_property
    def _label_only(self) -> list[Defense]:
        return sorted({defense for _, defense, _ in self.attack_results if is_label_only(defense)})

    def result(self, threat: VictimThreatModel, defense: Defense, budget: int) -> BestAttackResult:
        """Return the strongest attacker, and its distances from the strongest against others."""
        undefended = self.candidates(threat, UNDEFENDED, budget) if defense else {}
        labels = [] if is_label_only(defense) else self._label_only
        fields = (self.candidates(threat, stack, budget) for stack in labels)
        return best_attack_result(
            self.candidates(threat, defense, budget),
            undefended,
            next((field for field in fields if field), {}),
        )

    @cached_property
    def rows(self) -> dict[VictimThreatModel, list[DefenseResult]]:
        """Per threat model a row a defense: none first, then the one that leaves the thief least."""
        rows: dict[VictimThreatModel, list[DefenseResult]] = {}
        for threat, defenses in self.conditions.items():
            first = (self.summary_budgets(threat) or [0])[0]
            each = [self._row(threat, defense, budgets) for defense, budgets in defenses.items()]
            rows[threat] = sorted(
                each, key=lambda row: (row.defense != UNDEFENDED, _left(row, first), row.defense)
            )
        return rows

    def _row(self, threat: VictimThreatModel, defense: Defense, budgets: Sequence[int]) -> DefenseResult:
        standings = {budget: self.result(threat, defense, budget) for budget in budgets}
        evaluation = self.evaluations.get((threat.victim, defense))
        return DefenseResult(threat, defense, standings, self._multiplier(threat, defense), evaluation)

    def _multiplier(self, threat: VictimThreatModel, defense: Defense) -> Multiplier | None:
        reference = self.reference(threat)
        if reference is None or not defense:
            return None
        ours, theirs = self._ranked(threat, defense), self._ranked(threat, UNDEFENDED)
        theirs = {budget: in_both(field, ours[budget]) for budget, field in theirs.items() if budget in ours}
        theirs = {budget: field for budget, field in theirs.items() if field}
        used = [sample for curve in (ours, theirs) for field in curve.values() for sample in field.values()]
        repeats = sorted(set.intersection(*(set(sample.repeats) for sample in used))) if used else []
        if not ours or reference not in theirs or not repeats:
            return None
        defended, undefended = (
            {
                budget: {name: agreement_of(s, repeats) for name, s in field.items()}
                for budget, field in curve.items()
            }
            for curve in (ours, theirs)
        )
        # The order of the parts fixes the bootstrap's random numbers.
        parts = (threat.victim, threat.access, threat.pool, threat.knowledge, threat.surrogate, threat.shows)
        seed = derive("multiplier", *parts, *defense)
        return query_multiplier(defended, undefended, reference, seed=seed)

    def _ranked(self, threat: VictimThreatModel, defense: Defense) -> dict[int, dict[str, AttackerResult]]:
        fields = {b: self.candidates(threat, defense, b) for b in self.conditions[threat][defense]}
        ranked = {b: {n: s for n, s in field.items() if s.ranked} for b, field in fields.items()}
        return {budget: field for budget, field in ranked.items() if field}

    def zero_query_baseline(self, threat: VictimThreatModel) -> BestAttack | None:
        """Return the best zero-query thief: what its own labelled data give before any query."""
        for source in (threat, *threat.weaker()):
            if own := self.attack_results.get((source, UNDEFENDED, 0)):
                return best_of(own)
        return None


def _left(row: DefenseResult, budget: int) -> float:
    standing = row.results.get(budget)
    return standing.best.interval.value if standing and standing.best else 2.0
