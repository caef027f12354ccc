"""Writes a run's report: the verdict first, in words computed from the numbers, then everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import figures, membership_report, sections, tables
from bench.store import Record
from bench.studies import figures as study_figures
from bench.studies import page
from bench.tables import DASH, details, markdown, ranged
from bench.threats import Threat
from bench.verdict import Findings
from bench.words import title, told_apart, words

READING = """\
**How to read it.** *Fidelity* is the share of held-out test inputs on which the thief's copy and the
undefended victim agree. A defense is as strong as the strongest attacker against it, never as the mean.
*Gap* is how many points of fidelity the strongest attacker loses against none, among the attackers that
both have met: above 0 the defense helps, and only an interval that lies above 0 says so. The *query
multiplier* is how many times more queries the strongest attacker needs to be as good as with no defense
at the reference budget. Brackets
are 95 % intervals over repeats and test inputs, each on its own (of forty useless defenses, about one
would be told from zero by luck); they hold for this victim.
An attacker "on label_only, replayed" needs nothing but the label, which this defense leaves intact.
A thief who is shown more, or knows more, can do all that one who is shown less can, and counts so.
⚑: see [Flags](#flags)."""


def write_report(records: Sequence[Record], meta: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.md`` and its figures to the folder ``out``; return the path of ``report.md``.

    ``meta`` says how the records were made: matrix, command, commit, versions, machine, victims,
    reference budgets; with a study among them the page is that
    study's. Figures of an earlier report in the same folder are replaced. The same records and meta
    give the same bytes.
    """
    if meta.get("study"):
        return page.write(records, meta, out)
    findings = Findings(records, meta.get("reference_budget", {}))
    threats = [threat for threat in findings.threats if findings.places[threat]]
    numbers = {threat: place for place, threat in enumerate(threats, start=1)}
    out.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(findings, numbers, out / "figures")
    parts = [
        f"# {meta.get('matrix', 'moatbench')}: what it costs to steal the model",
        meta.get("description", ""),
    ]
    study_figures.clear(out / "figures")
    inferred = membership_report.section(findings, out / "figures")
    parts += [*sections.gaps(meta), *_verdict(findings, numbers, other=bool(inferred))]
    for threat in threats:
        parts += _threat(findings, threat, numbers[threat], drawn)
    victims = {threat.victim for threat in numbers} | {victim for victim, _ in findings.audits}
    parts += [*_heatmaps(drawn), *inferred]
    parts += sections.audits(findings, sorted(victims)) + sections.timing(findings)
    parts += ["## Flags", tables.flag_tables(findings, numbers) or "No cell is flagged."]
    parts += sections.troubles(findings, meta) + sections.made(meta)
    return sections.written(out / "report.md", parts)


def _verdict(findings: Findings, numbers: Mapping[Threat, int], *, other: bool) -> list[str]:
    """Return the verdict on extraction; ``other``: another section has results even if this has none."""
    if not numbers:
        return (
            [sections.names(findings)]
            if other
            else ["## Verdict", "No cell has a result yet, so there is no verdict."]
        )
    parts = ["## Verdict", *_overview(findings, numbers)]
    for threat, number in numbers.items():
        parts += [f"### T{number} · {title(threat)}"]
        parts += ["\n".join(f"- {line}" for line in words(findings, threat))]
        parts += [tables.verdict_table(findings, threat)]
    return [*parts, READING, sections.names(findings)]


def _overview(findings: Findings, numbers: Mapping[Threat, int]) -> list[str]:
    if len(numbers) < 2:
        return []
    rows, helped = [], 0
    for threat, number in numbers.items():
        budget = findings.headline(threat)[0]
        undefended = findings.rows[threat][0].standings.get(budget)
        told = told_apart(findings, threat, budget)
        helped += bool(told)
        best = (
            f"{findings.defense_name(told[0].defense)}: {ranged(told[0].standings[budget].gap)}"
            if told
            else "none"
        )
        stolen = ranged(undefended.best.interval) if undefended and undefended.best else DASH
        rows.append([f"T{number}", title(threat), f"{budget:,}", stolen, best])
    headers = [
        "",
        "victim and thief",
        "queries",
        "stolen, undefended (%)",
        "largest gap told from zero (points)",
    ]
    count = f"{helped} of {len(numbers)} threat models" if helped else f"none of {len(numbers)} threat models"
    said = f"In {count} some defense lowers the strongest thief's fidelity by an amount told from zero."
    return [said, markdown(headers, rows, text=2)]


def _threat(findings: Findings, threat: Threat, number: int, drawn: Mapping[str, str]) -> list[str]:
    curves, costs = drawn.get(f"T{number}-curves"), drawn.get(f"T{number}-costs")
    return [
        f"## T{number} in detail",
        f"{title(threat)}.",
        f"![Fidelity of the strongest attacker against budget, T{number}]({curves})\n\n{CURVES}"
        if curves
        else "",
        f"![Honest users' cost against fidelity, T{number}]({costs})\n\n{COSTS}" if costs else "",
        details("The strongest attacker at every budget", tables.budget_table(findings, threat)),
        details("Fidelity by attack, defense and budget", tables.attack_table(findings, threat)),
        details(
            "Beside fidelity, at the largest budget", COMPANIONS + tables.companion_table(findings, threat)
        ),
    ]


CURVES = "*Fidelity of the strongest attacker by queries; bands are 95 % intervals.*"
COSTS = """\
*What honest users pay against what the thief gets: further down and further left is better. Filled: the
defense lowers fidelity by an amount told from zero.*"""
COMPANIONS = """\
In %, L1 and KL apart; with intervals over repeats. *Agrees with deployed*: with the defended model.
*Where victim errs*, *low margin*: fidelity on the test inputs that the victim gets wrong, and on the
tenth with its lowest margin. Accuracy, precision, recall and F1 (macro) are the copy's, against the truth.

"""
HEATMAP = "Fidelity of the strongest attacker in %, by threat model (T…) and queries."


def _heatmaps(drawn: Mapping[str, str]) -> list[str]:
    parts = ["## Defenses by budget", HEATMAP] if any("heatmap" in name for name in drawn) else []
    return parts + [
        f"![Fidelity of the strongest attacker by defense and budget]({path})"
        for name, path in drawn.items()
        if "heatmap" in name
    ]
