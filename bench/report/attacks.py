"""The page on attacks: every attacker, defense and budget, with what each is compared with."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.analysis.adaptive_check import TOLERANCE, AutoComparison, comparisons
from bench.analysis.attacker_results import AttackerResult
from bench.analysis.interval_text import in_table
from bench.analysis.pareto import panels
from bench.report import attack_tables, sections
from bench.report.context import ReportContext
from bench.report.markdown import code, markdown, plain

READ_AS = "extraction.read_as_"


def section(context: ReportContext) -> dict[str, Any] | None:
    """Return the tables of each threat model; None without an extraction."""
    findings = context.findings
    threats = []
    for threat, name in context.attackers.items():
        baseline = findings.zero_query_baseline(threat)
        own = f"{in_table(baseline.interval)} % ({plain(baseline.attack)})" if baseline else ""
        threats.append(
            {
                "title": f"{code(threat.victim)}: an attacker who {name}",
                "facts": f"Sends {plain(threat.pool)}, sees {plain(threat.shows)}, "
                f"trains {plain(threat.surrogate)}.",
                "baseline": own,
                "comparisons": attack_tables.comparison_table(findings, threat),
                "attacks": attack_tables.attack_table(findings, threat),
                "companions": attack_tables.companion_table(findings, threat),
            }
        )
    return {"threats": threats} if threats else None


def names(context: ReportContext) -> dict[str, Any] | None:
    """Return the table of short names; None without an extraction."""
    return sections.names(context) if context.attackers else None


def fronts(context: ReportContext) -> dict[str, Any] | None:
    """Return the defenses on some Pareto front under the strongest threat models; None without any."""
    found = {
        f"{threat.victim}: {context.attacker(threat)}": attack_tables.front_table(context.findings, drawn)
        for threat in context.findings.strongest
        if threat in context.attackers and (drawn := panels(context.findings, threat))
    }
    return {"tables": found} if found else None


def adaptive_check(context: ReportContext) -> dict[str, Any] | None:
    """Return where the adaptive attack is shown to match the best of the others; None if it was not run."""
    met = [match for match in comparisons(context.findings) if match.threat in context.attackers]
    if not met:
        return None
    missed = [match for match in met if not match.supported]
    return {
        "plugins": ", ".join(code(name) for name in sorted({match.plugin for match in met})),
        "attackers": ", ".join(sorted({plain(match.attack) for match in met})),
        "slack": f"{100 * TOLERANCE:.1f}",
        "every": len(met),
        "missed": len(missed),
        "behind": sum(match.difference.high < -TOLERANCE for match in missed),
        "missed_table": _matches(context, missed),
        "table": _matches(context, met),
    }


def _matches(context: ReportContext, met: list[AutoComparison]) -> str:
    rows = [
        [
            f"{plain(match.threat.victim)}: {context.attacker(match.threat)}",
            code(context.findings.defense_name(match.defense)) if match.defense else "none",
            plain(match.other),
            f"{match.budget:,}",
            in_table(match.sample.fidelity),
            in_table(match.difference, sign="+"),
            read_as(match.sample),
        ]
        for match in sorted(met, key=lambda match: (match.difference.low, match.defense))
    ]
    headers = [
        *(
            "attacker",
            "defense",
            "best of the others",
            "queries",
            "fidelity (%)",
            "ahead (pp)",
            "interpretation",
        ),
    ]
    return markdown(headers, rows, text=3)


def read_as(sample: AttackerResult) -> str:
    """Return how many repeats chose each interpretation of the answers: ``recovered 4, labels 1``."""
    kept = Counter(
        key.removeprefix(READ_AS).replace("_", " ")
        for record in sample.records
        for key, value in record.metrics.items()
        if key.startswith(READ_AS) and value
    )
    return ", ".join(f"{name} {count}" for name, count in kept.most_common()) or "–"
