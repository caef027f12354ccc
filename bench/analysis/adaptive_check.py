"""How near the attack that stands for all comes to the best of the others, defense by defense."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bench.analysis.attacker_results import AttackerResult, shared_repeats
from bench.analysis.comparison import best_of
from bench.analysis.display_names import TRAINED
from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.calls import parse_call
from bench.metrics.intervals import Interval, paired_difference

SLACK = 0.015
"""By how much (a share of test inputs) it may stay behind the best of the others and still stand for all."""
SMALL = "extraction.small_budget"


@dataclass(frozen=True)
class AutoComparison:
    """A universal attack and the best of the others under one condition.

    ``difference``: fidelity of the universal attack minus that of ``other`` (a fraction).
    """

    threat: VictimThreatModel
    defense: Defense
    budget: int
    attacker: str
    sample: AttackerResult
    other: str
    difference: Interval

    @property
    def supported(self) -> bool:
        """Whether the interval shows that it stays behind by no more than :data:`SLACK`."""
        return self.difference.low >= -SLACK


def comparisons(findings: Findings) -> Iterator[AutoComparison]:
    """Give every defense and budget at which a universal attacker met others under one threat model."""
    universal = _universal(findings)
    for threat in findings.threats:
        for defense, budgets in findings.conditions[threat].items():
            for budget in budgets:
                field = findings.candidates(threat, defense, budget)
                seen = findings.attack_results.get((threat, defense, budget), {})
                others = {name: sample for name, sample in field.items() if _plugin(sample) not in universal}
                best = best_of(others)
                for name, sample in sorted(seen.items()):
                    if best is None or _plugin(sample) not in universal:
                        continue
                    if _fact(sample, SMALL) or not sample.ranked:
                        continue
                    ours, theirs = shared_repeats(sample, others[best.attacker])
                    if len(ours):
                        ahead = paired_difference(ours, theirs)
                        yield AutoComparison(threat, defense, budget, name, sample, best.attacker, ahead)


def _universal(findings: Findings) -> Collection[str]:
    """Return the attacks that declare in their records that they mean to match the best of all others."""
    return {
        parse_call(str(record.spec["attack"]))[0]
        for record in findings.records
        if record.info.get("attack", {}).get("universal")
    }


def _plugin(sample: AttackerResult) -> str:
    return parse_call(sample.attack.partition(TRAINED)[0])[0]


def _fact(sample: AttackerResult, name: str) -> bool:
    return any(record.metrics.get(name) for record in sample.records)
