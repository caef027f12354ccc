"""The decision is printed first and decides the exit code, whatever becomes of the files with its details."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from records import LABEL_ONLY, fake_run, stored

from bench.errors import UsageError
from bench.gate import command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Stores by the exit code of their comparison with the first."""
    folder = tmp_path_factory.mktemp("runs")
    records = [each for each in fake_run() if each.status == "ok" and getattr(each.task, "budget", 50) == 50]
    weaker = [
        replace(each, metrics={"extraction.fidelity": 1.0}, arrays={"agreement": np.ones(300, np.uint8)})
        if each.kind == "cell" and each.task.defense == LABEL_ONLY
        else each
        for each in records
    ]
    return {0: stored(folder / "same.sqlite", records), 1: stored(folder / "weaker.sqlite", weaker)}


@pytest.fixture
def compared(runs, capsys, caplog, monkeypatch):
    """Compare; return the exit code, what was printed and the warnings."""
    monkeypatch.delenv(command.SUMMARY, raising=False)

    def call(code, **options):
        caplog.clear()
        found = command.gate(runs[0], runs[code], tolerance=2, **options)
        return found, capsys.readouterr().out, [record.getMessage() for record in caplog.records]

    return call


def full(path, _content):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize("code", [0, 1])
def test_a_disk_that_is_full_changes_neither_the_decision_nor_the_exit_code(
    compared, code, tmp_path, monkeypatch
):
    found, decision, warnings = compared(code, summary=tmp_path / "summary.md", json=tmp_path / "all.json")
    assert (found, warnings) == (code, [])
    monkeypatch.setattr(command, "write_atomically", full)
    found, printed, warnings = compared(code, summary=tmp_path / "summary.md", json=tmp_path / "all.json")
    assert (found, printed) == (code, decision)
    assert [line.partition(": ")[0] for line in warnings] == ["warning", "warning"]
    assert f"--summary {tmp_path}/summary.md was not written: No space left on device" in warnings[0]
    assert f"--json {tmp_path}/all.json was not written" in warnings[1]


@pytest.mark.parametrize("name", ["/dev/full", "nowhere/at/all", ".", "a\0b"])
@pytest.mark.parametrize("code", [0, 1])
def test_a_job_summary_that_cannot_be_written_is_a_warning(compared, code, name, monkeypatch):
    monkeypatch.setattr(command.os, "environ", {command.SUMMARY: name})
    found, printed, warnings = compared(code)
    assert found == code
    assert printed
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: $GITHUB_STEP_SUMMARY")


def test_the_decision_is_printed_before_anything_is_written(compared, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(command, "write_atomically", lambda *_: seen.append(capsys.readouterr().out))
    compared(1, summary=tmp_path / "summary.md")
    assert "label_only" in seen[0]


def test_a_tolerance_that_is_no_number_is_refused(runs):
    for value in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--tolerance"):
            command.gate(runs[0], runs[1], tolerance=value)
