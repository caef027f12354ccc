"""Whether an attack that claims to match the best of all others does so, under each condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.analysis.attacker_results import AttackerResult, shared_repeats
from bench.analysis.comparison import best_of
from bench.analysis.display_names import TRAINED
from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.calls import parse_call
from bench.metrics.intervals import Interval, paired_difference

TOLERANCE = 0.015
"""Fidelity by which it may be below the best of the others, a fraction."""
SMALL = "extraction.small_budget"


@dataclass(frozen=True)
class AutoComparison:
    """A universal attack and the best of the others under one condition.

    ``difference``: fidelity of the universal attack minus that of ``other`` (a fraction).
    """

    threat: VictimThreatModel
    defense: Defense
    budget: int
    attack: str
    sample: AttackerResult
    other: str
    difference: Interval

    @property
    def plugin(self) -> str:
        """The universal attack's name, without parameters and training configuration."""
        return _plugin(self.sample)

    @property
    def supported(self) -> bool:
        """Whether the interval excludes that it is below by more than :data:`TOLERANCE`."""
        return self.difference.low >= -TOLERANCE


def comparisons(findings: Findings) -> Iterator[AutoComparison]:
    """Give every condition under which a universal attack and others were run."""
    universal = universal_attacks(findings)
    for threat in findings.threats:
        for defense, budgets in findings.conditions[threat].items():
            for budget in budgets:
                candidates = findings.candidates(threat, defense, budget)
                run = findings.attack_results.get((threat, defense, budget), {})
                others = {n: result for n, result in candidates.items() if _plugin(result) not in universal}
                best = best_of(others)
                for name, sample in sorted(run.items()):
                    if best is None or _plugin(sample) not in universal:
                        continue
                    if _reports(sample, SMALL) or not sample.ranked:
                        continue
                    own, others_best = shared_repeats(sample, others[best.attack])
                    if len(own):
                        difference = paired_difference(own, others_best)
                        yield AutoComparison(threat, defense, budget, name, sample, best.attack, difference)


def universal_attacks(findings: Findings) -> set[str]:
    """Return the attacks that declare in their records that they claim to match the best of all others."""
    return {parse_call(record.cell.attack)[0] for record in findings.records if record.info.attack.universal}


def _plugin(sample: AttackerResult) -> str:
    return parse_call(sample.attack.partition(TRAINED)[0])[0]


def _reports(sample: AttackerResult, name: str) -> bool:
    return any(record.metrics.get(name) for record in sample.records)
