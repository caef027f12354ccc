"""The two runs of a comparison: their records by condition, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bench.analysis.attacker_results import AttackerResult, Condition, results_by_condition
from bench.analysis.display_names import weaker_note
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of, victim_of
from bench.gate.baseline import Baseline
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.records import Record, victim_name
from bench.tasks import Cell, Task


class Run:
    """One of the two runs, its records by condition."""

    def __init__(self, baseline: Baseline) -> None:
        """Group the records by condition, by defense and by repeats."""
        self.baseline = baseline
        self.samples = results_by_condition(baseline.records)
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


def group_of(task: Task) -> Task:
    """Return the first repeat of a cell; a defense evaluation as it is."""
    return replace(task, repeat=0) if isinstance(task, Cell) else task


def differences(before: Baseline, after: Baseline) -> dict[str, str]:
    """Return how the two runs differ, as text by kind: matrix, victim, versions; empty if they do not."""
    found = {}
    planned = Run(before).planned, Run(after).planned
    if planned[0] != planned[1]:
        lost, new = len(planned[0] - planned[1]), len(planned[1] - planned[0])
        found["matrix"] = f"{lost} groups of cells are in the baseline alone, {new} in the candidate alone"
    prints = [_fingerprints(side) for side in (before, after)]
    others = sorted(
        name for name in prints[0].keys() & prints[1].keys() if prints[0][name] != prints[1][name]
    )
    texts = []
    if others:
        are = "is another model, or has" if len(others) == 1 else "are other models, or have"
        texts.append(f"{', '.join(others)} {are} other data")
    attacked = [{victim_name(record.task.victim) for record in side.records} for side in (before, after)]
    for side, known in zip(("baseline", "candidate"), prints, strict=True):
        # Without a fingerprint nobody can tell whether it is the same.
        if unknown := sorted((attacked[0] & attacked[1]) - known.keys()):
            texts.append(f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown in the {side}")
    if texts:
        found["victim"] = "; ".join(texts)
    versions = [side.meta.versions for side in (before, after)]
    moved = [
        f"{name} {versions[0][name]} against {versions[1][name]}"
        for name in sorted(versions[0].keys() & versions[1].keys())
        if _major(versions[0][name]) != _major(versions[1][name])
    ]
    if moved:
        found["versions"] = "; ".join(moved)
    return found


def _fingerprints(side: Baseline) -> dict[str, str]:
    """Return the fingerprints that a run knows, by victim."""
    return {each.identity: each.fingerprint for each in side.meta.victims if each.fingerprint}


def victims_equal(before: Baseline, after: Baseline) -> dict[str, bool]:
    """Return whether each victim is equal to the bit in both runs, by its name with splits and seed."""
    prints = [_fingerprints(side) for side in (before, after)]
    return {name: prints[0].get(name) == prints[1].get(name) for name in prints[0].keys() | prints[1].keys()}


def _major(version: str) -> str:
    """Return the major version; for 0.x it includes the x."""
    parts = str(version).split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def same_surrogates(before: Run, after: Run) -> bool:
    """Return whether all undefended surrogates of the two runs are equal to the bit.

    Then every other difference is due to a defense, and repeat r can be compared with repeat r.
    """
    met = False
    for condition, attacks in before.samples.items():
        if condition[1] != UNDEFENDED:
            continue
        for attack, sample in attacks.items():
            other = after.samples.get(condition, {}).get(attack)
            if other is None:
                continue
            if sample.repeats != other.repeats or sample.agreement.tobytes() != other.agreement.tobytes():
                return False
            met = True
    return met


def missing_rows(before: Run, after: Run, names: Names) -> Iterable[ComparisonRow]:
    """Yield a row for each group of repeats with a result in the baseline and none in the candidate."""
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
