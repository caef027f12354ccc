"""All results of a run, grouped: candidate attacks under each condition, and the best of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

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
from bench.analysis.label_weights import imbalanced_victims, label_weights
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
from bench.records import ClaimsRecord, Record
from bench.run_facts import Meta
from bench.seeds import derive
from bench.tasks import Cell


@dataclass(frozen=True)
class DefenseResult:
    """A defense under a threat model: best attack by budget, query multiplier and defense evaluation."""

    threat: VictimThreatModel
    defense: Defense
    results: dict[int, BestAttackResult]
    evaluation: Record | None
    findings: Findings = field(repr=False, compare=False)

    @cached_property
    def multiplier(self) -> Multiplier | None:
        """The query multiplier; None without one. Its bootstrap takes a while, and few pages show it."""
        return self.findings.multiplier(self.threat, self.defense)


class Findings:
    """The records grouped once: all that tables, figures and sentences need."""

    def __init__(
        self,
        records: Sequence[Record],
        reference_budget: Mapping[str, int],
        expected: Mapping[str, float] | None = None,
        *,
        names_of: Findings | None = None,
    ) -> None:
        """Group the records.

        ``reference_budget``: by data set, in queries. ``expected``: the test accuracy that a victim
        should reach, by its name, in [0, 1]. Cells of a confirmation run are left out: see :attr:`fresh`.
        ``names_of``: findings whose confirmation run these are; names and equal attacks are as there, and of
        the cells only those of the confirmation run count.
        """
        repeated = [
            record for record in records if isinstance(record.task, Cell) and record.task.confirmation
        ]
        self._fresh_records = [] if names_of else repeated
        left_out = set() if names_of else {id(record) for record in repeated}
        records = [record for record in records if id(record) not in left_out]
        self.records = records
        self.expected = expected or {}
        self._reference = reference_budget
        self._data: dict[str, str] = {}
        self.evaluations: dict[tuple[str, Defense], Record] = {}
        for record in records:
            self._data[victim_of(record.task)] = record.task.victim.data
            if record.kind == "audit" and record.status == "ok":
                self.evaluations[victim_of(record.task), defense_of(record.task)] = record
        cells = sorted({attack_of(record.task) for record in records if isinstance(record.task, Cell)})
        self._candidates: dict[Condition, dict[str, AttackerResult]] = {}
        self._weights = label_weights(records, imbalanced_victims(records))
        self.raw_results = results_by_condition(records, self._weights, confirmation=names_of is not None)
        """Results of each attack by condition; equal attacks are several here."""
        self._attack_names = attack_names(cells)
        self._alike = {text: [text] for text in cells} | equal_attacks(self.raw_results)
        stacks = sorted({defense_of(record.task) for record in records})
        self._defense_names = short_names((text for stack in stacks for text in stack), limit=26)
        if names_of is not None:
            self._attack_names |= vars(names_of)["_attack_names"]
            self._alike |= vars(names_of)["_alike"]
            self._defense_names |= vars(names_of)["_defense_names"]
        self.attack_results: dict[Condition, dict[str, AttackerResult]] = {
            condition: self._merged(results) for condition, results in self.raw_results.items()
        }

    @classmethod
    def of_run(cls, records: Sequence[Record], meta: Meta) -> Findings:
        """Return the findings of a run; its ``meta`` has the reference budgets and the victims."""
        expected = {each.identity: each.expected for each in meta.victims if each.expected is not None}
        return cls(records, meta.reference_budget, expected)

    @cached_property
    def fresh(self) -> Findings | None:
        """The findings of the confirmation run alone, with the same defense evaluations; None without one."""
        if not self._fresh_records:
            return None
        evaluations = [record for record in self.records if not isinstance(record.task, Cell)]
        records = [*evaluations, *self._fresh_records]
        return Findings(records, self._reference, self.expected, names_of=self)

    def is_balanced(self, victim: str) -> bool:
        """Return whether fidelity is balanced fidelity throughout: the victim's labels are imbalanced."""
        return victim in self._weights

    @cached_property
    def known_by(self) -> dict[str, Collection[str]]:
        """The attacks that are declared to know a defense, by the defense's plugin, as far as records say."""
        known: dict[str, Collection[str]] = {}
        for record in self.records:
            known |= record.info.known_by
        return known

    def _merged(self, samples: Mapping[str, AttackerResult]) -> dict[str, AttackerResult]:
        """Return the results by display name; equal attacks become one."""
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
        """All threat models, the strongest of each victim first."""
        return sorted({threat for threat, _, _ in self.attack_results}, key=lambda threat: threat.order)

    @cached_property
    def strongest(self) -> list[VictimThreatModel]:
        """The strongest threat models: those that no other in this run includes."""
        weaker = {included for threat in self.threats for included in threat.weaker()}
        return [threat for threat in self.threats if threat not in weaker]

    @cached_property
    def conditions(self) -> dict[VictimThreatModel, dict[Defense, list[int]]]:
        """The budgets, sorted, per threat model and defense; budget 0 (no query) is not among them.

        A threat model also has the defenses that were run under one with less knowledge alone, at the
        budgets of its own cells: its attackers can do what those can.
        """
        found: dict[VictimThreatModel, dict[Defense, set[int]]] = {
            threat: defaultdict(set) for threat in self.threats
        }
        for threat, defense, budget in sorted(self.attack_results, key=lambda condition: condition[2]):
            if budget:
                found[threat][defense].add(budget)
        own = {threat: set().union(*defenses.values()) for threat, defenses in found.items()}
        for threat, defenses in found.items():
            for less in threat.weaker():
                if less.shows == threat.shows and less in own:
                    for defense, budget in product(sorted(self._defenses_under(less)), sorted(own[threat])):
                        if (less, defense, budget) in self.attack_results:
                            defenses[defense].add(budget)
            known = {budget for budget in own[threat] if self.candidates(threat, UNDEFENDED, budget)}
            defenses.update({UNDEFENDED: known} if known else {})
        return {
            threat: {defense: sorted(budgets) for defense, budgets in defenses.items()}
            for threat, defenses in found.items()
        }

    def _defenses_under(self, threat: VictimThreatModel) -> set[Defense]:
        return {defense for owner, defense, _ in self.attack_results if owner == threat}

    def defense_name(self, defense: Defense) -> str:
        """Return the stack's short name."""
        return " + ".join(self._defense_names.get(text, text) for text in defense) or "none"

    def attack_name(self, attack: str) -> str:
        """Return the attack's short name."""
        return self._attack_names[attack]

    def equal_attack(self, attack: str) -> str:
        """Return the first of the attacks that give the same surrogates as this one, itself among them."""
        return self._alike[attack][0]

    @property
    def short(self) -> dict[str, str]:
        """Return the short names of all attacks and defenses by their full texts."""
        return self._attack_names | self._defense_names

    def measured(self, threat: VictimThreatModel) -> Iterator[tuple[Defense, int, str, AttackerResult]]:
        """Give what was run under this very threat model: defense, budget, name of the attack, result."""
        for row in self.rows[threat]:
            budgets = sorted(self.conditions[threat][row.defense])
            for budget in [0, *budgets] if row.defense == UNDEFENDED else budgets:
                for name, sample in sorted(
                    self.attack_results.get((threat, row.defense, budget), {}).items()
                ):
                    yield row.defense, budget, name, sample

    def evaluations_of(self, victim: str) -> list[tuple[Defense, Record]]:
        """Return a victim's defense evaluations, that of no defense first."""
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
        """Return the reference budget of the query multiplier; None if it was not run without defense."""
        budget = self.planned_reference(threat)
        return budget if budget in self.conditions[threat].get(UNDEFENDED, []) else None

    def summary_budgets(self, threat: VictimThreatModel) -> list[int]:
        """Return the budgets of the summary: the reference and the largest."""
        every = sorted({budget for budgets in self.conditions[threat].values() for budget in budgets})
        return sorted({budget for budget in (self.reference(threat), *every[-1:]) if budget})

    def carries_over(self, threat: VictimThreatModel, defense: Defense) -> bool:
        """Return whether results against ``label_only`` also hold here: the defense keeps every label."""
        if not defense:
            return True
        evaluation = self.evaluations.get((threat.victim, defense))
        if evaluation is None or self.is_label_only(defense):
            return False
        claims = evaluation.info.claims
        kept = evaluation.metrics.get("honest.top1_kept") == 1
        return kept and claims.keeps_label and not claims.ties and not claims.may_refuse

    def candidates(
        self, threat: VictimThreatModel, defense: Defense, budget: int
    ) -> dict[str, AttackerResult]:
        """Return the candidate attacks by name: run here, under a weaker threat model, or carried over.

        Those carried over from ``label_only`` count as non-adaptive: they use no knowledge of this
        defense, whatever they knew of ``label_only``.
        """
        key = threat, defense, budget
        if key not in self._candidates:
            self._candidates[key] = self._found(threat, defense, budget)
        return dict(self._candidates[key])

    def _found(self, threat: VictimThreatModel, defense: Defense, budget: int) -> dict[str, AttackerResult]:
        found: dict[str, AttackerResult] = {}
        for source in (threat, *threat.weaker()):
            note = weaker_note(source, threat)
            for name, sample in self.attack_results.get((source, defense, budget), {}).items():
                if name not in found or not equal_agreement(found[name], sample):
                    found[name + note] = sample
        # Without a defense only beside what was run: as the one reference, label_only's results would be
        # compared with themselves.
        if (defense or found) and self.carries_over(threat, defense):
            for stack in self.label_only_stacks:
                for name, sample in self.candidates(threat, stack, budget).items():
                    if name not in found or not equal_agreement(found[name], sample):
                        note = f", carried over from {self.defense_name(stack)}"
                        found[name + note] = replace(sample, adaptive=False, carried_over=True)
        return found

    @cached_property
    def label_only_stacks(self) -> list[Defense]:
        """The stacks of one defense that answers the victim's label and nothing else."""
        return sorted({defense for _, defense, _ in self.attack_results if self.is_label_only(defense)})

    @cached_property
    def _claims(self) -> dict[Defense, ClaimsRecord]:
        return {defense: record.info.claims for (_, defense), record in self.evaluations.items()}

    def is_label_only(self, defense: Defense) -> bool:
        """Return whether the stack is one defense that answers the victim's label and nothing else."""
        return is_label_only(defense, self._claims.get(defense))

    def result(self, threat: VictimThreatModel, defense: Defense, budget: int) -> BestAttackResult:
        """Return the best attack under this condition, with its fidelity reductions."""
        undefended = self.candidates(threat, UNDEFENDED, budget) if defense else {}
        labels = [] if self.is_label_only(defense) else self.label_only_stacks
        against_labels = (self.candidates(threat, stack, budget) for stack in labels)
        return best_attack_result(
            self.candidates(threat, defense, budget),
            undefended,
            next((candidates for candidates in against_labels if candidates), {}),
        )

    @cached_property
    def rows(self) -> dict[VictimThreatModel, list[DefenseResult]]:
        """A result for each defense, per threat model: no defense first, then by fidelity, lowest first."""
        rows: dict[VictimThreatModel, list[DefenseResult]] = {}
        for threat, defenses in self.conditions.items():
            first = (self.summary_budgets(threat) or [0])[0]
            results = [self._row(threat, defense, budgets) for defense, budgets in defenses.items()]
            rows[threat] = sorted(
                results, key=lambda row: (row.defense != UNDEFENDED, _fidelity(row, first), row.defense)
            )
        return rows

    def _row(self, threat: VictimThreatModel, defense: Defense, budgets: Sequence[int]) -> DefenseResult:
        results = {budget: self.result(threat, defense, budget) for budget in budgets}
        evaluation = self.evaluations.get((threat.victim, defense))
        return DefenseResult(threat, defense, results, evaluation, self)

    def multiplier(self, threat: VictimThreatModel, defense: Defense) -> Multiplier | None:
        """Return the query multiplier; None where there is nothing to compare."""
        reference = self.reference(threat)
        if reference is None or not defense:
            return None
        with_it, without = self._ranked(threat, defense), self._ranked(threat, UNDEFENDED)
        without = {b: in_both(candidates, with_it[b]) for b, candidates in without.items() if b in with_it}
        without = {budget: candidates for budget, candidates in without.items() if candidates}
        used = [
            result
            for curve in (with_it, without)
            for candidates in curve.values()
            for result in candidates.values()
        ]
        repeats = sorted(set.intersection(*(set(result.repeats) for result in used))) if used else []
        if not with_it or reference not in without or not repeats:
            return None
        defended, undefended = (
            {
                budget: {name: agreement_of(result, repeats) for name, result in candidates.items()}
                for budget, candidates in curve.items()
            }
            for curve in (with_it, without)
        )
        # The order of the parts fixes the bootstrap's random numbers.
        parts = (threat.victim, threat.access, threat.pool, threat.knowledge, threat.surrogate, threat.shows)
        seed = derive("multiplier", *parts, *defense)
        return query_multiplier(defended, undefended, reference, seed=seed)

    def _ranked(self, threat: VictimThreatModel, defense: Defense) -> dict[int, dict[str, AttackerResult]]:
        by_budget = {b: self.candidates(threat, defense, b) for b in self.conditions[threat][defense]}
        ranked = {
            budget: {name: result for name, result in candidates.items() if result.ranked}
            for budget, candidates in by_budget.items()
        }
        return {budget: candidates for budget, candidates in ranked.items() if candidates}

    def zero_query_baseline(self, threat: VictimThreatModel) -> BestAttack | None:
        """Return the best zero-query baseline: fidelity from the attacker's own labels; None without."""
        for source in (threat, *threat.weaker()):
            if own := self.attack_results.get((source, UNDEFENDED, 0)):
                return best_of(own)
        return None


def _is_fresh(record: Record) -> bool:
    return isinstance(record.task, Cell) and record.task.confirmation


def _fidelity(row: DefenseResult, budget: int) -> float:
    result = row.results.get(budget)
    return result.best.interval.value if result and result.best else 2.0
