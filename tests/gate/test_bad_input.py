"""What the gate does with files and runs that are not as they should be: exit code, sentence, decision."""

import json
from dataclasses import replace

import pytest
from in_process import moatbench
from records import LABELS, META, fake_run, stored

from bench.gate.baseline import _checksum
from bench.records import Record


def whole():
    return [each for each in fake_run() if each.status == "ok" and getattr(each.task, "budget", 50) == 50]


def failed(record):
    return Record(record.key, record.task, "failed", error="ValueError: no luck\nTraceback")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the store of a run, and its export."""
    folder = tmp_path_factory.mktemp("gate")
    stored(folder / "run.sqlite", whole())
    assert moatbench(folder, "baseline", "run.sqlite", "--out", "baseline.json")[0] == 0
    return folder


def gate(folder, *words):
    code, text = moatbench(folder, "gate", *map(str, words))
    assert "Traceback" not in text.replace("Traceback\n", "", 1)
    return code, text


def spoilt(folder, name, change, *, checksum=True):
    content = json.loads((folder / "baseline.json").read_text())
    change(content)
    if checksum:
        content["checksum"] = _checksum(content)
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_a_baseline_of_another_matrix_is_wrong_usage_and_says_how_to_go_on(folder, tmp_path):
    records = [each for each in whole() if each.kind != "cell" or each.task.attack != LABELS]
    other = stored(tmp_path / "other.sqlite", records)
    for pair in (("baseline.json", other), (other, "baseline.json")):
        code, text = gate(folder, *pair)
        assert code == 2
        assert "matrix: " in text
        assert "--allow matrix" in text
        assert text.count("\n") == 1


def test_a_truncated_baseline_is_wrong_usage(folder):
    text = (folder / "baseline.json").read_text()
    for share in (0.0, 0.1, 0.5, 0.99):
        (folder / "half.json").write_text(text[: int(share * len(text))])
        code, said = gate(folder, "half.json", "run.sqlite")
        assert code == 2
        assert "neither a store nor complete JSON" in said
        assert said.count("\n") == 1


def test_a_baseline_without_some_of_its_groups_is_never_compared_in_silence(folder):
    def halved(content):
        content["groups"] = content["groups"][::2]

    code, said = gate(folder, spoilt(folder, "damaged.json", halved, checksum=False), "run.sqlite")
    assert code == 2
    assert "is damaged" in said
    code, said = gate(folder, spoilt(folder, "halved.json", halved), "run.sqlite")
    assert code == 2
    assert "in the candidate alone" in said


def test_what_the_baseline_could_not_run_is_inconclusive(folder, tmp_path, caplog):
    lost = [failed(each) if each.kind == "cell" and each.task.defense else each for each in whole()]
    half = stored(tmp_path / "half.sqlite", lost)
    code, said = moatbench(tmp_path, "baseline", str(half), "--out", str(tmp_path / "half.json"))
    assert code == 0
    assert "results failed or are missing" in caplog.text
    for baseline in (half, tmp_path / "half.json"):
        code, said = gate(folder, baseline, "run.sqlite")
        assert code == 0
        assert said.count("the baseline has no result of it") > 1
        assert "inconclusive" in said
        assert gate(folder, baseline, "run.sqlite", "--strict")[0] == 3


@pytest.mark.parametrize(
    "lost",
    [
        lambda record: record.kind == "cell" and record.task.repeat == 0,
        lambda record: record.kind == "cell",
        lambda record: record.kind == "audit",
        lambda _: True,
    ],
)
def test_a_candidate_with_failed_cells_is_decided_and_incomplete(folder, tmp_path, lost):
    records = [failed(each) if lost(each) else each for each in whole()]
    candidate = stored(tmp_path / "candidate.sqlite", records)
    code, said = gate(folder, "baseline.json", candidate)
    assert code == 3
    assert "not everything was compared" in said
    assert "ValueError: no luck" in said


def test_a_regression_next_to_failed_cells_is_a_regression(folder, tmp_path):
    def other(record):
        if record.kind == "audit":
            return replace(record, metrics=record.metrics | {"honest.accuracy": 0.5})
        return failed(record) if record.task.repeat == 0 else record

    candidate = stored(tmp_path / "candidate.sqlite", [other(each) for each in whole()])
    code, said = gate(folder, "baseline.json", candidate)
    assert code == 1
    assert "Regression: " in said


@pytest.mark.parametrize("option", ["--summary", "--json"])
@pytest.mark.parametrize("place", ["file/below", "."])
def test_a_place_that_cannot_be_written_is_wrong_usage_before_anything_is_compared(folder, option, place):
    (folder / "file").write_text("")
    code, said = gate(folder, "baseline.json", "run.sqlite", option, place)
    assert code == 2
    assert option in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["meta"]["victims"].clear(),
        lambda content: content["meta"]["victims"][0].update(fingerprint=""),
    ],
)
def test_a_victim_that_the_baseline_does_not_know_is_wrong_usage(folder, change):
    code, said = gate(folder, spoilt(folder, "unknown.json", change), "run.sqlite")
    assert code == 2
    assert "unknown in the baseline" in said
    assert "--allow victim" in said


def test_a_victim_with_other_test_inputs_is_inconclusive_where_it_is_allowed(folder, tmp_path):
    def fewer(record):
        return replace(record, arrays={name: array[:200] for name, array in record.arrays.items()})

    def other(content):
        content["meta"]["victims"][0].update(fingerprint="0", sizes={"test": 200})

    candidate = stored(tmp_path / "candidate.sqlite", [fewer(each) for each in whole()])
    baseline = spoilt(folder, "other.json", other)
    assert gate(folder, baseline, candidate)[0] == 2
    code, said = gate(folder, baseline, candidate, "--allow", "victim")
    assert code == 0
    assert "the runs share no repeat or no test inputs" in said
    assert gate(folder, baseline, candidate, "--allow", "victim", "--strict")[0] in {1, 3}


@pytest.mark.parametrize(
    "answers",
    [
        {"rows": 2, "classes": 3, "floats": "!!"},
        {"rows": 2, "classes": 3, "floats": "AAAA"},
        {"rows": -1, "classes": 3, "floats": ""},
        {"rows": 0, "classes": 0, "floats": ""},
        {"rows": 1, "classes": 1, "floats": "AADAfw=="},
        "none",
    ],
)
def test_answers_that_cannot_be_are_a_damaged_baseline(folder, answers):
    def change(content):
        content["meta"]["victims"][0]["answers"] = answers

    code, said = gate(folder, spoilt(folder, "answers.json", change), "run.sqlite")
    assert code == 2
    assert "is damaged (meta.victims.0.answers" in said
    assert said.count("\n") == 1


def test_an_older_baseline_of_another_machine_is_compared_with_a_note(folder):
    def older(content):
        content["meta"]["victims"][0]["fingerprint"] = "0"

    path = spoilt(folder, "older.json", older)
    code, said = gate(folder, path, "run.sqlite")
    assert code == 0
    assert f"Victim {META.victims[0].identity} may be another model" in said
    assert gate(folder, path, "run.sqlite", "--strict")[0] == 3
