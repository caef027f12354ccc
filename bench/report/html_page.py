"""Writes a report as one HTML file that needs no network: its pages one below the other, with their figures.

The pages are the Markdown files of the report, so that the file says what they say. Tables can be sorted and
searched: the library is DataTables, in the form in which itables ships it for use without a network.
Nothing in a page is trusted: HTML in it is shown as text, but for a few tags that the templates use, and the
file's content security policy allows two scripts by their checksums and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from bench.files import write_atomically

FIRST = "report.md"
_PAGE = re.compile(r"\[([^\[\]]*)\]\(([\w.-]+\.md)(?:#[\w-]*)?\)")
_ALLOWED = re.compile(r"</?(?:details|summary|br|b|em|strong|sub|sup|picture)>|<br ?/>")
_TAG = re.compile(rf"({_ALLOWED.pattern})|<!--.*?-->|[^<]+|<", re.DOTALL)
_NUMBER = re.compile(r"[*<>≤≥~ ]*([+−-]?\d[\d,]*(?:\.\d+)?)")
_ID = re.compile(r"""(\bid="|href="#|url\(#)([^")]+)""")
_PROLOGUE = re.compile(r"^.*?(?=<svg\b)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)


def write_html(folder: Path) -> Path:
    """Write ``report.html`` beside the ``report.md`` in ``folder``; return its path.

    It holds ``report.md`` and the pages in the same folder that it links to, and those that they link to,
    with the figures that they show. Equal pages and figures give equal bytes.
    """
    path = folder / "report.html"
    write_atomically(path, page(folder))
    return path


def page(folder: Path) -> str:
    """Return the HTML; see :func:`write_html`."""
    links = _linked(folder)
    files = list(links)
    parts = [_Page(file, folder, files).rendered() for file in files]
    script, style, library, library_style = (
        _template_text("report.js"),
        _template_text("report.css"),
        *_library(),
    )
    values = {
        "title": parts[0][0],
        "pages": [
            {"id": _id(file), "name": name, "body": Markup(body)}  # noqa: S704  # escaped while it is made
            for (file, name), (_, body) in zip(links.items(), parts, strict=True)
        ],
        "policy": _policy(script),
        "script": Markup(script),  # noqa: S704  # our own file
        "style": Markup(library_style + "\n" + style),  # noqa: S704  # likewise, and itables'
        "library": library,
    }
    return _environment().get_template("report.html").render(values)


def _linked(folder: Path) -> dict[str, str]:
    """Return all pages that the first one leads to, in the order of links, with what links call them."""
    found, left = {FIRST: "report"}, [FIRST]
    while left:
        text = (folder / left.pop(0)).read_text(encoding="utf-8")
        for words, name in _PAGE.findall(text):
            if name not in found and (folder / name).is_file():
                found[name] = words if words != name else _id(name)
                left.append(name)
    return found


def _id(file: str) -> str:
    return file.removesuffix(".md").replace(".", "-")


class _Page:
    """One page of a report: ``file`` in ``folder``; ``files``: all pages that become parts of the HTML."""

    def __init__(self, file: str, folder: Path, files: Sequence[str]) -> None:
        self._file, self._folder, self._files = file, folder, files
        self._figures = 0
        self._markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
        renderer = _Renderer(self._markdown)
        renderer.drawn = self._figure
        self._markdown.renderer = renderer

    def rendered(self) -> tuple[str, str]:
        """Return the page's first heading, as text, and its HTML."""
        tokens = self._markdown.parse((self._folder / self._file).read_text(encoding="utf-8"))
        title = text = ""
        for place, token in enumerate(tokens):
            if token.type == "table_open":
                token.attrSet("aria-label", text)
            if token.type == "heading_open":
                text = _text(tokens[place + 1])
                title = title or text
                token.attrSet("id", f"{_id(self._file)}--{_slug(text)}")
            for child in token.children or ():
                if child.type == "link_open":
                    self._redirect(child)
        _sortable(tokens)
        renderer = self._markdown.renderer
        return title, str(renderer.render(tokens, self._markdown.options, {}))

    def _redirect(self, link: Token) -> None:
        """Let a link to a page lead to its part of this file; one to another file leads nowhere."""
        target, _, anchor = str(link.attrs.get("href", "")).partition("#")
        if target.startswith(("https://", "http://")):
            link.attrSet("rel", "noopener noreferrer")
            return
        page = target or self._file
        if page in self._files:
            link.attrSet("href", f"#{_id(page)}" + (f"--{anchor}" if anchor else ""))
        else:
            link.attrs.pop("href", None)

    def _figure(self, source: str, words: str) -> str:
        """Return a figure of the report as inline SVG; its description where there is no such file."""
        path = (self._folder / source).resolve()
        if path.suffix != ".svg" or self._folder.resolve() not in path.parents or not path.is_file():
            return f"<em>{escape(words)}</em>"
        self._figures += 1
        # The same name may stand for different things in two figures.
        own = f"{_id(self._file)}-figure-{self._figures}-"
        drawn = _PROLOGUE.sub("", path.read_text(encoding="utf-8"))
        drawn = _ID.sub(lambda found: f"{found[1]}{own}{found[2]}", drawn)
        described = f'<svg role="img" aria-label="{escape(words)}"'
        return f'<span class="figure">{drawn.replace("<svg", described, 1).strip()}</span>'


class _Renderer(RendererHTML):
    """Renders a page; HTML in it is text, and images are figures of the report."""

    drawn: Callable[[str, str], str]
    """Returns the HTML of an image, from its address and description; its page sets this."""

    def html_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Return a block of HTML as text, but for allowed tags."""
        return _harmless(tokens[idx].content)

    html_inline = html_block

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Return a figure."""
        token = tokens[idx]
        words = self.renderInlineAsText(token.children or [], options, env)
        return self.drawn(str(token.attrs.get("src", "")), words)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Return the start of a table in a frame that scrolls, so that the page itself never does."""
        label = escape(str(tokens[idx].attrs.get("aria-label", "")))
        return f'<div class="table" role="region" aria-label="{label}" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Return its end."""
        return "</table></div>\n"


def _harmless(html: str) -> str:
    return "".join(
        found[0] if found[1] else "" if found[0].startswith("<!--") else escape(found[0])
        for found in _TAG.finditer(html)
    )


def _text(inline: Token) -> str:
    """Return the text of an inline token, without its marks."""
    texts = ("text", "code_inline", "html_inline")
    return "".join(child.content for child in inline.children or () if child.type in texts)


def _slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _sortable(tokens: Sequence[Token]) -> None:
    """Give numbers in columns that are aligned right, such as "2.8 (1.7–3.9)", a value to be sorted by."""
    for cell, content in _right_aligned(tokens):
        found = _NUMBER.match(content.rpartition("→")[2])  # of "98.5 → 95.1" what is left
        cell.attrSet("data-order", found[1].replace(",", "").replace("−", "-") if found else "")


def _right_aligned(tokens: Sequence[Token]) -> Iterator[tuple[Token, str]]:
    for cell, content in pairwise(tokens):
        if cell.type == "td_open" and "right" in str(cell.attrs.get("style", "")):
            yield cell, content.content


def _policy(script: str) -> str:
    """Return the content security policy: this script, the library that it loads, no request."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _library() -> tuple[str, str]:
    """Return DataTables as base64, and its style sheet."""
    import itables

    folder = Path(itables.__file__).parent / "html"
    script, style = (folder / f"dt_bundle.{kind}" for kind in ("js", "css"))
    return base64.b64encode(script.read_bytes()).decode(), style.read_text(encoding="utf-8")


def _template_text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
