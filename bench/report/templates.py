"""Fills the templates of reports: layout and fixed paragraphs are Markdown files in ``templates/``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import jinja2


def rendered(name: str, **values: Any) -> str:
    """Return the template ``templates/NAME.md`` filled with ``values``, without empty lines at its ends.

    A block tag takes its line break with it, so that an optional paragraph is ``{% if … %}``, an empty
    line, the paragraph and ``{% endif %}``. Raises jinja2.UndefinedError for a value that is missing.
    """
    return _environment().get_template(f"{name}.md").render(values).strip("\n")


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # Markdown; what is stored of errors is escaped where it is read
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["bullets"] = _bullets
    return found


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
