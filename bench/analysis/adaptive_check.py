"""How near the attack that stands for all comes to the best of the others, defense by defense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench import plugins
from bench.analysis.attacker_results import AttackerResult, common
from bench.analysis.comparison import best_of
from bench.analysis.display_names import TRAINED
from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.calls import parse_call
from bench.errors import UsageError
from bench.metrics.intervals import Interval, paired_difference
from bench.report.tables import details, markdown, ranged

SLACK = 0.015
"""By how much (a share of test inputs) it may stay behind the best of the others and still stand for all."""
READ_AS = "extraction.read_as_"
SMALL = "extraction.small_budget"

HEADING = "## One attacker for all"
INTRO = """\
{names} means to match the best of the other attackers that a thief with the same knowledge has. That best
one is the luckiest of them, which counts against it. Budgets that are too small for it are left out.
Differences are paired."""


@dataclass(frozen=True)
class Match:
    """One meeting of a universal attacker with the best of the others; ``ahead`` is its lead (a fraction)."""

    threat: VictimThreatModel
    defense: Defense
    budget: int
    attacker: str
    sample: AttackerResult
    other: str
    ahead: Interval

    @property
    def stands(self) -> bool:
        """Whether the interval shows that it stays behind by no more than :data:`SLACK`."""
        return self.ahead.low >= -SLACK


def matches(findings: Findings) -> Iterator[Match]:
    """Give every defense and budget at which a universal attacker met others under one threat model."""
    for threat in findings.threats:
        for defense, budgets in findings.places[threat].items():
            for budget in budgets:
                field = findings.candidates(threat, defense, budget)
                seen = findings.samples.get((threat, defense, budget), {})
                others = {name: sample for name, sample in field.items() if not _universal(sample)}
                best = best_of(others)
                for name, sample in sorted(seen.items()):
                    if best is None or not _universal(sample) or _fact(sample, SMALL) or not sample.ranked:
                        continue
                    ours, theirs = common(sample, others[best.attacker])
                    if len(ours):
                        ahead = paired_difference(ours, theirs)
                        yield Match(threat, defense, budget, name, sample, best.attacker, ahead)


def _universal(sample: AttackerResult) -> bool:
    try:
        attack = plugins.attacks.get(parse_call(sample.attack.partition(TRAINED)[0])[0])
    except UsageError:
        return False
    return bool(getattr(attack, "universal", False))


def _fact(sample: AttackerResult, name: str) -> bool:
    return any(record.metrics.get(name) for record in sample.records)


def section(findings: Findings, numbers: Mapping[VictimThreatModel, int]) -> list[str]:
    """Return the report's section on it: the tally, the places where it does not stand, then all."""
    met = [match for match in matches(findings) if match.threat in numbers]
    if not met:
        return []
    missed = [match for match in met if not match.stands]
    names = ", ".join(sorted({match.attacker for match in met}))
    tally = (
        f"In {len(met) - len(missed)} of {len(met)} places it is shown to be less than "
        f"{100 * SLACK:.1f} points behind."
    )
    if missed:
        clear = sum(match.ahead.high < -SLACK for match in missed)
        tally += (
            f" In the {len(missed)} below it is not: in {clear} it is shown to be further behind, "
            f"in {len(missed) - clear} the interval is too wide to say."
        )
    every = details("Every place", _table(findings, met, numbers))
    return [HEADING, INTRO.format(names=names), tally, _table(findings, missed, numbers), every]


def _table(findings: Findings, met: list[Match], numbers: Mapping[VictimThreatModel, int]) -> str:
    rows = [
        [
            f"T{numbers[match.threat]}",
            findings.defense_name(match.defense),
            match.other,
            f"{match.budget:,}",
            ranged(findings.interval(match.sample)),
            ranged(match.ahead, sign="+"),
            _read(match.sample),
        ]
        for match in sorted(met, key=lambda match: (match.ahead.low, match.defense))
    ]
    headers = ["", "defense", "best of the others", "queries", "fidelity (%)", "ahead (points)", "read as"]
    return markdown(headers, rows, text=3)


def _read(sample: AttackerResult) -> str:
    """Return how the repeats read the answers: ``recovered 4, labels 1``."""
    kept = Counter(
        key.removeprefix(READ_AS).replace("_", " ")
        for record in sample.records
        for key, value in record.metrics.items()
        if key.startswith(READ_AS) and value
    )
    return ", ".join(f"{name} {count}" for name, count in kept.most_common()) or "–"
