"""What the records say: attackers per threat model, the strongest of them, and what it costs whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.multiplier import Multiplier, query_multiplier
from bench.names import algorithm, attacker_names, attacker_of, joined, short_names
from bench.seeds import derive
from bench.stats import (
    Interval,
    Strongest,
    mean_interval,
    paired_difference,
    strongest,
)
from bench.store import Record
from bench.threats import UNDEFENDED, Defense, Threat, defense_of, is_label_only, victim_of

NEAR_CHANCE = "near_chance"


@dataclass(frozen=True, eq=False)
class Sample:
    """One attacker at one budget.

    ``hits``: (repeats, test inputs) uint8, 1 where its copy agrees with the victim. ``ranked``: False
    where with no defense some repeat sits near chance: such attackers are shown, not ranked.
    """

    attack: str
    repeats: tuple[int, ...]
    hits: NDArray[np.uint8]
    flags: Counter[str]
    records: tuple[Record, ...]
    ranked: bool


@dataclass(frozen=True)
class Standing:
    """The strongest attacker against one defense at one budget; None where no attacker is ranked.

    ``gap``: by how much fidelity is below the strongest against no defense (a fraction; above 0: the
    defense helps), None where there is nothing to compare with.
    """

    best: Strongest | None
    gap: Interval | None
    flags: Counter[str]
    repeats: int


@dataclass(frozen=True)
class Row:
    """A defense under a threat model: its standing by budget, query multiplier and audit."""

    threat: Threat
    defense: Defense
    standings: dict[int, Standing]
    multiplier: Multiplier | None
    audit: Record | None


def common(a: Sample, b: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the hits of both in the repeats that both have, in one order."""
    left, right = dict(zip(a.repeats, a.hits, strict=True)), dict(zip(b.repeats, b.hits, strict=True))
    shared = [repeat for repeat in a.repeats if repeat in right]
    if not shared:
        return a.hits[:0], b.hits[:0]
    return np.stack([left[r] for r in shared]), np.stack([right[r] for r in shared])


def same(a: Sample, b: Sample) -> bool:
    """Return whether both agree with the victim on the same inputs in every repeat that both have."""
    left, right = common(a, b)
    return len(left) > 0 and left.shape == right.shape and bool((left == right).all())


