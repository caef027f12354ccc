"""What is committed under reports/ and shown in README says what a command has measured."""

import re
import shutil
from pathlib import Path

import pytest

from bench.analysis.study_units import published
from bench.plan.matrix import load_matrix, shipped
from bench.plan.study import SLOT
from bench.report.index import headline_table, write_index

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reports"
REPORTS = sorted(FOLDER.glob("**/report.md"))
GATE = FOLDER / "gate"
OF_MATRICES = [path for path in REPORTS if path.parent != GATE]
STUDIES = {name for name in shipped() if name.startswith("studies/")}


def matrix_of(path):
    return path.parent.relative_to(FOLDER).as_posix()


def test_the_reference_reports_are_there():
    assert {matrix_of(path) for path in OF_MATRICES} == {"digits", "mnist", "frontier", *STUDIES}
    assert (GATE / "report.md").is_file()


@pytest.mark.parametrize("path", REPORTS, ids=matrix_of)
def test_a_report_has_every_figure_that_it_shows_and_no_other(path):
    shown = set(re.findall(r"\((figures/[^)]+\.svg)\)", path.read_text()))
    assert shown
    assert {f"figures/{figure.name}" for figure in (path.parent / "figures").iterdir()} == shown


@pytest.mark.parametrize("path", OF_MATRICES, ids=matrix_of)
def test_a_report_is_complete_and_can_be_traced(path):
    text = path.read_text()
    assert "not complete" not in text
    assert re.search(r"`moatbench run \S+", text)
    assert re.search(r"\b[0-9a-f]{40}\b", text)


@pytest.mark.parametrize("path", OF_MATRICES, ids=matrix_of)
def test_a_report_holds_what_the_shipped_matrix_asks_for(path, tmp_path):
    shown = re.search(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)[1]
    (tmp_path / "shown.toml").write_text(shown)
    # Without data, so that optional pools count in neither.
    then = load_matrix(str(tmp_path / "shown.toml")).tasks(data_root=tmp_path)
    assert then == load_matrix(matrix_of(path)).tasks(data_root=tmp_path)


def test_the_gates_validation_holds_the_cells_that_the_gate_compares():
    text = (GATE / "report.md").read_text()
    assert re.search(r"\b[0-9a-f]{40}\b", text)
    bank = GATE / "bank.toml"
    shown = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1].strip()
    stale = "- Stale: `reports/gate/report.md`" in (ROOT / "CHANGELOG.md").read_text()
    assert (shown == bank.read_text().strip()) != stale
    held, compared = (
        {str({**task.spec(), "repeats": 0, "repeat": 0}) for task in load_matrix(name).tasks()}
        for name in (str(bank), "ci")
    )
    assert compared <= held


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_page_of_a_replication_has_the_texts_of_its_matrix(name):
    text = (FOLDER / name / "report.md").read_text()
    study = load_matrix(name).study
    assert text.startswith(f"# {study.title}\n")
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


def test_readmes_result_is_that_of_a_row_of_the_report():
    readme = (ROOT / "README.md").read_text()
    place, row, shown = re.search(
        r"<!-- result of (\S+), row (T\d+):.*?-->\n(.*?)<!-- end of result -->", readme, re.DOTALL
    ).groups()
    line = re.search(rf"^\| {row} \|.*$", (ROOT / place).read_text(), re.MULTILINE)[0]
    measured = re.findall(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", line)
    quoted = re.findall(r"(-?[\d.]+) (?:%|pp)\s\(95 % CI (-?[\d.]+) to (-?[\d.]+)\)", shown)
    assert len(quoted) == 3
    assert quoted == measured[:3]
    assert re.search(r"`(\w+\(.*?\))`", shown)[1] in line
    assert re.search(r"([\d,]+) queries", shown)[1] in line


def test_readmes_first_figure_is_that_of_a_published_result():
    first = re.search(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())[1]
    assert re.fullmatch(r"reports/\w+/figures/published-\d+\.svg", first)
    assert (ROOT / first).is_file()


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    tox = (ROOT / "tox.ini").read_text()
    for environment in re.findall(r"tox -e (\w+)", readme):
        assert f"[testenv:{environment}]" in tox
