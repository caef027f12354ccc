"""The two runs of a comparison: their records by condition, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from enum import Enum

from bench.analysis.attacker_results import AttackerResult, Condition, agreement_of, results_by_condition
from bench.analysis.display_names import weaker_note
from bench.analysis.label_weights import imbalanced_victims, label_weights, victim_labels
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of, victim_of
from bench.gate.baseline import Baseline
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.gate.victims import Sameness, match_victims, moved_versions
from bench.metrics.matched_repeats import chance_of_match
from bench.records import Record, victim_name
from bench.tasks import Cell, Task

MATCH = 0.01
"""Largest p-value at which repeats of two runs are taken to belong together."""


class Run:
    """One of the two runs, its records by condition."""

    def __init__(self, baseline: Baseline, balanced: Collection[str] = ()) -> None:
        """Group the records by condition, by defense and by repeats.

        ``balanced``: the victims whose fidelity is balanced fidelity.
        """
        self.baseline = baseline
        weights = label_weights(baseline.records, balanced)
        self.samples = results_by_condition(baseline.records, weights)
        self.evaluations: dict[tuple[str, Defense], Record] = {}
        self.groups: dict[Task, list[Record]] = {}
        for record in baseline.records:
            self.groups.setdefault(group_of(record.task), []).append(record)
            if record.kind == "audit" and record.status == "ok":
                self.evaluations[victim_of(record.task), defense_of(record.task)] = record

    def candidates(self, condition: Condition, *, every: bool = False) -> dict[str, AttackerResult]:
        """Return the ranked attacks under a condition, those of weaker threat models included.

        ``every``: attacks that are not ranked too, since one may have been ranked in the other run.
        """
        threat, defense, budget = condition
        found: dict[str, AttackerResult] = {}
        for source in (threat, *threat.weaker()):
            note = weaker_note(source, threat)
            for attack, sample in self.samples.get((source, defense, budget), {}).items():
                if sample.ranked or every:
                    found[attack + note] = sample
        return found

    @property
    def planned(self) -> set[Task]:
        """All groups of repeats that the run was asked for, each by its first repeat."""
        return set(self.groups) | {group_of(task) for task in self.baseline.planned}


def balanced_victims(before: Baseline, after: Baseline) -> list[str]:
    """Return the victims whose fidelity is compared as balanced fidelity: those imbalanced in the baseline.

    The baseline decides, so that a victim that was trained anew, whose labels may be a little more balanced,
    is measured alike in both.
    """
    of_both = victim_labels(before.records).keys() & victim_labels(after.records).keys()
    decided = imbalanced_victims(before.records) if before.balanced is None else before.balanced
    return sorted(of_both & set(decided))


def group_of(task: Task) -> Task:
    """Return the first repeat of a cell; a defense evaluation whatever its number of retrained victims."""
    return replace(task, repeat=0) if isinstance(task, Cell) else replace(task, retrainings=0)


def differences(before: Baseline, after: Baseline) -> dict[str, str]:
    """Return how the two runs differ, as text by kind: matrix, victim, versions; empty if they do not."""
    found = {}
    planned = Run(before).planned, Run(after).planned
    if planned[0] != planned[1]:
        lost, new = len(planned[0] - planned[1]), len(planned[1] - planned[0])
        found["matrix"] = f"{lost} groups of cells are in the baseline alone, {new} in the candidate alone"
    matches = match_victims(before.meta, after.meta)
    texts = [f"{name} {each.text}" for name, each in matches.items() if each.sameness is Sameness.other]
    attacked = [{victim_name(record.task.victim) for record in side.records} for side in (before, after)]
    for side, run in (("baseline", before), ("candidate", after)):
        known = {each.identity for each in run.meta.victims if each.fingerprint}
        # Without a fingerprint nobody can tell whether it is the same.
        if unknown := sorted((attacked[0] & attacked[1]) - known):
            texts.append(f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown in the {side}")
    if texts:
        found["victim"] = "; ".join(texts)
    moved = moved_versions(before.meta.versions, after.meta.versions)
    if moved:
        found["versions"] = "; ".join(f"{name} {old} against {new}" for name, (old, new) in moved.items())
    return found


def victims_equal(before: Baseline, after: Baseline) -> dict[str, bool]:
    """Return for each victim that both runs know, by :func:`victim_name`, whether it is equal.

    That is, to the bit, or but for rounding so small that metrics on the same inputs can be compared as
    facts. False: it was trained anew with other answers, or is not known to be the same.
    """
    matches = match_victims(before.meta, after.meta)
    return {name: each.keeps_facts for name, each in matches.items()}


def victim_notes(before: Baseline, after: Baseline) -> list[str]:
    """Return a sentence for each victim that is taken for the same and is not equal to the bit."""
    matches = match_victims(before.meta, after.meta)
    told = (Sameness.retrained, Sameness.close, Sameness.unclear)
    return [f"Victim {name} {each.text}." for name, each in matches.items() if each.sameness in told]


def unclear_victims(before: Baseline, after: Baseline) -> list[str]:
    """Return the victims of which too little is known to say whether they are the same."""
    matches = match_victims(before.meta, after.meta)
    return [name for name, each in matches.items() if each.sameness is Sameness.unclear]


def same_surrogates(before: Run, after: Run) -> bool:
    """Return whether all undefended surrogates of the two runs are equal to the bit.

    Then every other difference is due to a defense.
    """
    pairs = [*_undefended(before, after)]
    return bool(pairs) and all(
        old.repeats == new.repeats and old.agreement.tobytes() == new.agreement.tobytes()
        for old, new in pairs
    )


class Pairing(Enum):
    """How the repeats of two runs belong together; as a sentence for the basis of a comparison."""

    equal = "Undefended surrogates are equal to the bit in both runs, so repeats are compared in pairs."
    rounding = (
        "Undefended surrogates had the same random seeds in both runs and differ by rounding, so repeats are "
        "compared in pairs."
    )
    broken = (
        "Undefended surrogates of equal repeats are not more alike than others (or there are none), so "
        "repeats are not paired."
    )


def pairing(before: Run, after: Run) -> Pairing:
    """Return how repeat r of one run belongs to repeat r of the other."""
    if same_surrogates(before, after):
        return Pairing.equal
    return Pairing.rounding if same_streams(before, after) else Pairing.broken


def same_streams(before: Run, after: Run) -> bool:
    """Return whether the undefended surrogates of equal repeats had the same random seeds.

    Records hold no seed of what happened in a cell. But with the same seeds, surrogates of equal repeats are
    more alike than those of different ones, however they were rounded; this is tested by permuting repeats.
    Pairs are valid whatever comes of it: repeats that are independent are pairs like any other, with half of
    the degrees of freedom.
    """
    pairs = [*_undefended(before, after)]
    repeats = [set(side.repeats) for pair in pairs for side in pair]
    both = sorted(set.intersection(*repeats)) if repeats else []
    tables = [(agreement_of(old, both), agreement_of(new, both)) for old, new in pairs]
    alike = [(old, new) for old, new in tables if old.shape == new.shape]
    return len(both) > 1 and chance_of_match(alike) <= MATCH


def _undefended(before: Run, after: Run) -> Iterator[tuple[AttackerResult, AttackerResult]]:
    """Yield the undefended attacks that both runs have."""
    for condition, attacks in before.samples.items():
        if condition[1] == UNDEFENDED:
            others = after.samples.get(condition, {})
            yield from ((attacks[attack], others[attack]) for attack in attacks if attack in others)


def missing_rows(before: Run, after: Run, names: Names) -> Iterable[ComparisonRow]:
    """Yield a row for each group of repeats of which one run has a result and the other none."""
    for group, records in before.groups.items():
        others = after.groups.get(group, [])
        wrong = [record for record in others if record.status == "failed"]
        here, there = (sum(record.status == "ok" for record in side) for side in (records, others))
        claim = next((each.info.broken_claim for each in wrong if each.info.broken_claim), None)
        if here and claim:
            yield _broken(records[0], wrong[0], claim, names)
        elif here and wrong:
            reason = (wrong[0].error or "").strip().splitlines()
            yield _without(records[0], names, Decision.failed, reason[0] if reason else "")
        elif there < here:
            yield _without(records[0], names, Decision.missing, "")
    for group in before.planned & after.groups.keys():
        found = [record for record in after.groups[group] if record.status == "ok"]
        if found and not any(record.status == "ok" for record in before.groups.get(group, [])):
            yield _without(found[0], names, Decision.cannot_tell, "the baseline has no result of it")


def _broken(record: Record, failed: Record, claim: str, names: Names) -> ComparisonRow:
    """Return the row of a task that failed because answers broke a claim."""
    lines = (failed.error or "").strip().splitlines()
    row = _without(record, names, Decision.broken, lines[0] if lines else "")
    what = row.what if isinstance(record.task, Cell) else "defense evaluation"
    return replace(row, kind=RowKind.claim, what=f"{claim} ({what})")


def _without(record: Record, names: Names, decision: Decision, note: str) -> ComparisonRow:
    task = record.task
    if not isinstance(task, Cell):
        condition = f"{victim_of(task)}, {names.stack(defense_of(task))}"
        return ComparisonRow(RowKind.honest, condition, "utility loss", decision, note=note)
    condition = names.condition((VictimThreatModel.of(task), defense_of(task), task.budget))
    return ComparisonRow(RowKind.strength, condition, names.attack(task.attack), decision, note=note)
