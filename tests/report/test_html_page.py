"""``report.html``: what it is made of. What a browser does with it is in test_browser.py."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_report import SCRIPT, write_report
from records import AUDITS, INSIDE, NONE, ROUNDED, SOFT, cell, failed, stored

from bench.report.html_page import page, write_html
from bench.report.store_report import write_store_report


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report") / "made")


class Reader(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self._skip = [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="session")
def html(folder):
    return page(folder)


@pytest.fixture(scope="session")
def read(html):
    return Reader(html)


def test_text_of_a_report_stays_text(html, read):
    assert [set(attrs) for attrs in read.all("script")] == [{"type", "id"}, set()]
    assert not read.all("img")
    assert not [attrs for _, attrs in read.elements if any(name.startswith("on") for name in attrs)]
    text = "".join(read.text)
    assert text.count("<script>alert(1)</script>") >= 3
    assert "<script>alert(2)</script>" in text
    assert "alert(" not in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    assert "javascript:" not in [link.get("href", "")[:11] for link in read.all("a")]


def test_nothing_but_a_link_leads_out_of_the_file(read):
    for tag, attrs in read.elements:
        for name in ("src", "srcset", "data", "action", "poster", "background"):
            assert name not in attrs, (tag, attrs)
        if tag == "link":
            assert attrs == {"rel": "icon", "href": "data:,"}
        elif "href" in attrs:
            assert attrs["href"].startswith(("#", "https://example.org/paper")), (tag, attrs)
        if "style" in attrs:
            assert "url(" not in attrs["style"]
    assert "secret" not in "".join(read.text)
    assert "purl.org" not in "".join(str(attrs) for _, attrs in read.elements)


def test_the_policy_allows_two_scripts_and_no_request(html, read):
    (policy,) = [attrs["content"] for attrs in read.all("meta") if "http-equiv" in attrs]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]+' blob:", rules["script-src"])
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules
    assert html.index("Content-Security-Policy") < html.index("<style")


def test_every_page_that_the_first_one_leads_to_is_in_the_file(read):
    assert [attrs["id"] for attrs in read.all("section")] == ["report", "attacks"]
    links = {attrs.get("href") for attrs in read.all("a")}
    places = {attrs["id"] for _, attrs in read.elements if "id" in attrs}
    assert {"#attacks", "#attacks--the-second-part", "#report", "#report--how-sure"} <= links
    assert {link[1:] for link in links if link and link.startswith("#")} <= places
    text = "".join(read.text)
    assert "Of an earlier report" not in text
    for words in ("method", "paper", "bad", "data"):
        assert words in text


def test_figures_are_in_the_file_each_with_its_description_and_its_own_names(read):
    figures = read.all("svg")
    assert len(figures) == 2
    assert figures[0]["aria-label"].startswith("Reduction </script>")
    identities = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(identities) == len(set(identities))
    clips = [attrs["clip-path"] for attrs in read.all("g")]
    assert {clip[5:-1] for clip in clips} <= set(identities)
    assert "none" in "".join(read.text)


def test_numbers_in_tables_are_sorted_by_their_value(read):
    order = [attrs["data-order"] for attrs in read.all("td") if "data-order" in attrs]
    assert order[:5] == ["", "2.8", "-1234.5", "10.5", "95.1"]


def test_html_in_the_parameter_of_a_defense_and_in_an_error_is_text(tmp_path):
    named = (f"rounded(label='{SCRIPT}')",)
    records = [replace(AUDITS[2], task=replace(AUDITS[2].task, defense=named))]
    for repeat in range(2):
        records += [cell(INSIDE, NONE, SOFT, 200, repeat), cell(INSIDE, ROUNDED, SOFT, 200, repeat)]
        records[-1] = replace(records[-1], task=replace(records[-1].task, defense=named))
    records.append(failed(cell(INSIDE, NONE, SOFT, 800, 0), f"ValueError: {SCRIPT}"))
    write_store_report(stored(tmp_path / "store.sqlite", records), tmp_path)
    read = Reader((tmp_path / "report.html").read_text())
    assert "".join(read.text).count(SCRIPT) >= 2
    assert len(read.all("script")) == 2
    assert not read.all("img")


def test_equal_pages_give_equal_bytes(folder, html):
    path = write_html(folder)
    assert path.read_text() == html
    assert write_html(folder).read_bytes() == html.encode()
    path.unlink()
