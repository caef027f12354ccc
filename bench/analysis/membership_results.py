"""What each membership-inference attack found, over its repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis.display_names import attack_of
from bench.analysis.findings import Findings
from bench.analysis.study_results import over_repeats
from bench.analysis.threat_models import VictimThreatModel, defense_of
from bench.calls import parse_call
from bench.metrics.intervals import Interval
from bench.records import Record
from bench.tasks import Cell


@dataclass(frozen=True, eq=False)
class Inference:
    """One membership-inference attack with its repeats, and in words what it was run on."""

    victim: str
    target: str
    non_members: str
    defense: str
    attack: str
    records: Sequence[Record]

    @property
    def parts(self) -> tuple[str, ...]:
        """What distinguishes one from another: attack, target, source of non-members, defense."""
        return self.attack, self.target, self.non_members, self.defense

    def interval(self, metric: str) -> Interval | None:
        """Return the mean of ``membership.METRIC`` with its interval; None where it was not measured."""
        name = f"membership.{metric}"
        known = [(r, value) for r in self.records if (value := r.metrics.get(name)) is not None]
        return over_repeats(name, [r for r, _ in known], [value for _, value in known]) if known else None

    def curve(self) -> list[tuple[float, float]]:
        """Return the mean ROC curve of the repeats: false and true positive rates."""
        curves = [record.info.roc for record in self.records if record.info.roc]
        return [
            (points[0][0], sum(true for _, true in points) / len(points))
            for points in zip(*curves, strict=True)
        ]


def inferences(findings: Findings, records: Sequence[Record] | None = None) -> list[Inference]:
    """Return the membership attacks among the records, all of a run's if none are given, in order."""
    found: dict[Cell, list[Record]] = defaultdict(list)
    for record in findings.records if records is None else records:
        if record.status == "ok" and any(name.startswith("membership.") for name in record.metrics):
            found[replace(record.cell, repeat=0)].append(record)
    each = [_inference(findings, group) for group in found.values()]
    return sorted(each, key=lambda one: (one.victim, one.target, one.non_members, one.defense, one.attack))


def _inference(findings: Findings, group: Sequence[Record]) -> Inference:
    cell = group[0].cell
    threat, attack = VictimThreatModel.of(cell), findings.attack_name(attack_of(cell))
    target = "the victim"
    if parse_call(cell.attack)[1].get("target") == "surrogate":
        target = f"{threat.surrogate} extracted with {cell.budget:,} queries"
    shown = "" if threat.shows == "probabilities" else f", which shows {threat.shows}"
    non_members = "the same data" if threat.pool == threat.access else f"{threat.pool} ({threat.access})"
    ordered = sorted(group, key=lambda record: record.repeat)
    return Inference(
        threat.victim, target + shown, non_members, findings.defense_name(defense_of(cell)), attack, ordered
    )
