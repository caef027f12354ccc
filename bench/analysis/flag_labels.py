"""Marks defenses with the reliability flags of their rows, so that none is named without them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.row_flags import RaisedWarning, row_flags
from bench.metrics.flags import label

FLAG = "⚑"


def raised(findings: Findings, row: DefenseResult) -> Sequence[RaisedWarning]:
    """Return the flags that a row raises, computed once for these findings."""
    key = ("raised", row.threat, row.defense)
    if key not in findings.training_cache:
        findings.training_cache[key] = tuple(row_flags(findings, row))
    found: Sequence[RaisedWarning] = findings.training_cache[key]
    return found


def flags(findings: Findings, row: DefenseResult) -> str:
    """Return the numbers of a row's flags, ``⚑ F3, F5``; empty where it raises none."""
    labels = [label(each.flag) for each in raised(findings, row)]
    return f"{FLAG} {', '.join(dict.fromkeys(labels))}" if labels else ""


def named(findings: Findings, row: DefenseResult) -> str:
    """Return the defense's short name with its flags."""
    return f"{findings.defense_name(row.defense)} {flags(findings, row)}".strip()
