"""What is committed under reports/ and shown in README says what a command has measured."""

import re
from pathlib import Path

import pytest

from bench.matrix import load_matrix

ROOT = Path(__file__).parents[1]
REPORTS = sorted((ROOT / "reports").glob("*/report.md"))


def test_the_reference_reports_are_there():
    assert [path.parent.name for path in REPORTS] == ["digits", "mnist"]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_a_report_has_every_figure_that_it_shows_and_no_other(path):
    shown = set(re.findall(r"\((figures/[^)]+\.svg)\)", path.read_text()))
    assert shown
    assert {f"figures/{figure.name}" for figure in (path.parent / "figures").iterdir()} == shown


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_a_report_is_complete_and_can_be_traced(path):
    text = path.read_text()
    assert "not complete" not in text
    assert re.search(r"`moatbench run \S+", text)
    assert re.search(r"\b[0-9a-f]{40}\b", text)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_a_report_holds_what_the_shipped_matrix_asks_for(path, tmp_path):
    shown = re.search(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)[1]
    (tmp_path / "shown.toml").write_text(shown)
    # Without data, so that optional pools count in neither.
    then = load_matrix(str(tmp_path / "shown.toml")).tasks(data_root=tmp_path)
    assert then == load_matrix(path.parent.name).tasks(data_root=tmp_path)


def test_readme_shows_the_verdict_of_the_mnist_report():
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- verdict of (\S+):.*?-->\n(.*?)<!-- end of verdict -->", readme, re.DOTALL)
    report = (ROOT / shown[1]).read_text()
    verdict = re.search(r"## Verdict\n(.*?)### T1", report, re.DOTALL)
    assert shown[2].strip() == verdict[1].strip()


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    tox = (ROOT / "tox.ini").read_text()
    for environment in re.findall(r"tox -e (\w+)", readme):
        assert f"[testenv:{environment}]" in tox
