"""Writes the report of a run, or the page of a replication: one list of sections for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analysis.pareto import panels
from bench.files import write_atomically
from bench.records import Record
from bench.report import membership, sections, study_page, tables
from bench.report.context import ReportContext
from bench.report.figures import extraction
from bench.report.figures.style import clear
from bench.report.sentences import title
from bench.report.summary import summary
from bench.report.templates import rendered
from bench.run_facts import Meta
from bench.tasks import Task

Values = Callable[[ReportContext], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Section:
    """A section: a template, and the function that returns its values, or None to leave the section out.

    ``usual``, ``study``: whether it is in a usual report, and on the page of a replication.
    """

    template: str
    values: Values
    usual: bool = True
    study: bool = True


def _threat_models(context: ReportContext) -> dict[str, Any] | None:
    findings = context.findings
    threats = [
        {
            "number": number,
            "title": title(threat),
            "curves": context.figures.get(f"T{number}-curves"),
            "costs": context.figures.get(f"T{number}-pareto"),
            "front": tables.front_table(findings, panels(findings, threat)),
            "budgets": tables.budget_table(findings, threat),
            "attacks": tables.attack_table(findings, threat),
            "companions": tables.companion_table(findings, threat),
        }
        for threat, number in context.numbers.items()
    ]
    return {"threats": threats} if threats else None


def _heatmaps(context: ReportContext) -> dict[str, Any] | None:
    heatmaps = [path for name, path in context.figures.items() if "heatmap" in name]
    return {"heatmaps": heatmaps} if heatmaps else None


SECTIONS = (
    Section("title", sections.title, study=False),
    Section("study_title", study_page.title, usual=False),
    Section("incomplete", sections.incomplete),
    Section("summary", summary, study=False),
    Section("threat_models", _threat_models, study=False),
    Section("heatmaps", _heatmaps, study=False),
    Section("adaptive_check", sections.adaptive_check, study=False),
    Section("study", study_page.replication),
    Section("membership", membership.section),
    Section("utility", sections.utility),
    Section("by_utility", sections.by_utility),
    Section("rejected", sections.rejected),
    Section("detection", sections.detection),
    Section("latency", sections.latency),
    Section("timing", sections.timing),
    Section("warnings", sections.warnings, study=False),
    Section("study_warnings", study_page.warnings, usual=False),
    Section("failures", sections.failures),
    Section("names", sections.names, usual=False),
    Section("origin", lambda context: sections.origin(context.meta, context.counts, context.seconds)),
)
"""All sections of a report in order. A usual report has the names of attacks and defenses in its summary."""


def write_report(records: Sequence[Record], meta: Meta, out: Path, missing: Sequence[Task] = ()) -> Path:
    """Write ``report.md`` and its figures to the folder ``out``; return the path of ``report.md``.

    ``meta`` says how the records were made; its ``study``, a replication, is a section of the report or, if
    it says so, a page of its own. ``missing``: tasks that were planned and have no record. Figures of an
    earlier report in the same folder are replaced. The same records and meta give the same bytes.
    """
    context = ReportContext.of(records, meta, out / "figures", missing)
    out.mkdir(parents=True, exist_ok=True)
    clear(context.folder)
    context.figures.update(extraction.draw(context.findings, context.numbers, context.folder))
    shown = [each for each in SECTIONS if (each.study if context.on_study_page else each.usual)]
    filled = [(section, section.values(context)) for section in shown]
    parts = [rendered(section.template, **values) for section, values in filled if values is not None]
    return written(out / "report.md", parts)


def first_page(records: Sequence[Record], meta: Meta, missing: Sequence[Task] = ()) -> str:
    """Return the first page of a report, in Markdown, without drawing its figures.

    Arguments: as in :func:`write_report`.
    """
    context = ReportContext.of(records, meta, Path("figures"), missing)
    if context.on_study_page:
        first = ("study_title", "incomplete", "study")
    else:
        first = ("title", "incomplete", "summary")
    filled = [(each, each.values(context)) for each in SECTIONS if each.template in first]
    return "\n\n".join(rendered(each.template, **values) for each, values in filled if values is not None)


def written(path: Path, parts: Iterable[str]) -> Path:
    """Write the parts of a page that are not empty to ``path``; return ``path``."""
    write_atomically(path, "\n\n".join(part for part in parts if part) + "\n")
    return path
