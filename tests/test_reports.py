"""What is committed under reports/ and shown in README says what a command has measured."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.analysis.study_units import published
from bench.plan.matrix import load_matrix
from bench.plan.shipped_matrices import shipped
from bench.plan.study import SLOT
from bench.report import claims
from bench.report.index import headline_table, write_index
from bench.report.page import PAGES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reports"
REPORTS = sorted(FOLDER.glob("**/report.md"))
GATE = FOLDER / "gate"
OF_MATRICES = [path for path in REPORTS if not (path.parent / "make.py").is_file()]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WAITING = set(
    re.findall(r"`reports/(studies/[^`]+)`", CHANGELOG.partition("- Not run yet:")[2].partition("\n-")[0])
)
"""Replications whose reports are still to be made, as the changelog says."""
STUDIES = {name for name in shipped() if name.startswith("studies/")} - WAITING


def matrix_of(path):
    return path.parent.relative_to(FOLDER).as_posix()


OLD = [path for path in OF_MATRICES if not (path.parent / "provenance.md").is_file()]
"""Reports of one page, by earlier versions: checked as far as they go until they are made anew."""
NEW = [path for path in OF_MATRICES if path not in OLD]
BY_SCRIPTS = [path for path in REPORTS if path not in OF_MATRICES]
OTHER_PAGES = {page.file for page in PAGES}


def pages_of(path):
    return {page.name: page.read_text() for page in sorted(path.parent.glob("*.md"))}


def whole(path):
    """All pages of a report, one after another."""
    return "\n".join(pages_of(path).values())


def first_pages(path):
    """The first page, and those of victims."""
    return {name: text for name, text in pages_of(path).items() if name not in OTHER_PAGES}


def cells_of(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def test_the_reference_reports_are_there():
    assert {matrix_of(path) for path in OF_MATRICES} == {
        "digits",
        "mnist",
        "frontier",
        "tabular",
        "published",
        "published-mnist",
        *STUDIES,
    }
    assert (GATE / "report.md").is_file()
    assert all(not (FOLDER / name / "report.md").exists() and name in shipped() for name in WAITING)


@pytest.mark.parametrize("path", [*OF_MATRICES, GATE / "report.md"], ids=matrix_of)
def test_a_report_has_every_figure_that_it_shows_and_no_other(path):
    shown = set(re.findall(r"\((figures/[^)]+\.svg)\)", whole(path)))
    assert shown
    assert {f"figures/{figure.name}" for figure in (path.parent / "figures").iterdir()} == shown


def test_what_is_said_of_the_gates_error_rates_is_what_its_report_measured():
    measured = " ".join(whole(GATE / "report.md").split())
    other = re.search(r"Power with other seeds:\*\* (\d+)% \(strength\), (\d+)% \(tracked attack\)", measured)
    same = re.search(r"same seeds, in (\d+)% \(strength\)", measured)
    planted = re.search(r"Of (\d+), (\d+) end with exit code 1", measured)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"is found in {other[1]} % of runs whose random seeds are others, and in {same[1]} %" in readme
    assert planted[1] == planted[2]
    assert f"All {planted[1]} defenses that were weakened" in readme
    method = " ".join((ROOT / "METHOD.md").read_text().split())
    assert (
        f"with other seeds in {other[1]} % (strength) and {other[2]} % (tracked attack, utility loss)"
        in method
    )
    least = [int(share) for share in re.findall(r"strength, other seeds: .*? \((\d+)%\)", measured)]
    assert f"the least row in {min(least)} %" in method


@pytest.mark.parametrize("path", [*NEW, *BY_SCRIPTS], ids=matrix_of)
def test_the_first_pages_of_a_report_are_short(path):
    pages = first_pages(path) if path in NEW else {path.name: path.read_text()}
    for name, text in pages.items():
        assert len(text.splitlines()) <= 80, name
        assert len(re.findall(r"!\[", text)) <= 3, name
        tables = [cells_of(line) for line in text.splitlines() if line.startswith("|")]
        assert all(len(cells) <= 5 for cells in tables), name
        assert sum("⚑" in "".join(cells) for cells in tables) <= len(tables) / 5, name


@pytest.mark.parametrize("path", [*NEW, *BY_SCRIPTS], ids=matrix_of)
def test_every_link_of_a_report_leads_to_a_file(path):
    for name, text in pages_of(path).items():
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / link).is_file(), (name, link)
    linked = set(re.findall(r"\]\(([^/)#]+\.md)(?:#[^)]*)?\)", path.read_text()))
    assert linked | {"report.md"} == set(pages_of(path))


@pytest.mark.parametrize("path", NEW, ids=matrix_of)
def test_every_row_of_a_report_adds_up_to_its_printed_digits(path):
    rows = re.findall(r"(\d+\.\d) → (-?\d+\.\d) +\| +(?:\*\*)?(-?\d+\.\d) \(", whole(path))
    assert rows or matrix_of(path) in STUDIES
    for before, after, less in rows:
        assert round(float(before) - float(less), 1) == float(after)


@pytest.mark.parametrize("path", NEW, ids=matrix_of)
def test_no_page_numbers_its_attackers(path):
    assert not re.search(r"\bT\d+\b", whole(path))


@pytest.mark.parametrize("path", OF_MATRICES, ids=matrix_of)
def test_a_report_is_complete_and_can_be_traced(path):
    text = whole(path)
    assert "not complete" not in text
    assert re.search(r"`moatbench run \S+", text)
    assert re.search(r"\b[0-9a-f]{40}\b", text)


@pytest.mark.parametrize("path", NEW, ids=matrix_of)
def test_a_report_holds_what_the_shipped_matrix_asks_for(path, tmp_path):
    shown = re.search(r"```toml\n(.*?)```", whole(path), re.DOTALL)[1]
    (tmp_path / "shown.toml").write_text(shown)
    # Without data, so that optional pools count in neither.
    then = load_matrix(str(tmp_path / "shown.toml")).tasks(data_root=tmp_path)
    assert then == load_matrix(matrix_of(path)).tasks(data_root=tmp_path)


def test_the_gates_validation_holds_the_cells_that_the_gate_compares():
    text = (GATE / "details.md").read_text()
    assert re.search(r"\b[0-9a-f]{40}\b", text)
    bank = GATE / "bank.toml"
    shown = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1].strip()
    stale = "- Stale: `reports/gate/report.md`" in (ROOT / "CHANGELOG.md").read_text()
    assert (shown == bank.read_text().strip()) != stale
    held, compared = (
        {str({**task.spec(), "repeats": 0, "repeat": 0}): task.victim for task in load_matrix(name).tasks()}
        for name in (str(bank), "ci")
    )
    assert {cell for cell, victim in compared.items() if victim in held.values()} <= set(held)
    # The other victim is there for detectors of few false positives, which the validation does not cover.
    others = {victim.splits for victim in compared.values() if victim not in held.values()}
    assert others == {"300/517/250/730"}
    assert f"with the splits {others.pop()}" in (ROOT / "METHOD.md").read_text()


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_page_of_a_replication_has_the_texts_of_its_matrix(name):
    first = (FOLDER / name / "report.md").read_text()
    text = whole(FOLDER / name / "report.md")
    study = load_matrix(name).study
    assert first.startswith(f"# {study.title}\n")
    assert all(f"\n- {choice}\n" in text for choice in study.choices)
    for row in study.rows.values():
        line = re.search(rf"^\| {re.escape(row.label)} *(<br>.*?)?\|.*$", text, re.MULTILINE)
        assert line, row.id
        assert row.published is None or published(row) in line[0], row.id
    # Its text is the matrix', word for word, but for the numbers that stand in the slots.
    for said in (study.meaning, study.verdict):
        words = [re.escape(part) for part in SLOT.split(said)[::2]]
        assert re.search(r"\S.*?".join(words), text), name


def test_the_index_is_what_the_reports_say(tmp_path):
    copy = tmp_path / "reports"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("*.svg"))
    assert write_index(copy).read_text() == (FOLDER / "README.md").read_text()


def test_readme_shows_the_headlines_of_the_replications():
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- studies:.*?-->\n(.*?)<!-- end of studies -->", readme, re.DOTALL)
    assert shown[1].strip() == headline_table(FOLDER, "reports/").strip()


def test_readmes_result_stands_in_the_report():
    readme = (ROOT / "README.md").read_text()
    place, row, shown = re.search(
        r"<!-- result of ([^\s,:]+)(?:, row (T\d+))?:.*?-->\n(.*?)<!-- end of result -->", readme, re.DOTALL
    ).groups()
    report = (ROOT / place).read_text()
    if row:  # of a report of one page
        report = re.search(rf"^\| {row} \|.*$", report, re.MULTILINE)[0]
    said = " ".join(shown.split())
    numbers = re.findall(r"-?\d[\d,]*\.\d+", said) + re.findall(r"([\d,]+) queries", said)
    assert len(numbers) >= 4
    for number in [*numbers, *re.findall(r"`([^`]+)`", said)]:
        assert number in report, number


def test_readmes_first_figure_is_that_of_a_published_result():
    first = re.search(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())[1]
    assert re.fullmatch(r"reports/\w+/figures/published-\d+\.svg", first)
    assert (ROOT / first).is_file()


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    tox = (ROOT / "tox.ini").read_text()
    for environment in re.findall(r"tox -e (\w+)", readme):
        assert f"[testenv:{environment}]" in tox


@pytest.mark.slow
@pytest.mark.parametrize("name", ["owasp-ml05", "watermark"])
def test_a_page_that_a_script_makes_follows_from_its_numbers(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(FOLDER / name, folder)
    for page in folder.glob("*.md"):
        page.unlink()
    subprocess.run([sys.executable, str(folder / "make.py")], check=True, cwd=ROOT)
    pages = {page.name: page.read_bytes() for page in (FOLDER / name).glob("*.md")}
    assert {page.name: page.read_bytes() for page in folder.glob("*.md")} == pages


def test_the_page_of_claims_follows_from_its_rows(tmp_path):
    rows, page = FOLDER / claims.DATA, FOLDER / claims.PAGE
    assert rows.is_file() == page.is_file()
    if rows.is_file():
        shutil.copy(rows, tmp_path)
        assert claims.rewrite_page(tmp_path).read_text() == page.read_text()
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert all((FOLDER / link).is_file() for link in links)
