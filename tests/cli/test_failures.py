"""Whatever happens, a command ends with one sentence and an exit code that pipelines can rely on."""

import errno
import os
import runpy
import sys

import pytest

from bench.cli import failures, main
from bench.cli.failures import UnfinishedError
from bench.errors import StoreError, UsageError
from bench.exit_codes import ExitCode


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, with a command that raises; return exit code and messages."""
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))

    def call(error):
        def command():
            raise error

        monkeypatch.setattr(sys, "argv", ["moatbench", "gate", "a.json", "b.json"])
        monkeypatch.setattr(main, "_command", command)
        with pytest.raises(SystemExit) as stop:
            main.main()
        out, err = capsys.readouterr()
        assert not out
        assert "Traceback" not in err
        return stop.value.code, err

    return call


def reports(tmp_path):
    return list((tmp_path / "cache/errors").glob("moatbench-error-*.txt"))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("name"),
        RuntimeError("two\nlines"),
        RecursionError(),
        MemoryError(),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "template.md"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        GeneratorExit(),
        SystemExit(0),
        SystemExit(1),
        SystemExit("a plugin's words"),
    ],
    ids=repr,
)
def test_an_unexpected_error_is_internal_and_leaves_a_report(ended, error, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a secret of the environment")
    code, err = ended(error)
    assert code == ExitCode.INTERNAL == 70
    assert err.startswith("moatbench: internal error (")
    assert err.count("\n") == 1
    (path,) = reports(tmp_path)
    assert str(path) in err
    text = path.read_text(encoding="utf-8")
    for part in ("moatbench 0.", "Python 3.", "torch", "moatbench gate a.json b.json", "Traceback"):
        assert part in text
    assert "a secret of the environment" not in text


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("no such thing"), 2, "moatbench: no such thing"),
        (StoreError("over\ntwo lines"), 2, "moatbench: over two lines"),
        (UnfinishedError("the run stopped"), 3, "moatbench: the run stopped"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            2,
            "moatbench: out/x: No space left on device",
        ),
        (PermissionError(errno.EACCES, "Permission denied", b"x"), 2, "moatbench: x: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "Too many open files"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_an_expected_error_is_one_sentence_with_its_exit_code(ended, error, code, words, tmp_path):
    found, err = ended(error)
    assert found == code
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not reports(tmp_path)


def test_no_error_gives_the_exit_code_of_a_regression(ended, monkeypatch):
    monkeypatch.setattr(failures, "_report", lambda _: "the report")
    for number in errno.errorcode:
        assert ended(OSError(number, os.strerror(number)))[0] in (ExitCode.USAGE, ExitCode.INTERNAL)


def test_the_report_goes_to_the_folder_for_temporary_files_where_the_cache_cannot_be_written(
    ended, tmp_path, monkeypatch
):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(failures.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    code, err = ended(KeyError("name"))
    assert code == ExitCode.INTERNAL
    (path,) = (tmp_path / "temporary").iterdir()
    assert str(path) in err


def test_the_report_is_printed_where_nothing_can_be_written(ended, monkeypatch):
    def full(path, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(failures, "write_atomically", full)
    monkeypatch.setattr(failures, "_report", lambda _: "the report")
    code, err = ended(KeyError("name"))
    assert code == ExitCode.INTERNAL
    assert err.splitlines()[1] == "the report"


def test_the_module_ends_as_the_command_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moatbench", "gate", "nothing.json", "nothing.json"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("bench", run_name="__main__")
    assert stop.value.code == ExitCode.USAGE
    assert "no file nothing.json" in capsys.readouterr().err


def test_a_broken_installation_is_no_regression(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bench.cli.main", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("bench", run_name="__main__")
    assert stop.value.code == ExitCode.INTERNAL
    assert capsys.readouterr().err.count("\n") == 1
