"""The index of a folder of reports: published and measured numbers, with links to the reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydantic

from bench.analysis.interval_text import DASH
from bench.errors import UsageError
from bench.files import write_atomically
from bench.report import claims, shortfall
from bench.report.markdown import markdown
from bench.report.study_comment import StudyComment
from bench.report.templates import rendered


@dataclass(frozen=True)
class Entry:
    """The page of a replication, and what its comment says."""

    path: Path
    comment: StudyComment


def write_index(folder: Path) -> Path:
    """Write ``README.md`` of a folder of reports; return its path.

    Replications are ``studies/NAME/report.md`` in it, other reports ``NAME/report.md``, the page of published
    claims is ``claims.md``, that on the attack ``auto`` is ``auto.md``. Raises UsageError
    if there is no report, for one that is not UTF-8, and for a replication without the comment that the
    index needs.
    """
    entries, others = studies(folder), sorted(folder.glob("*/report.md"))
    if not entries and not others:
        raise UsageError(f"no report.md in {folder}; moatbench run --out {folder}/NAME writes one")
    others += [path for name in (claims.PAGE, shortfall.PAGE) if (path := folder / name).is_file()]
    links = [f"[{_heading(path)}]({_link(path, folder)})" for path in others]
    text = rendered("index", studies=_table(entries, folder), others=links)
    path = folder / "README.md"
    write_atomically(path, text + "\n")
    return path


def headline_table(folder: Path, prefix: str = "") -> str:
    """Return the Markdown table of published numbers, measured ones, and those of a tuned attack.

    ``prefix`` is put before every link, for a page outside ``folder``. Replications without a headline
    are left out. Raises as :func:`write_index`.
    """
    rows = [
        [
            entry.comment.title,
            f"{headline.published} ({headline.label})",
            headline.measured,
            f"**{headline.competent}** ({headline.competent_label})",
            f"[report]({prefix}{_link(entry.path, folder)})",
        ]
        for entry in studies(folder)
        if (headline := entry.comment.headline)
    ]
    headers = ["replication", "published", "same configuration here", "tuned attack", ""]
    return markdown(headers, rows, text=len(headers))


def studies(folder: Path) -> list[Entry]:
    """Return the replications in a folder of reports, in the order of their folders' names."""
    return [_entry(path) for path in sorted(folder.glob("studies/*/report.md"))]


def _entry(path: Path) -> Entry:
    try:
        comment = StudyComment.found_in(_text(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].lower()]))
        raise UsageError(
            f"{path}: its line <!-- study: … --> is broken ({reason}); write it again with moatbench report"
        ) from error
    if comment is None:
        raise UsageError(f"{path} has no line <!-- study: … -->; write it again with moatbench report")
    return Entry(path, comment)


def _table(entries: list[Entry], folder: Path) -> str:
    rows = []
    for entry in entries:
        comment, shown = entry.comment, [DASH] * 3
        if comment.headline:
            shown = [comment.headline.published, comment.headline.measured, comment.headline.competent]
        rows.append([f"[{comment.title}]({_link(entry.path, folder)})", *shown, comment.verdict])
    headers = ["replication", "published", "same configuration here", "tuned attack", "conclusion"]
    return markdown(headers, rows, text=len(headers))


def _heading(path: Path) -> str:
    first = _text(path).partition("\n")[0]
    return first.lstrip("# ") or path.parent.name


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8; write it again with moatbench report") from error


def _link(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
