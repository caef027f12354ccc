import re
import sys

import pytest
from made_study import META, load, made

from bench.cli import main
from bench.errors import UsageError
from bench.exit_codes import ExitCode
from bench.plan.study_validation import validated
from bench.report import index
from bench.report.figures import study as study_figures
from bench.report.page import write_report


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """A folder with an ordinary report and two studies, one of them without a headline."""
    for kind in ("beside", "confusion", "roc"):
        monkeypatch.setattr(study_figures, kind, lambda *_, **__: None)
    matrix, tasks = load(tmp_path)
    study = validated(matrix, tasks).model_dump()
    records = [made(task) for task in tasks]
    folder = tmp_path / "reports"
    write_report(records, META.with_values(study=study), folder / "studies/made")
    other = study | {"title": "A | second study", "headline": None}
    write_report(records, META.with_values(study=other), folder / "studies/another")
    (folder / "plain").mkdir()
    (folder / "plain/report.md").write_text("# plain: what it costs\n\nmore\n")
    return folder


def test_the_index_has_a_line_a_study_and_links_every_report(reports):
    text = index.write_index(reports).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [re.search(r"\[(.*?)\]\((.*?)\)", row).groups() for row in rows] == [
        ("A \\| second study", "studies/another/report.md"),
        ("A made study", "studies/made/report.md"),
    ]
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    assert cells[1] == "89.66 %"
    assert re.fullmatch(r"87\.\d % \(8\d\.\d–\d\d\.\d\)", cells[2])
    assert cells[3].startswith("91.5 % (")
    assert cells[4].startswith("published 89.66 %, here 87.")
    assert "– | –" in re.sub(" +", " ", rows[0])
    assert "- [plain: what it costs](plain/report.md)" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (reports / link).is_file()


def test_the_table_of_headlines_is_linked_from_elsewhere_and_leaves_out_who_has_none(reports):
    table = index.headline_table(reports, "reports/")
    assert len(table.splitlines()) == 3
    row = table.splitlines()[2]
    assert "89.66 % (MSE on log-softmax, no defense)" in row
    assert "(the rule, no defense)" in row
    assert "[report](reports/studies/made/report.md)" in row


def test_the_same_reports_give_the_same_index(reports):
    first = index.write_index(reports).read_bytes()
    assert index.write_index(reports).read_bytes() == first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<!-- study: ", "<!-- stud: ", "has no line <!-- study"),
        ('"headline": {', '"headline": [', "is broken (invalid json"),
        ('"title"', '"titel"', "is broken (title: field required)"),
        ('"competent":', '"competence":', "is broken (headline.competent: field required)"),
        ('<!-- study: {"title"', '<!-- study: 5 --> {"title"', "is broken"),
    ],
)
def test_a_study_without_a_readable_comment_is_an_error_that_names_the_file(reports, old, new, said):
    path = reports / "studies/made/report.md"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    for read in (index.write_index, index.headline_table):
        with pytest.raises(UsageError) as caught:
            read(reports)
        assert str(path) in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_without_reports_is_an_error_and_gets_no_index(tmp_path):
    with pytest.raises(UsageError, match=r"no report.md in .*moatbench run --out"):
        index.write_index(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_the_command_writes_the_index_and_prints_the_headlines(reports, monkeypatch, capsys):
    monkeypatch.chdir(reports.parent)
    monkeypatch.setattr(sys, "argv", ["moatbench", "index"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert not stop.value.code
    assert capsys.readouterr().out == index.headline_table(reports, "reports/") + "\n"
    assert (reports / "README.md").is_file()
    monkeypatch.setattr(sys, "argv", ["moatbench", "index", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1
