"""Writes the report of a run: a folder of pages, from one list of pages and sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.files import write_atomically
from bench.records import Record
from bench.report import attacks, membership, sections, study_page, target_page, victim_page
from bench.report.context import ReportContext
from bench.report.figures.old_figures import remove_old_figures
from bench.report.markdown import plain
from bench.report.templates import rendered
from bench.run_facts import Meta
from bench.tasks import Task

Values = Callable[[ReportContext], Mapping[str, Any] | None]
OURS = "<!-- a page of a moatbench report -->"
"""Ends every page but the first, so that a later report knows which files it may remove."""


@dataclass(frozen=True)
class Section:
    """A section: a template, and the function that returns its values, or None to leave the section out.

    ``usual``, ``study``: whether it is in a usual report, and in that of a replication.
    """

    template: str
    values: Values
    usual: bool = True
    study: bool = True


@dataclass(frozen=True)
class Page:
    """A page: file, heading, how links call it, sections in order. Empty ones are left out."""

    file: str
    heading: str
    link: str
    sections: tuple[Section, ...]


PAGES = (
    Page(
        "replication.md",
        "published and measured",
        "published and measured",
        (Section("study", study_page.replication), Section("names", sections.names, usual=False)),
    ),
    Page(
        "attacks.md",
        "every attack",
        "all attacks",
        (
            Section("attacks", attacks.section),
            Section("adaptive_check", attacks.adaptive_check, study=False),
            Section("names", attacks.names, study=False),
        ),
    ),
    Page(
        "utility.md",
        "what benign users lose",
        "cost to users",
        (
            Section("criteria", sections.criteria),
            Section("groups", sections.groups),
            Section("utility", sections.utility),
            Section("out_of_distribution", sections.out_of_distribution),
            Section("by_utility", sections.by_utility),
            Section("fronts", attacks.fronts, study=False),
            Section("latency", sections.latency),
        ),
    ),
    Page(
        "detection.md",
        "what detectors and monitors see",
        "detection",
        (Section("rejected", sections.rejected), Section("detection", sections.detection)),
    ),
    Page(
        "membership.md",
        "membership inference",
        "membership inference",
        (Section("membership", membership.section),),
    ),
    Page("warnings.md", "notes on the numbers", "warnings", (Section("warnings", sections.warnings),)),
    Page(
        "provenance.md",
        "how this was made",
        "how this was made",
        (
            Section("campaign", target_page.origin),
            Section("origin", sections.origin),
            Section("options", sections.options),
            Section("failures", sections.failures),
            Section("not_run", sections.not_run),
            Section("timing", sections.timing),
        ),
    ),
)
"""All pages but ``report.md`` and those of victims, in the order of links, with all their sections."""


def write_report(records: Sequence[Record], meta: Meta, out: Path, missing: Sequence[Task] = ()) -> Path:
    """Write the pages and figures of a report to the folder ``out``; return the path of ``report.md``.

    ``meta`` says how the records were made; its ``study`` is a replication. ``missing``: tasks that were
    planned and have no record. Pages and figures of an earlier report in the same folder are replaced or
    removed; other files stay. The same records and meta give the same bytes.
    """
    context = ReportContext.of(records, meta, out / "figures", missing)
    out.mkdir(parents=True, exist_ok=True)
    remove_old_figures(out / "figures")
    pages: dict[str, str] = {}
    links = []
    for page in PAGES:
        shown = [each for each in page.sections if (each.study if context.on_study_page else each.usual)]
        filled = [(section, section.values(context)) for section in shown]
        parts = [rendered(section.template, **values) for section, values in filled if values is not None]
        if parts:
            heading = f"# {plain(context.title)}: {page.heading}\n\n[Report](report.md)"
            pages[page.file] = "\n\n".join([heading, *parts, OURS])
            links.append(f"[{page.link}]({page.file})")
    pages |= _first_pages(context, _sentence(" · ".join(links)))
    _remove_old_pages(out, pages)
    for name, text in pages.items():
        written(out / name, [text])
    return out / "report.md"


def _first_pages(context: ReportContext, links: str) -> dict[str, str]:
    """Return ``report.md``, and the pages of victims where there are several."""
    if context.on_study_page:
        return {"report.md": rendered("study_first", **study_page.first(context), links=links)}
    if context.meta.campaign is not None:
        return {"report.md": rendered("target", **target_page.page(context), links=links)}
    found = context.recommendations
    if not found:
        return {"report.md": rendered("no_extraction", **sections.no_extraction(context), links=links)}
    if len(found) == 1:
        return {"report.md": rendered("victim", **victim_page.page(context, found[0]), links=links)}
    pages, files = {}, victim_page.files([each.victim for each in found])
    for each in found:
        values = victim_page.page(context, each, prefix=f"{files[each.victim].removesuffix('.md')}-")
        text = rendered(
            "victim",
            **values,
            links=f"[All victims](report.md) · {links[:1] + links[1:2].lower() + links[2:]}",
        )
        pages[files[each.victim]] = f"{text}\n\n{OURS}"
    title = {"title": plain(context.title)}
    return pages | {"report.md": rendered("victims", **title, **victim_page.overview(context), links=links)}


def _sentence(links: str) -> str:
    """Return the links with the first letter of the first one large."""
    return links[:1] + links[1:2].upper() + links[2:]


def _remove_old_pages(out: Path, kept: Mapping[str, str]) -> None:
    """Remove the pages of an earlier report that this one does not write; other files stay."""
    for path in out.glob("*.md"):
        if path.name not in kept and path.is_file():
            text = path.read_bytes().rstrip()
            if text.endswith(OURS.encode()):
                path.unlink()


def first_page(records: Sequence[Record], meta: Meta, missing: Sequence[Task] = ()) -> str:
    """Return the first page of a report, in Markdown, without drawing its figures.

    Arguments: as in :func:`write_report`.
    """
    context = ReportContext.of(records, meta, None, missing)
    return _first_pages(context, "")["report.md"].rstrip()


def written(path: Path, parts: Iterable[str]) -> Path:
    """Write the parts of a page that are not empty to ``path``; return ``path``."""
    write_atomically(path, "\n\n".join(part for part in parts if part) + "\n")
    return path
