"""What the index of reports reads of a replication's page: a comment in its Markdown."""

from __future__ import annotations

import json
import re

from bench.records import Typed

_COMMENT = re.compile(r"^<!-- study: (.*) -->$", re.MULTILINE)


class Headline(Typed):
    """Texts for the index: what was published and measured, and what a tuned attack reaches."""

    label: str
    published: str
    measured: str
    competent_label: str
    competent: str


class StudyComment(Typed):
    """Title, conclusion and headline of a replication."""

    title: str
    verdict: str
    headline: Headline | None

    def as_comment(self) -> str:
        """Return the line of Markdown; a comment must not hold its own end."""
        text = json.dumps(self.values(), ensure_ascii=False).replace("--", "-\\u002d").replace(">", "\\u003e")
        return f"<!-- study: {text} -->"

    @classmethod
    def found_in(cls, page: str) -> StudyComment | None:
        """Return the comment of a page, None without one; raises ValidationError if it is broken."""
        found = _COMMENT.search(page)
        return None if found is None else cls.model_validate_json(found[1])
