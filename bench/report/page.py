"""Writes a run's report: the verdict first, in words computed from the numbers, then everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.findings import DefenseResult, Findings
from bench.analysis.pareto import panels
from bench.analysis.row_flags import name_with_warnings
from bench.analysis.threat_models import VictimThreatModel
from bench.report import membership, sections, study_page, tables
from bench.report.figures import extraction
from bench.report.figures import study as study_figures
from bench.report.markdown import DASH, details, markdown, ranged
from bench.report.sentences import one_line_results, significant_reductions, summary_sentences, title
from bench.store import Record

READING = """\
**How to read it.** *Fidelity* is the share of held-out test inputs on which the thief's copy and the
undefended victim agree. A defense is as strong as the strongest attacker against it, never as the mean.
*Gap* is how many points of fidelity the strongest attacker loses against none, among the attackers that
both have met: above 0 the defense helps, and only an interval that lies above 0 says so. *Gap to
label_only*: the same against answering labels alone. The *query
multiplier* is how many times more queries the strongest attacker needs to be as good as with no defense
at the reference budget. Brackets
are 95 % intervals over repeats and test inputs, each on its own (of forty useless defenses, about one
would be told from zero by luck); they hold for this victim.
Attackers whose copies agree everywhere in this run count as one, "copycat = knockoff random".
An attacker "on label_only, replayed" needs nothing but the label, which this defense leaves intact.
A thief who is shown more, or knows more, can do all that one who is shown less can, and counts so.
⚑: see [Flags](#flags)."""


def write_report(records: Sequence[Record], meta: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.md`` and its figures to the folder ``out``; return the path of ``report.md``.

    ``meta`` says how the records were made: matrix, command, commit, versions, machine, victims,
    reference budgets; with a study among them the page is that study's, or the study a section of it.
    Figures of an earlier report in the same folder are replaced. The same records and meta give the
    same bytes.
    """
    study = meta.get("study")
    if study and study.get("page", True):
        return study_page.write(records, meta, out)
    findings = Findings.of_run(records, meta)
    threats = [threat for threat in findings.threats if findings.conditions[threat]]
    numbers = {threat: place for place, threat in enumerate(threats, start=1)}
    out.mkdir(parents=True, exist_ok=True)
    drawn = extraction.draw(findings, numbers, out / "figures")
    parts = [
        f"# {meta.get('matrix', 'moatbench')}: what it costs to steal the model",
        meta.get("description", ""),
    ]
    study_figures.clear(out / "figures")
    inferred = membership.section(findings, out / "figures")
    parts += [*sections.gaps(meta), *_verdict(findings, numbers, other=bool(inferred))]
    for threat in threats:
        parts += _threat(findings, threat, numbers[threat], drawn)
    victims = {threat.victim for threat in numbers} | {victim for victim, _ in findings.evaluations}
    parts += [*_heatmaps(drawn), *sections.adaptive_check(findings, numbers)]
    parts += [*(study_page.section(records, meta, findings, out / "figures") if study else ()), *inferred]
    parts += sections.evaluations(findings, sorted(victims)) + sections.timing(findings)
    parts += sections.flags(findings, numbers)
    parts += sections.troubles(findings, meta) + sections.made(meta)
    return sections.written(out / "report.md", parts)


def _verdict(findings: Findings, numbers: Mapping[VictimThreatModel, int], *, other: bool) -> list[str]:
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
        parts += ["\n".join(f"- {line}" for line in summary_sentences(findings, threat))]
        parts += [tables.summary_table(findings, threat)]
        parts += _in_one_line(one_line_results(findings, threat))
    return [*parts, READING, sections.names(findings)]


def _in_one_line(lines: Sequence[str], shown: int = 15) -> list[str]:
    """Return the readings as a list; where they are many, those of the weakest defenses folded."""
    listed = ["\n".join(f"- {line}" for line in part) for part in (lines[:shown], lines[shown:])]
    rest = details(f"The other {len(lines) - shown} defenses", listed[1]) if listed[1] else ""
    return ["**In one line,** each claim resting on an interval:", listed[0], rest] if lines else []


def _overview(findings: Findings, numbers: Mapping[VictimThreatModel, int]) -> list[str]:
    """Return the worst case: what the best-equipped thieves of each victim and pool leave of defenses."""
    if len(numbers) < 2:
        return []
    worst = [threat for threat in findings.strongest if threat in numbers]
    told = {
        threat: significant_reductions(findings, threat, findings.summary_budgets(threat)[0])
        for threat in worst
    }
    knowing = any(threat.knowledge != "none" for threat in worst)
    rows = [_worst(findings, threat, numbers[threat], told[threat], knowing=knowing) for threat in worst]
    helped = sum(bool(each) for each in told.values())
    headers = [
        "",
        "victim and thief",
        "queries",
        "stolen, undefended (%)",
        "largest gap told from zero (points)",
    ]
    headers += ["it leaves (%)"] + (["the same defense, if he does not know it (points)"] if knowing else [])
    count = f"{helped or 'none'} of {len(worst)} threat models"
    said = f"In {count} some defense lowers the strongest thief's fidelity by an amount told from zero."
    if len(worst) < len(numbers):
        said = f"**The worst case.** {WORST} {said}"
    return [said, markdown(headers, rows, text=2)]


WORST = """\
A defense is as strong as the best-equipped thief makes it: one who is shown more and knows more than the
others can do all that they can. Thieves whom another of this run can imitate are left out here."""


def _worst(
    findings: Findings,
    threat: VictimThreatModel,
    number: int,
    told: Sequence[DefenseResult],
    *,
    knowing: bool,
) -> list[str]:
    budget = findings.summary_budgets(threat)[0]
    undefended = findings.rows[threat][0].results.get(budget)
    stolen = ranged(undefended.best.interval) if undefended and undefended.best else DASH
    cells = [f"T{number}", title(threat), f"{budget:,}", stolen]
    if not told:
        return [*cells, "none", *([DASH] * (1 + knowing))]
    standing = told[0].results[budget]
    left = f"{ranged(standing.best.interval)}<br>{standing.best.attacker}" if standing.best else DASH
    cells += [f"{name_with_warnings(findings, told[0])}: {ranged(standing.reduction)}", left]
    static = ranged(standing.non_adaptive.reduction) if standing.non_adaptive else "no attacker knows it"
    return [*cells, static] if knowing else cells


def _threat(
    findings: Findings, threat: VictimThreatModel, number: int, drawn: Mapping[str, str]
) -> list[str]:
    curves, costs = drawn.get(f"T{number}-curves"), drawn.get(f"T{number}-pareto")
    return [
        f"## T{number} in detail",
        f"{title(threat)}.",
        f"![Fidelity of the strongest attacker against budget, T{number}]({curves})\n\n{CURVES}"
        if curves
        else "",
        f"![Honest cost against fidelity, T{number}]({costs})\n\n{COSTS}" if costs else "",
        tables.front_table(findings, panels(findings, threat)),
        details("The strongest attacker at every budget", tables.budget_table(findings, threat)),
        details("Fidelity by attack, defense and budget", tables.attack_table(findings, threat)),
        details(
            "Beside fidelity, at the largest budget", COMPANIONS + tables.companion_table(findings, threat)
        ),
    ]


CURVES = "*Fidelity of the strongest attacker by queries; bands are 95 % intervals.*"
COSTS = """\
*What honest users pay against what the thief gets, one cost a panel: further down and further left is
better. Bars are 95 % intervals of fidelity; costs and places are estimates, and they alone decide here what
is dominated: grey, another defense costs no more, leaves the thief no more, and is better in one of the
two. The step line runs along the others. A defense that is free in one panel may be dear in the next, and
likelihood and risk-coverage are over answered queries, which flatters gates that refuse hard ones. Hollow:
the row raises [flags](#flags). Thin lines join one family's parameters by cost; dotted: no query at all.
Numbers are the rows of the verdict's table, no defense 0; without one: see there. Below, all that are on the
front of some panel, bold in the columns of theirs.*"""
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
