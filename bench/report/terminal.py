"""What ``moatbench run`` says at its end: the recommendation, in at most four lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.analysis.findings import Findings
from bench.analysis.interval_text import in_clause
from bench.analysis.recommendation import recommendations
from bench.analysis.threat_models import Defense
from bench.analysis.verdicts import VictimRecommendations
from bench.records import Record
from bench.report import answers
from bench.report.terminal_page import printable
from bench.run_facts import Meta

MOST_LINES = 4
"""Largest number of lines, the one that says where to read on included."""


def last_lines(records: Sequence[Record], meta: Meta, report: Path) -> list[str]:
    """Return the recommendation of a run and where to read on, in at most :data:`MOST_LINES` lines.

    ``report``: the path of the report. The last line is that path alone.
    """
    findings = Findings.of_run(records, meta)
    found = recommendations(findings, meta.report) if findings.threats else []
    return [*recommendation_lines(found, findings.defense_name), str(report)]


def recommendation_lines(found: Sequence[VictimRecommendations], name: Callable[[Defense], str]) -> list[str]:
    """Return the recommendations in plain text, a line a victim, in one line less than :data:`MOST_LINES`.

    ``name``: returns a defense's display name. For one victim the other ways to sell follow.
    """
    lines = [f"{each.victim}: {_headline(each, name)}" for each in found]
    room = MOST_LINES - 1
    if len(lines) == 1:
        lines += _others(found[0], name)
    elif len(lines) > room:
        lines[room - 1 :] = [f"and {len(lines) - room + 1} more victims"]
    return [printable(line) for line in lines[:room]]


def _headline(found: VictimRecommendations, name: Callable[[Defense], str]) -> str:
    rec = found.strongest
    best = answers.leading(rec)
    text = answers.headline(rec, name(best.defense) if best else "")
    return text.replace("**", "").replace("`", "")


def _others(found: VictimRecommendations, name: Callable[[Defense], str]) -> list[str]:
    """Return a line for each other way to sell whose answer is another defense."""
    rec, lines = found.strongest, []
    for sold, defense in rec.others:
        row = next((row for row in rec.rows if row.defense == defense), None)
        if row and row.reduction and row != rec.recommended and row.defense:
            lines.append(
                f"If {answers.WHERE[sold]}: {name(row.defense)}, {in_clause(row.reduction.interval)}."
            )
    return lines
