"""The index of a folder of reports: what was published, what was measured, and where to read on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.report.markdown import DASH, markdown
from bench.report.templates import rendered

_COMMENT = re.compile(r"^<!-- study: (.*) -->$", re.MULTILINE)
_HEADLINE = ("label", "published", "measured", "competent_label", "competent")


@dataclass(frozen=True)
class Entry:
    """A study's page: where it is, and what it tells of itself. ``headline``: texts, or None."""

    path: Path
    title: str
    verdict: str
    headline: Mapping[str, str] | None


def write_index(folder: Path) -> Path:
    """Write ``README.md`` of a folder of reports; return its path.

    Studies are ``studies/NAME/report.md`` in it, other reports ``NAME/report.md``. Raises UsageError
    where there is none, and for a study whose page does not say what the index needs.
    """
    entries, others = studies(folder), sorted(folder.glob("*/report.md"))
    if not entries and not others:
        raise UsageError(f"no report.md in {folder}; moatbench run --out {folder}/NAME writes one")
    links = [f"[{_heading(path)}]({_link(path, folder)})" for path in others]
    text = rendered("index", studies=_table(entries, folder), others=links)
    path = folder / "README.md"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def headline_table(folder: Path, prefix: str = "") -> str:
    """Return the Markdown table of what published numbers turn into under a competent attacker.

    ``prefix`` stands before every link, for a page that lies elsewhere than ``folder``. Studies
    without a headline are left out. Raises as :func:`write_index`.
    """
    rows = [
        [
            entry.title,
            f"{told['published']} ({told['label']})",
            told["measured"],
            f"**{told['competent']}** ({told['competent_label']})",
            f"[report]({prefix}{_link(entry.path, folder)})",
        ]
        for entry in studies(folder)
        if (told := entry.headline)
    ]
    headers = ["study", "published", "same recipe here", "competent attacker", ""]
    return markdown(headers, rows, text=len(headers))


def studies(folder: Path) -> list[Entry]:
    """Return the studies among a folder's reports, by the names of their folders."""
    return [_entry(path) for path in sorted(folder.glob("studies/*/report.md"))]


def _entry(path: Path) -> Entry:
    found = _COMMENT.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise UsageError(f"{path} has no line <!-- study: … -->; write it again with moatbench report")
    try:
        told: Any = json.loads(found[1])
        headline = told["headline"]
        kept = None if headline is None else {name: str(headline[name]) for name in _HEADLINE}
        return Entry(path, str(told["title"]), str(told["verdict"]), kept)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: its line <!-- study: … --> is broken ({type(error).__name__}: {error}); "
            "write it again with moatbench report"
        ) from error


def _table(entries: list[Entry], folder: Path) -> str:
    rows = []
    for entry in entries:
        told = entry.headline or dict.fromkeys(_HEADLINE, DASH)
        title = f"[{entry.title}]({_link(entry.path, folder)})"
        rows.append([title, told["published"], told["measured"], told["competent"], entry.verdict])
    headers = ["study", "published", "same recipe here", "competent attacker", "verdict"]
    return markdown(headers, rows, text=len(headers))


def _heading(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") or path.parent.name


def _link(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
