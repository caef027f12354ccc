"""Writes a study's page: what was published beside what was measured, and what that means."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.findings import Findings
from bench.analysis.membership_results import inferences
from bench.analysis.study_results import Value, evaluate
from bench.analysis.study_units import number, points, published
from bench.metrics.flags import MEANING
from bench.plan.study import SLOT, Study, Table
from bench.report import membership, sections
from bench.report.figures import extraction
from bench.report.figures import study as study_figures
from bench.report.markdown import DASH, markdown
from bench.store import Record

READING = """\
**How to read it.** *Published* is what the source reports, digit for digit; rows without such a number are
controls. *Measured* is this run's mean over repeats. Brackets are 95 % intervals: of fidelity and accuracy
over repeats and test inputs, of membership over repeats and judged records, of what honest users see over
test inputs, of anything else over repeats alone; they hold for this victim. Seconds are medians on this
machine, with minimum and maximum in parentheses; trainings taken from the memo do not count. A single
repeat has no interval. ⚑: see [Flags](#flags)."""
OVERLAP = """\
*overlap*: the inputs sent to the victim are ones that it was trained on, or that the copy is then scored
on, because the published work did so. A victim is surer of what it was trained on, and a copy agrees more
easily on what it has bought; rows without the flag are free of both."""
FIGURE = """\
*Published (diamonds) beside measured (dots); dotted lines join the two, rows without a diamond are
controls.*"""
CONFUSION = "*What the copy says of each class, summed over repeats; correct answers on the grey diagonal.*"


def write(records: Sequence[Record], meta: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.md`` of a study and its figures to the folder ``out``; return the page's path.

    ``meta``: as for an ordinary report, with the study as ``study`` and, as ``missing``, the specs
    that were planned and have no record. The same records and meta give the same bytes.
    """
    study = Study.model_validate(meta["study"])
    findings = Findings.of_run(records, meta)
    whole = "--only" not in str(meta.get("command", ""))
    values = evaluate(study, records, meta.get("missing", ()), whole=whole)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    extraction.draw(findings, {}, folder)
    study_figures.clear(folder)
    parts = [f"# {study.title}", _comment(study, values), *sections.gaps(meta)]
    parts += _body(study, values, findings, folder, "##")
    parts += membership.summary(inferences(findings))
    parts += sections.evaluations(findings, sorted({victim for victim, _ in findings.evaluations}))
    parts += sections.timing(findings)
    parts += [*_flags(records, values), *sections.troubles(findings, meta)]
    parts += [sections.names(findings), *sections.made(meta)]
    return sections.written(out / "report.md", parts)


def section(records: Sequence[Record], meta: Mapping[str, Any], findings: Findings, out: Path) -> list[str]:
    """Return the section of a usual report on the study in ``meta``; its figures go to the folder ``out``."""
    study = Study.model_validate(meta["study"])
    whole = "--only" not in str(meta.get("command", ""))
    values = evaluate(study, records, meta.get("missing", ()), whole=whole)
    return [f"## {study.title}", *_body(study, values, findings, out, "###")]


def _body(
    study: Study, values: Mapping[str, Value], findings: Findings, folder: Path, heading: str
) -> list[str]:
    """Return what a study says, its headings as deep as ``heading``, with its figures in ``folder``."""
    parts = [f"**Verdict.** {filled(study.verdict, values)}", f"Source: {study.source}"]
    for place, table in enumerate(study.table, start=1):
        own = [values[row.id] for row in table.row]
        parts += [
            f"{heading} {table.heading}",
            table.intro,
            rows(own),
            *_drawn(findings, table, own, folder, place),
        ]
    parts += [READING, f"{heading} What the published number meant", filled(study.meaning, values)]
    choices = "\n".join(f"- {choice}" for choice in study.choices)
    return [*parts, f"{heading} Choices", choices] if choices else parts


def _comment(study: Study, values: Mapping[str, Value]) -> str:
    """Return what an index needs to know of this page, as a comment that readers do not see."""
    verdict = " ".join(filled(study.verdict, values).split())
    told: dict[str, Any] = {"title": study.title, "verdict": verdict, "headline": None}
    if study.headline:
        ours, best = values[study.headline.published], values[study.headline.competent]
        told["headline"] = {
            "label": ours.row.label,
            "published": published(ours.row),
            "measured": ours.text,
            "competent_label": best.row.label,
            "competent": best.text,
        }
    # A comment must not hold its own end.
    text = json.dumps(told, ensure_ascii=False).replace("--", "-\\u002d").replace(">", "\\u003e")
    return f"<!-- study: {text} -->"


def filled(text: str, values: Mapping[str, Value]) -> str:
    """Return a study's text with the numbers in its slots."""

    def slot(found: Any) -> str:
        name, _, what = found[1].partition(".")
        value = values[name]
        if what == "published":
            return str(value.row.published)
        if value.status != "ok":
            return f"({value.status})"
        return value.text if what == "interval" else number(value.row, value.interval.value)

    return SLOT.sub(slot, text)


def rows(values: Sequence[Value]) -> str:
    """Return the table of some rows; the columns about publication only where something was published."""
    known = any(value.row.published is not None for value in values)
    body = []
    for value in values:
        label = value.row.label + (f"<br>*{value.note}*" if value.note else "")
        line = [label, published(value.row) or DASH] if known else [label]
        line.append(_measured(value))
        if known:
            line.append(DASH if value.beside is None else points(value.row, value.beside))
        body.append([*line, _repeats(value)])
    headers = ["", "published", "measured", "measured − published", "repeats, flags"]
    return markdown(headers if known else ["", "measured", "repeats, flags"], body)


def _measured(value: Value) -> str:
    reason = f": {escape(value.reason, quote=False)}" if value.reason else ""
    return f"**{value.text}**" if value.status == "ok" else value.status + reason


def _repeats(value: Value) -> str:
    if value.status != "ok":
        return DASH
    count = len(value.by_repeat)
    text = f"{count} of {value.planned}" if count < value.planned else str(count)
    text = f"{text} (no interval)" if count == 1 else text
    every = len(value.records)
    flags = [name if n == every else f"{name} ({n} of {every})" for name, n in sorted(value.flags.items())]
    return (text if value.by_repeat else "audit") + (f" ⚑ {', '.join(flags)}" if flags else "")


def _drawn(findings: Findings, table: Table, values: Sequence[Value], folder: Path, number: int) -> list[str]:
    """Draw a table's figures; return the Markdown that shows them."""
    parts = []
    path = study_figures.save(study_figures.beside(values), folder, f"published-{number}")
    if path:
        parts.append(f"![{table.heading}: published beside measured]({path})\n\n{FIGURE}")
    matrices = {value.row.label: _confusion(value) for value in values if value.row.confusion}
    counted = {label: counts for label, counts in matrices.items() if counts is not None}
    path = study_figures.save(study_figures.confusion(counted), folder, f"confusion-{number}")
    if path:
        parts.append(f"![{table.heading}: confusion matrices]({path})\n\n{CONFUSION}")
    judged = {id(r): r for v in values if v.row.metric.startswith("membership.") for r in v.records}
    found = inferences(findings, list(judged.values()))
    return parts + membership.curves(found, folder, f"roc-{number}")


def _confusion(value: Value) -> Any:
    counts = [np.asarray(r.info["confusion"], dtype=np.int64) for r in value.records if "confusion" in r.info]
    return np.sum(counts, axis=0) if counts else None


def _flags(records: Sequence[Record], values: Mapping[str, Value]) -> list[str]:
    """Return what each flag means, how many cells carry it, and which rows."""
    counts = Counter(flag for record in records for flag in record.info.get("flags", ()))
    body = [
        [flag, MEANING.get(flag, "see METHOD.md"), _rows_with(flag, values), count]
        for flag, count in sorted(counts.items())
    ]
    if not body:
        return ["## Flags", "No cell is flagged."]
    more = OVERLAP if "overlap" in counts else ""
    return ["## Flags", more, markdown(["flag", "meaning", "rows", "cells"], body, text=3)]


def _rows_with(flag: str, values: Mapping[str, Value]) -> str:
    return "; ".join(value.row.label for value in values.values() if value.flags[flag]) or DASH