class Findings:
    """The records grouped once: everything that tables and figures ask for."""

    def __init__(self, records: Sequence[Record], reference_budget: Mapping[str, int]) -> None:
        """Group the records; ``reference_budget`` is by data set, in queries."""
        self.records = records
        self._intervals: dict[int, Interval] = {}
        self._reference = reference_budget
        self._data: dict[str, str] = {}
        self.audits: dict[tuple[str, Defense], Record] = {}
        found: dict[tuple[Threat, Defense, int, str], dict[int, Record]] = defaultdict(dict)
        for record in records:
            victim = victim_of(record.spec)
            self._data[victim] = str(record.spec["data"])
            if record.status != "ok":
                continue
            if record.kind == "audit":
                self.audits[victim, defense_of(record.spec)] = record
            elif "agreement" in record.arrays:
                spec = record.spec
                group = (Threat.of(spec), defense_of(spec), int(spec["budget"]), attacker_of(spec))
                found[group][int(spec["repeat"])] = record
        cells = sorted({attacker_of(record.spec) for record in records if record.kind == "cell"})
        self._attack_names = attacker_names(cells)
        self.samples: dict[tuple[Threat, Defense, int], dict[str, Sample]] = defaultdict(dict)
        weak = {
            (threat, budget, attack)
            for (threat, defense, budget, attack), by_repeat in found.items()
            if defense == UNDEFENDED and any(NEAR_CHANCE in _flags(record) for record in by_repeat.values())
        }
        for (threat, defense, budget, attack), by_repeat in found.items():
            ranked = (threat, budget, attack) not in weak
            self.samples[threat, defense, budget][attack] = _sample(attack, by_repeat, ranked=ranked)
        self.samples = {place: self._merged(each) for place, each in self.samples.items()}
        stacks = sorted({defense_of(record.spec) for record in records})
        self._defense_names = short_names((text for stack in stacks for text in stack), limit=26)

    def _merged(self, samples: Mapping[str, Sample]) -> dict[str, Sample]:
        """Name the samples for readers; one algorithm under two names becomes one attacker."""
        groups: dict[str, list[Sample]] = defaultdict(list)
        for text in sorted(samples):
            groups[algorithm(text)].append(samples[text])
        merged = {}
        for group in groups.values():
            left = group
            while left:
                alike = [sample for sample in left if sample is left[0] or same(left[0], sample)]
                name = joined([self.attack_name(sample.attack) for sample in alike])
                merged[name] = max(alike, key=lambda sample: len(sample.repeats))
                left = [sample for sample in left if sample not in alike]
        return merged

    @cached_property
    def threats(self) -> list[Threat]:
        """All threat models, the best-equipped thief of each victim first."""
        return sorted({threat for threat, _, _ in self.samples}, key=lambda threat: threat.order)

    @cached_property
    def places(self) -> dict[Threat, dict[Defense, list[int]]]:
        """The budgets, sorted, per threat model and defense; budget 0 (no query) is not among them."""
        places: dict[Threat, dict[Defense, list[int]]] = {threat: {} for threat in self.threats}
        for threat, defense, budget in sorted(self.samples, key=lambda place: place[2]):
            if budget:
                places[threat].setdefault(defense, []).append(budget)
        for threat, defenses in places.items():
            every = sorted({budget for budgets in defenses.values() for budget in budgets})
            known = [budget for budget in every if self.candidates(threat, UNDEFENDED, budget)]
            if known:
                defenses[UNDEFENDED] = known
        return places

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

    def interval(self, sample: Sample) -> Interval:
        """Return the sample's mean fidelity with its interval."""
        if id(sample) not in self._intervals:
            self._intervals[id(sample)] = mean_interval(sample.hits)
        return self._intervals[id(sample)]

    def seen(self, threat: Threat) -> Iterator[tuple[Defense, int, str, Sample]]:
        """Give what was measured under this very threat model: defense, budget, attacker and sample."""
        for row in self.rows[threat]:
            budgets = sorted(self.places[threat][row.defense])
            for budget in [0, *budgets] if row.defense == UNDEFENDED else budgets:
                for name, sample in sorted(self.samples.get((threat, row.defense, budget), {}).items()):
                    yield row.defense, budget, name, sample

    def audits_of(self, victim: str) -> list[tuple[Defense, Record]]:
        """Return a victim's audits, that of no defense first."""
        return sorted(
            ((defense, audit) for (owner, defense), audit in self.audits.items() if owner == victim),
            key=lambda pair: pair[0],
        )

    def wanted(self, threat: Threat) -> int | None:
        """Return the reference budget that the run names for the victim's data set."""
        return self._reference.get(self._data[threat.victim])

    def reference(self, threat: Threat) -> int | None:
        """Return the budget whose fidelity the query multiplier asks for, if the run has it undefended."""
        budget = self.wanted(threat)
        return budget if budget in self.places[threat].get(UNDEFENDED, []) else None

    def headline(self, threat: Threat) -> list[int]:
        """Return the budgets of the verdict: the reference and the largest."""
        every = sorted({budget for budgets in self.places[threat].values() for budget in budgets})
        return sorted({budget for budget in (self.reference(threat), *every[-1:]) if budget})

    def replays(self, threat: Threat, defense: Defense) -> bool:
        """Return whether a thief can take the argmax and have what ``label_only`` would have given."""
        if not defense:
            return True
        audit = self.audits.get((threat.victim, defense))
        if audit is None or is_label_only(defense):
            return False
        claims = audit.info.get("claims", {})
        kept = audit.metrics.get("honest.top1_kept") == 1
        return bool(
            kept and claims.get("keeps_label") and not claims.get("ties") and not claims.get("may_refuse")
        )

    def candidates(self, threat: Threat, defense: Defense, budget: int) -> dict[str, Sample]:
        """Return every attacker that counts, by name: seen, imitated from weaker thieves, or replayed."""
        field: dict[str, Sample] = {}
        for source in (threat, *threat.weaker()):
            note = "" if source == threat else f" (as one who {source.apart(threat)})"
            for name, sample in self.samples.get((source, defense, budget), {}).items():
                if name not in field or not same(field[name], sample):
                    field[name + note] = sample
        if self.replays(threat, defense):
            for stack in self._label_only:
                for name, sample in self.candidates(threat, stack, budget).items():
                    if name not in field or not same(field[name], sample):
                        field[f"{name} on label_only, replayed"] = sample
        return field

    @cached_property
    def _label_only(self) -> list[Defense]:
        return sorted({defense for _, defense, _ in self.samples if is_label_only(defense)})

    def standing(self, threat: Threat, defense: Defense, budget: int) -> Standing:
        """Return the strongest attacker, and its distance from the strongest of them against no defense."""
        field = self.candidates(threat, defense, budget)
        best = _best(field)
        if best is None:
            return Standing(None, None, sum((s.flags for s in field.values()), Counter()), 0)
        sample, gap = field[best.attacker], None
        open_field = _met(self.candidates(threat, UNDEFENDED, budget), field)
        rival = _best(open_field) if defense else None
        if rival is not None:
            undefended, defended = common(open_field[rival.attacker], sample)
            gap = paired_difference(undefended, defended) if len(defended) else None
        return Standing(best, gap, sample.flags, len(sample.repeats))

    @cached_property
    def rows(self) -> dict[Threat, list[Row]]:
        """Per threat model a row a defense: none first, then the one that leaves the thief least."""
        rows: dict[Threat, list[Row]] = {}
        for threat, defenses in self.places.items():
            first = (self.headline(threat) or [0])[0]
            each = [self._row(threat, defense, budgets) for defense, budgets in defenses.items()]
            rows[threat] = sorted(
                each, key=lambda row: (row.defense != UNDEFENDED, _left(row, first), row.defense)
            )
        return rows

    def _row(self, threat: Threat, defense: Defense, budgets: Sequence[int]) -> Row:
        standings = {budget: self.standing(threat, defense, budget) for budget in budgets}
        audit = self.audits.get((threat.victim, defense))
        return Row(threat, defense, standings, self._multiplier(threat, defense), audit)

    def _multiplier(self, threat: Threat, defense: Defense) -> Multiplier | None:
        reference = self.reference(threat)
        if reference is None or not defense:
            return None
        ours, theirs = self._ranked(threat, defense), self._ranked(threat, UNDEFENDED)
        theirs = {budget: _met(field, ours[budget]) for budget, field in theirs.items() if budget in ours}
        theirs = {budget: field for budget, field in theirs.items() if field}
        used = [sample for curve in (ours, theirs) for field in curve.values() for sample in field.values()]
        repeats = sorted(set.intersection(*(set(sample.repeats) for sample in used))) if used else []
        if not ours or reference not in theirs or not repeats:
            return None
        defended, undefended = (
            {
                budget: {name: _only(s, repeats) for name, s in field.items()}
                for budget, field in curve.items()
            }
            for curve in (ours, theirs)
        )
        seed = derive("multiplier", *vars(threat).values(), *defense)
        return query_multiplier(defended, undefended, reference, seed=seed)

    def _ranked(self, threat: Threat, defense: Defense) -> dict[int, dict[str, Sample]]:
        fields = {b: self.candidates(threat, defense, b) for b in self.places[threat][defense]}
        ranked = {b: {n: s for n, s in field.items() if s.ranked} for b, field in fields.items()}
        return {budget: field for budget, field in ranked.items() if field}

    def floor(self, threat: Threat) -> Strongest | None:
        """Return the best zero-query thief: what its own labelled data give before any query."""
        for source in (threat, *threat.weaker()):
            if own := self.samples.get((source, UNDEFENDED, 0)):
                return _best(own)
        return None


