"""Prints a page of a report, which is Markdown, in the terminal."""

from __future__ import annotations

import re
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

NARROWEST = 20
"""Columns that a page needs at least; in a narrower terminal its lines are cut."""
NARROW = 12
"""Where a table has fewer characters for each column, its rows are lists."""
_IMAGE = re.compile(r"!\[((?:\\.|[^\]\\])*)\]\(([^()\s]+)\)")
_LINK_TO_ITS_NAME = re.compile(r"\[([\w.-]+)\]\(\1\)")
_COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_THEME = Theme({"markdown.code": "bold", "markdown.h1": "bold", "markdown.h2": "bold"})


def print_page(page: str, console: Console | None = None) -> None:
    """Print a page on standard output, in the terminal's width, in colour where it is a terminal.

    ``NO_COLOR`` and ``COLUMNS`` are respected. Figures become their descriptions. Control characters, which
    names and errors may hold, are shown as escapes.
    """
    console = console or Console(theme=_THEME, highlight=False)
    console.width = max(console.width, NARROWEST)
    console.print(_Page(printable(_plain(page)), hyperlinks=False))


def printable(text: str) -> str:
    """Return the text with every character that is no line break and cannot be printed as an escape."""
    return "".join(each if each.isprintable() or each == "\n" else _escape(each) for each in text)


def _escape(character: str) -> str:
    return ascii(character)[1:-1].replace("\\", "\\\\")  # Markdown takes one backslash away


def _plain(page: str) -> str:
    """Return the page with figures as their descriptions, and without what only a browser shows."""
    page = _IMAGE.sub(lambda found: f"*Figure ({found[2]}): {found[1]}*", _COMMENT.sub("", page))
    return _LINK_TO_ITS_NAME.sub(r"\1", page).replace("<br>", " ")


class _WholeTable(TableElement):
    """A table of which nothing is cut off: long words are broken; where it is narrow, rows are lists."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = self.header.row if self.header else None
        if head and self.body and len(head.cells) * NARROW > options.max_width:
            for row in self.body.rows:
                yield Text()
                for title, cell in zip(head.cells, row.cells, strict=False):
                    if cell.content.plain.strip():
                        yield Text.assemble(title.content, ": ", cell.content, overflow="fold")
            yield Text()
            return
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Page(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _WholeTable}
