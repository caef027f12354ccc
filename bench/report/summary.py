"""The first section of a report: the results of extraction, a table and sentences for each threat model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.row_flags import name_with_warnings
from bench.analysis.threat_models import VictimThreatModel
from bench.report import tables
from bench.report.context import ReportContext
from bench.report.markdown import DASH, markdown, ranged
from bench.report.sections import name_table
from bench.report.sentences import one_line_results, significant_reductions, summary_sentences, title


def summary(context: ReportContext) -> dict[str, Any]:
    """Return the values of the template ``summary``."""
    findings = context.findings
    threats = [
        {
            "number": number,
            "title": title(threat),
            "sentences": summary_sentences(findings, threat),
            "table": tables.summary_table(findings, threat),
            "lines": one_line_results(findings, threat),
        }
        for threat, number in context.numbers.items()
    ]
    return {
        "threats": threats,
        "overview": _overview(context),
        "names": name_table(findings) if threats or context.inferences else "",
        "other_results": bool(context.inferences),
    }


def _overview(context: ReportContext) -> dict[str, Any] | None:
    """Return the results under the strongest threat models of each victim and pool; None for one model."""
    findings, numbers = context.findings, context.numbers
    if len(numbers) < 2:
        return None
    worst = [threat for threat in findings.strongest if threat in numbers]
    helping = {
        threat: significant_reductions(findings, threat, findings.summary_budgets(threat)[0])
        for threat in worst
    }
    adaptive = any(threat.knowledge != "none" for threat in worst)
    rows = [_row(findings, threat, numbers[threat], helping[threat], adaptive=adaptive) for threat in worst]
    headers = [
        "",
        "threat model",
        "queries",
        "fidelity, no defense (%)",
        "largest significant reduction (pp)",
        "fidelity with it (%)",
    ]
    headers += ["reduction for a non-adaptive attacker (pp)"] if adaptive else []
    return {
        "shortened": len(worst) < len(numbers),
        "helped": sum(bool(defenses) for defenses in helping.values()),
        "shown": len(worst),
        "table": markdown(headers, rows, text=2),
    }


def _row(
    findings: Findings,
    threat: VictimThreatModel,
    number: int,
    helping: Sequence[DefenseResult],
    *,
    adaptive: bool,
) -> list[str]:
    budget = findings.summary_budgets(threat)[0]
    undefended = findings.rows[threat][0].results.get(budget)
    fidelity = ranged(undefended.best.interval) if undefended and undefended.best else DASH
    cells = [f"T{number}", title(threat), f"{budget:,}", fidelity]
    if not helping:
        return [*cells, "none", *([DASH] * (1 + adaptive))]
    result = helping[0].results[budget]
    left = f"{ranged(result.best.interval)}<br>{result.best.attack}" if result.best else DASH
    cells += [f"{name_with_warnings(findings, helping[0])}: {ranged(result.reduction)}", left]
    if not adaptive:
        return cells
    return [*cells, ranged(result.non_adaptive.reduction) if result.non_adaptive else "no adaptive attack"]