def _flags(record: Record) -> list[str]:
    return list(record.info.get("flags", ()))


def _sample(attack: str, by_repeat: Mapping[int, Record], *, ranked: bool) -> Sample:
    repeats = tuple(sorted(by_repeat))
    records = tuple(by_repeat[repeat] for repeat in repeats)
    flags = Counter(flag for record in records for flag in _flags(record))
    hits = np.stack([record.arrays["agreement"] for record in records])
    return Sample(attack, repeats, hits, flags, records, ranked)


def _met(field: Mapping[str, Sample], others: Mapping[str, Sample]) -> dict[str, Sample]:
    """Return the attackers that are among ``others`` too.

    An attacker that one row lacks would make the other look weaker: rows are compared under the
    attackers that both have met.
    """
    known = {algorithm(sample.attack) for sample in others.values()}
    return {name: sample for name, sample in field.items() if algorithm(sample.attack) in known}


def _best(field: Mapping[str, Sample]) -> Strongest | None:
    ranked = {name: sample.hits for name, sample in field.items() if sample.ranked}
    return strongest(ranked) if ranked else None


def _only(sample: Sample, repeats: Sequence[int]) -> NDArray[np.uint8]:
    if sample.repeats == tuple(repeats):
        return sample.hits
    return sample.hits[[sample.repeats.index(repeat) for repeat in repeats]]


def _left(row: Row, budget: int) -> float:
    standing = row.standings.get(budget)
    return standing.best.interval.value if standing and standing.best else 2.0
