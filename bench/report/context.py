"""The context of a report: what each of its sections is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.analysis.findings import Findings
from bench.analysis.membership_results import Inference, inferences
from bench.analysis.recommendation import recommendations
from bench.analysis.row_flags import Note, grouped
from bench.analysis.study_results import Value, evaluate
from bench.analysis.threat_models import (
    VictimThreatModel,
    attacker,
    attackers_in,
    owned_inputs,
)
from bench.analysis.verdicts import VictimRecommendations
from bench.plan.study import Study
from bench.records import Record
from bench.run_facts import Meta
from bench.tasks import Task


@dataclass(frozen=True)
class ReportContext:
    """Records and facts of a run, with everything that several sections need.

    ``folder`` is where figures go; None: none is drawn. ``study``: the replication, None for a run
    without one. ``missing``: tasks that were planned and have no record.
    """

    records: Sequence[Record]
    meta: Meta
    folder: Path | None
    findings: Findings
    study: Study | None
    missing: Sequence[Task] = ()

    @classmethod
    def of(
        cls, records: Sequence[Record], meta: Meta, folder: Path | None, missing: Sequence[Task] = ()
    ) -> ReportContext:
        """Return the context of a run, as in :func:`bench.report.page.write_report`."""
        study = Study.model_validate(meta.study) if meta.study else None
        return cls(records, meta, folder, Findings.of_run(records, meta), study, missing)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of tasks by status, of those without a record, and of those that shared their training."""
        counts: dict[str, int] = dict(Counter(record.status for record in self.records))
        shared = sum(record.costs.shared for record in self.records)
        return counts | {"missing": len(self.missing), "shared": shared}

    @property
    def lacking(self) -> list[str]:
        """How many cells failed and are missing, in words; empty for a complete run."""
        counts = self.counts
        return [f"{counts[name]:,} {name}" for name in ("failed", "missing") if counts.get(name)]

    @property
    def title(self) -> str:
        """What the report is about: the title of a replication, else the name of the matrix."""
        if self.on_study_page and self.study is not None:
            return self.study.title
        return self.meta.matrix or "moatbench"

    @property
    def seconds(self) -> float | None:
        """The wall seconds of the whole run; None for a resumed one, of which only the last part is timed."""
        meta = self.meta
        if meta.started is None or meta.finished is None or meta.ran != len(self.records):
            return None
        return meta.finished - meta.started

    @property
    def on_study_page(self) -> bool:
        """Whether the report is the page of a replication, not a usual one."""
        return self.study is not None and self.study.page

    @cached_property
    def attackers(self) -> dict[VictimThreatModel, str]:
        """The threat models under which an extraction ran, each with the name of its attacker."""
        threats = [threat for threat in self.findings.threats if self.findings.conditions[threat]]
        return attackers_in(threats, self.findings.records)

    @cached_property
    def owned(self) -> dict[VictimThreatModel, int]:
        """How many inputs like the users' attacks own beside their pool, by threat model."""
        return owned_inputs(self.findings.records)

    def attacker(self, threat: VictimThreatModel) -> str:
        """Return the name of a threat model's attacker, unique among those of its victim."""
        return self.attackers.get(threat) or attacker(threat)

    @cached_property
    def recommendations(self) -> list[VictimRecommendations]:
        """What to do about each victim; empty for replications, live targets, and without extraction."""
        if self.on_study_page or self.meta.campaign is not None or not self.attackers:
            return []
        return recommendations(self.findings, self.meta.report)

    @cached_property
    def unranked(self) -> list[str]:
        """The victims for which nothing can be recommended: no attack without defense is ranked."""
        ranked = {each.victim for each in self.recommendations}
        return sorted({threat.victim for threat in self.findings.threats} - ranked)

    @cached_property
    def notes(self) -> list[Note]:
        """The reliability warnings, each once."""
        return grouped(self.findings)

    def test_inputs(self, victim: str) -> int | None:
        """Return the number of test inputs that fidelity is measured on; None without any."""
        for (threat, _, _), results in self.findings.attack_results.items():
            if threat.victim == victim and results:
                return int(next(iter(results.values())).agreement.shape[1])
        return None

    def notes_on(self, victim: str) -> list[str]:
        """Return what was recognised of a victim of the user's own, a sentence each."""
        return [note for facts in self.meta.victims if facts.identity == victim for note in facts.notes]

    @cached_property
    def values(self) -> dict[str, Value]:
        """The values of the replication's rows by row name; empty without a replication."""
        if self.study is None:
            return {}
        whole = "--only" not in (self.meta.command or "")
        return evaluate(self.study, self.records, self.missing, whole=whole)

    @cached_property
    def inferences(self) -> list[Inference]:
        """The results of membership inference."""
        return inferences(self.findings)
