"""The values of a report's sections that need no module of their own: one function a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from bench.analysis.adaptive_check import TOLERANCE, AutoComparison, comparisons
from bench.analysis.attacker_results import AttackerResult
from bench.analysis.findings import Findings
from bench.analysis.row_flags import row_flags
from bench.analysis.threat_models import VictimThreatModel
from bench.metrics.flags import FLAGS, label
from bench.report import run_tables
from bench.report.context import ReportContext
from bench.report.markdown import DASH, markdown, ranged
from bench.report.utility_tables import (
    detection_table,
    latency_table,
    resolved_table,
    utility_table,
)
from bench.run_facts import Meta, VictimFacts


def title(context: ReportContext) -> dict[str, Any]:
    """Return the values of the template ``title``."""
    return {"matrix": context.meta.matrix or "moatbench", "description": context.meta.description or ""}


def incomplete(context: ReportContext) -> dict[str, Any] | None:
    """Return how many cells are missing and failed; None if the run is complete."""
    counts = context.counts
    lacking = [f"cells {name}: {counts[name]:,}" for name in ("missing", "failed") if counts.get(name)]
    return {"lacking": lacking} if lacking else None


def name_table(findings: Findings) -> str:
    """Return the table of short names of attacks and defenses; empty if none is short."""
    long = [[short, f"`{text}`"] for text, short in sorted(findings.short.items()) if short != text]
    return markdown(["short", "in full"], long, text=2)


def names(context: ReportContext) -> dict[str, Any] | None:
    """Return the table of short names; None if none is short."""
    table = name_table(context.findings)
    return {"names": table} if table else None


def utility(context: ReportContext) -> dict[str, Any] | None:
    """Return the utility loss of each defense for benign users, by victim; None without an evaluation."""
    return _by_victim(context, lambda v: utility_table(context.findings, v, "utility"))


def by_utility(context: ReportContext) -> dict[str, Any] | None:
    """Return the defenses that were given by their utility loss, by victim; None if there are none."""
    return _by_victim(context, lambda v: resolved_table(context.findings, v))


def rejected(context: ReportContext) -> dict[str, Any] | None:
    """Return how many benign queries each detector rejects or flags, by victim; None without a detector."""
    return _by_victim(context, lambda v: utility_table(context.findings, v, "detector"))


def detection(context: ReportContext) -> dict[str, Any] | None:
    """Return how much of each pool each detector flags, by victim; None without a detector."""
    return _by_victim(context, lambda v: detection_table(context.findings, v))


def latency(context: ReportContext) -> dict[str, Any] | None:
    """Return the time that each defense adds to a query, by victim; None without an evaluation."""
    return _by_victim(context, lambda v: latency_table(context.findings, v))


def _by_victim(context: ReportContext, table: Callable[[str], str]) -> dict[str, Any] | None:
    victims = sorted({victim for victim, _ in context.findings.evaluations})
    tables = {victim: text for victim in victims if (text := table(victim))}
    return {"tables": tables} if tables else None


def timing(context: ReportContext) -> dict[str, Any] | None:
    """Return the table of seconds; None if no cell has any."""
    table = run_tables.timing_table(context.findings)
    return {"table": table} if table else None


def warnings(context: ReportContext) -> dict[str, Any]:
    """Return the meaning of each reliability warning, then the rows and cells that raise it."""
    findings, numbers = context.findings, context.numbers
    by_row = [
        [label(each.flag), f"T{number}", findings.defense_name(row.defense), each.detail, each.flag]
        for threat, number in numbers.items()
        for row in findings.rows[threat]
        for each in row_flags(findings, row)
    ]
    by_cell = [
        [
            flag,
            f"T{number}",
            findings.defense_name(defense),
            name,
            f"{budget:,}",
            f"{count} of {len(sample.repeats)}",
        ]
        for threat, number in numbers.items()
        for defense, budget, name, sample in findings.measured(threat)
        for flag, count in sorted(sample.flags.items())
    ]
    rows = Counter(row[-1] for row in by_row)
    cells = Counter(flag for record in findings.records for flag in record.info.flags)
    known = [flag for flag in FLAGS if rows[flag] or cells[flag]]
    other = sorted((rows.keys() | cells.keys()) - set(FLAGS))
    meaning = {flag: FLAGS[flag].meaning for flag in known} | dict.fromkeys(other, "see METHOD.md")
    listed = [
        [label(flag), flag, said, rows[flag] or DASH, cells[flag] or DASH] for flag, said in meaning.items()
    ]
    by_row.sort(key=lambda row: list(meaning).index(row[-1]))
    return {
        "table": markdown(["", "flag", "meaning", "rows", "cells"], listed, text=3),
        "never": [f"{label(flag)} ({flag})" for flag in FLAGS if flag not in known],
        "rows": markdown(["flag", "threat model", "defense", "detail"], [row[:-1] for row in by_row], text=4),
        "cells": markdown(["flag", "threat model", "defense", "attack", "queries", "cells"], by_cell, text=4),
    }


def failures(context: ReportContext) -> dict[str, Any]:
    """Return failed cells with their errors, and cells that are not applicable with the reasons."""
    findings = context.findings
    return {
        "failed": run_tables.failure_table(findings, "failed"),
        "command": context.meta.command or "moatbench run",
        "tracebacks": {
            escape(str(record.error), quote=False): record.info.traceback.strip()
            for record in findings.records
            if record.status == "failed" and record.info.traceback
        },
        "not_applicable": run_tables.failure_table(findings, "not_applicable"),
    }


def origin(meta: Meta, counts: Mapping[str, int], seconds: float | None = None) -> dict[str, Any]:
    """Return where every number comes from: command, commit, machine, versions, victims, matrix.

    ``counts``: tasks by status; ``seconds``: wall time of the whole run, where it is known.
    """
    edited = " with changes that are not committed" if meta.dirty else ""
    versions = meta.packages or meta.versions
    facts = {
        "matrix": meta.matrix,
        "command": f"`{meta.command}`" if meta.command else None,
        "commit": (meta.commit or "unknown") + edited,
        "cells": ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()),
        "started": _moment(meta.started),
        "finished": _moment(meta.finished),
        "wall seconds": None if seconds is None else f"{seconds:,.0f}",
        "jobs": meta.jobs,
        "device": meta.device,
        "reference budget": ", ".join(f"{data}: {n:,}" for data, n in meta.reference_budget.items()),
        **meta.machine,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    headers = [
        "victim",
        "accuracy (%)",
        "expected (%)",
        "training / calibration / pool / test",
        "parameters",
        "fingerprint",
    ]
    return {
        "facts": markdown(["", ""], [[k, v] for k, v in facts.items() if v not in (None, "")], text=2),
        "victims": markdown(headers, [_victim(victim) for victim in meta.victims]),
        "matrix": (meta.matrix_text or "").strip(),
    }


def _moment(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _victim(victim: VictimFacts) -> list[str]:
    sizes = (victim.sizes.train, victim.sizes.calibration, victim.sizes.pool, victim.sizes.test)
    return [
        victim.identity,
        *(DASH if share is None else f"{100 * share:.1f}" for share in (victim.accuracy, victim.expected)),
        " / ".join(DASH if size is None else f"{size:,}" for size in sizes),
        DASH if victim.parameters is None else f"{victim.parameters:,}",
        f"`{victim.fingerprint[:12]}`",
    ]


READ_AS = "extraction.read_as_"


def adaptive_check(context: ReportContext) -> dict[str, Any] | None:
    """Return where the adaptive attack is shown to match the best of the others; None if it was not run."""
    numbers = context.numbers
    met = [match for match in comparisons(context.findings) if match.threat in numbers]
    if not met:
        return None
    missed = [match for match in met if not match.supported]
    return {
        "plugins": ", ".join(f"`{name}`" for name in sorted({match.plugin for match in met})),
        "attackers": ", ".join(sorted({match.attack for match in met})),
        "slack": f"{100 * TOLERANCE:.1f}",
        "every": len(met),
        "missed": len(missed),
        "behind": sum(match.difference.high < -TOLERANCE for match in missed),
        "missed_table": _matches(context.findings, missed, numbers),
        "table": _matches(context.findings, met, numbers),
    }


def _matches(findings: Findings, met: list[AutoComparison], numbers: Mapping[VictimThreatModel, int]) -> str:
    rows = [
        [
            f"T{numbers[match.threat]}",
            findings.defense_name(match.defense),
            match.other,
            f"{match.budget:,}",
            ranged(match.sample.fidelity),
            ranged(match.difference, sign="+"),
            _read_as(match.sample),
        ]
        for match in sorted(met, key=lambda match: (match.difference.low, match.defense))
    ]
    headers = ["", "defense", "best of the others", "queries", "fidelity (%)", "ahead (pp)", "interpretation"]
    return markdown(headers, rows, text=3)


def _read_as(sample: AttackerResult) -> str:
    """Return how many repeats chose each interpretation of the answers: ``recovered 4, labels 1``."""
    kept = Counter(
        key.removeprefix(READ_AS).replace("_", " ")
        for record in sample.records
        for key, value in record.metrics.items()
        if key.startswith(READ_AS) and value
    )
    return ", ".join(f"{name} {count}" for name, count in kept.most_common()) or "–"
