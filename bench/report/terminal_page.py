"""Prints a page of a report, which is Markdown, in the terminal."""

from __future__ import annotations

import re

from rich.console import Console
from rich.markdown import Markdown
from rich.theme import Theme

NARROWEST = 20
"""Columns that a page needs at least; in a narrower terminal its lines are cut."""
_IMAGE = re.compile(r"!\[((?:\\.|[^\]\\])*)\]\(([^()\s]+)\)")
_COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_THEME = Theme({"markdown.code": "bold", "markdown.h1": "bold", "markdown.h2": "bold"})


def print_page(page: str, console: Console | None = None) -> None:
    """Print a page on standard output, in the terminal's width, in colour where it is a terminal.

    ``NO_COLOR`` and ``COLUMNS`` are respected. Figures become their descriptions. Control characters, which
    names and errors may hold, are shown as escapes.
    """
    console = console or Console(theme=_THEME, highlight=False)
    console.width = max(console.width, NARROWEST)
    console.print(Markdown(printable(_plain(page)), hyperlinks=False))


def printable(text: str) -> str:
    """Return the text with every character that is no line break and cannot be printed as an escape."""
    return "".join(each if each.isprintable() or each == "\n" else _escape(each) for each in text)


def _escape(character: str) -> str:
    return ascii(character)[1:-1].replace("\\", "\\\\")  # Markdown takes one backslash away


def _plain(page: str) -> str:
    """Return the page with figures as their descriptions, and without what only a browser shows."""
    page = _IMAGE.sub(lambda found: f"*Figure ({found[2]}): {found[1]}*", _COMMENT.sub("", page))
    return page.replace("<br>", " ")
