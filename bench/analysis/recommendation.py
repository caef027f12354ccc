"""Which defense to use: eligibility, selection, confirmation."""

from __future__ import annotations

from dataclasses import dataclass

from bench.analysis.findings import Findings
from bench.analysis.threat_models import Defense, VictimThreatModel
from bench.analysis.verdicts import VictimRecommendations
from bench.run_facts import ReportOptions


@dataclass(frozen=True)
class Selected:
    """What a confirmation run has to repeat: these defenses and no defense, under all attacks there.

    ``budget``: the reference budget. ``defenses``: up to three, the most promising first; without ().
    """

    threat: VictimThreatModel
    budget: int
    defenses: tuple[Defense, ...]


def selected(findings: Findings, options: ReportOptions) -> list[Selected]:
    """Return what is to be confirmed, one entry a victim that has something to confirm."""
    raise NotImplementedError


def recommendations(findings: Findings, options: ReportOptions) -> list[VictimRecommendations]:
    """Return the answers for each victim of a run."""
    raise NotImplementedError
