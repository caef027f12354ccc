"""The replication in a report: published values next to measured ones, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from bench.analysis.interval_text import DASH
from bench.analysis.membership_results import inferences
from bench.analysis.study_results import Value
from bench.analysis.study_units import difference, number, published
from bench.plan.study import SLOT, Study, Table
from bench.report import membership
from bench.report.context import ReportContext
from bench.report.markdown import markdown
from bench.report.study_comment import Headline, StudyComment
from bench.report.templates import rendered

MOST_ROWS = 24
"""Rows of the first page up to which tables are added that it does not need."""
LIMIT = 50
"""Rows that the first page has at most."""
FIGURES = 3
"""Figures that the first page has at most: of tables with a row on it."""


def first(context: ReportContext) -> dict[str, Any]:
    """Return the values of the template ``study_first``: conclusion, first values, first figure."""
    study, values = context.study, context.values
    if study is None:
        raise ValueError("a run without a replication has no such page")
    shown = [values[name] for name in _first_rows(study, values)]
    figures: list[str] = []
    kind = "published" if _published(study) else "measured"
    names = {value.row.id for value in shown}
    for place, table in enumerate(study.table, start=1):
        if context.folder is None or len(figures) == FIGURES or not names & {row.id for row in table.row}:
            continue
        if (context.folder / f"{kind}-{place}.svg").is_file():  # drawn for replication.md
            path = f"{context.folder.name}/{kind}-{place}.svg"
            figures.append(rendered(f"figure_{kind}", heading=table.heading, path=path))
    left = len(values) - len(shown)
    more = f" {left} more values are in [replication.md](replication.md)." if left > 0 else ""
    found = len(context.notes)
    some = "A note" if found == 1 else f"{found} notes"
    return {
        "title": study.title,
        "comment": _comment(study, values),
        "verdict": _sentence(filled(study.verdict, values)),
        "table": rows(shown, notes=False),
        "published": any(value.row.published is not None for value in shown),
        "figures": figures,
        "more": more,
        "notes": f" {some} on these numbers: [warnings.md](warnings.md)." if found else "",
        "lacking": context.lacking,
    }


def _first_rows(study: Study, values: Mapping[str, Value]) -> list[str]:
    """Return the names of the rows of the first page, in the order of the study.

    Those that the conclusion quotes and those with a published value, whatever came out; of too many, those
    that differ most. Then tables that fit as a whole.
    """
    quoted = {found[1].partition(".")[0] for found in SLOT.finditer(study.verdict)}
    if study.headline:
        quoted |= {study.headline.published, study.headline.competent}
    every = [row.id for table in study.table for row in table.row]
    needed = [name for name in every if name in quoted or values[name].row.published is not None]
    needed.sort(key=lambda name: (name not in quoted, -abs(values[name].beside or 0.0)))
    chosen = set(needed[:LIMIT] or every[:MOST_ROWS])
    for table in study.table:
        whole = chosen | {row.id for row in table.row}
        chosen = whole if len(whole) <= MOST_ROWS else chosen
    return [name for name in every if name in chosen]


def replication(context: ReportContext) -> dict[str, Any] | None:
    """Return the tables and texts of a replication, its figures drawn; None for a run without one."""
    study, values = context.study, context.values
    if study is None:
        return None
    tables = []
    for place, table in enumerate(study.table, start=1):
        own = [values[row.id] for row in table.row]
        figures = _figures(context, table, own, place)
        tables.append({"heading": table.heading, "intro": table.intro, "rows": rows(own), "figures": figures})
    return {
        "title": "" if context.on_study_page else study.title,
        "verdict": _sentence(filled(study.verdict, values)),
        "source": study.source,
        "tables": tables,
        "meaning": filled(study.meaning, values),
        "published": _published(study),
        "choices": study.choices,
    }


def _comment(study: Study, values: Mapping[str, Value]) -> str:
    """Return what an index needs of this page, as a Markdown comment."""
    verdict, headline = " ".join(filled(study.verdict, values).split()), None
    if study.headline:
        value, best = values[study.headline.published], values[study.headline.competent]
        headline = Headline(
            label=value.row.label,
            published=published(value.row),
            measured=value.text,
            competent_label=best.row.label,
            competent=best.text,
        )
    return StudyComment(title=study.title, verdict=verdict, headline=headline).as_comment()


def filled(text: str, values: Mapping[str, Value]) -> str:
    """Return a text of a replication with its slots filled with numbers."""

    def slot(found: Any) -> str:
        name, _, what = found[1].partition(".")
        value = values[name]
        if what == "published":
            return str(value.row.published)
        if value.status != "ok":
            return f"({value.status})"
        if what == "prediction":
            return value.prediction
        return value.text if what == "interval" else number(value.row, value.interval.value)

    return SLOT.sub(slot, text)


def _sentence(clause: str) -> str:
    """Return a conclusion, which an index shows as a clause, as a sentence."""
    whole = clause[:1].upper() + clause[1:]
    return whole if whole.endswith((".", "!", "?")) else f"{whole}."


def rows(values: Sequence[Value], *, notes: bool = True) -> str:
    """Return the table of some rows; with the columns on the publication only if it has a number for them.

    ``notes``: with the reliability warnings of each row.
    """
    known = any(value.row.published is not None for value in values)
    body = []
    for value in values:
        label = value.row.label + (f"<br>*{value.note}*" if value.note else "")
        line = [label, published(value.row) or DASH] if known else [label]
        line.append(_measured(value))
        if known:
            line.append(DASH if value.beside is None else difference(value.row, value.beside))
        body.append([*line, _repeats(value, notes=notes)])
    last = "repeats, notes" if notes else "repeats"
    headers = ["", "published", "measured", "measured − published", last]
    return markdown(headers if known else ["", "measured", last], body)


def _measured(value: Value) -> str:
    reason = f": {escape(value.reason, quote=False)}" if value.reason else ""
    return f"**{value.text}**" if value.status == "ok" else value.status + reason


def _repeats(value: Value, *, notes: bool) -> str:
    if value.status != "ok":
        return DASH
    count = len(value.by_repeat)
    text = f"{count} of {value.planned}" if count < value.planned else str(count)
    text = f"{text} (no interval)" if count == 1 else text
    every = len(value.records)
    flags = [name if n == every else f"{name} ({n} of {every})" for name, n in sorted(value.flags.items())]
    marks = f"; {', '.join(flags)}" if flags and notes else ""
    return (text if value.by_repeat else "defense evaluation") + marks


def _figures(context: ReportContext, table: Table, values: Sequence[Value], number: int) -> list[str]:
    """Draw a table's figures; return the Markdown that shows them."""
    parts, folder = [], context.folder
    if folder is None:
        return []
    from bench.report.figures import study as study_figures
    from bench.report.figures.style import save

    alone = context.study is not None and not _published(context.study)
    kind = "measured" if alone else "published"
    path = save(study_figures.beside(values, without_published=alone), folder, f"{kind}-{number}")
    if path:
        parts.append(rendered(f"figure_{kind}", heading=table.heading, path=path))
    matrices = {value.row.label: _confusion(value) for value in values if value.row.confusion}
    counted = {label: counts for label, counts in matrices.items() if counts is not None}
    path = save(study_figures.confusion(counted), folder, f"confusion-{number}")
    if path:
        parts.append(rendered("figure_confusion", heading=table.heading, path=path))
    judged = {id(r): r for v in values if v.row.metric.startswith("membership.") for r in v.records}
    found = inferences(context.findings, list(judged.values()))
    # In a usual report the section on membership inference has curves of its own.
    name = f"roc-{number}" if context.on_study_page else f"roc-study-{number}"
    return parts + membership.curves(found, folder, name)


def _published(study: Study) -> bool:
    """Return whether a replication has a published number. Without one, what was measured is drawn alone."""
    return any(row.published is not None for table in study.table for row in table.row)


def _confusion(value: Value) -> Any:
    stored = (record.info.confusion for record in value.records)
    counts = [np.asarray(each, dtype=np.int64) for each in stored if each is not None]
    return np.sum(counts, axis=0) if counts else None
