"""Every command with wrong values of every kind: exit code 2 and one sentence, or it does its work."""

import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from programs import program
from records import META, fake_run

from bench.cli import main
from bench.cli.session import Session
from bench.gate import changes_page, command
from bench.gate.baseline import export, read
from bench.gate.compare import compare
from bench.records import PlannedTask
from bench.report import html_page, store_report
from bench.store import Store


@pytest.fixture(scope="module")
def run_files(tmp_path_factory):
    """A small store and its baseline."""
    folder = tmp_path_factory.mktemp("run")
    records = [
        each
        for each in fake_run()
        if getattr(each.task, "budget", 50) == 50 and each.repeat < 2 and each.status == "ok"
    ]
    with Store(folder / "store.sqlite", create=True) as store:
        store.set_meta(META)
        store.set_plan(PlannedTask(each.key, each.task) for each in records)
        for record in records:
            store.put(record)
    export(read(folder / "store.sqlite"), folder / "baseline.json")
    return folder


@pytest.fixture
def here(run_files, tmp_path, monkeypatch):
    """The working folder, with files of every kind in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("store.sqlite", "baseline.json"):
        Path(name).write_bytes((run_files / name).read_bytes())
    Path("empty").touch()
    Path("text.txt").write_text("no such thing\n")
    Path("latin.toml").write_bytes(b'name = "caf\xe9"\n')
    Path("bytes.toml").write_bytes(bytes(range(256)) * 40)
    Path("list.json").write_text("[1, 2]")
    Path("deep.json").write_text("[" * 100_000)
    Path("number.json").write_text('{"format": "moatbench baseline", "version": ' + "1" * 5000 + "}")
    Path("folder/inner").mkdir(parents=True)
    Path("folder.toml").mkdir()
    Path("folder.py").mkdir()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere/at/all")
    os.mkfifo("pipe")
    for name in ("latin", "blocked"):
        Path(name, "one").mkdir(parents=True)
        Path(name, "one/report.md").write_bytes(b"# caf\xe9\n" if name == "latin" else b"# One\n")
    Path("blocked/README.md").mkdir()
    other = sqlite3.connect("other.sqlite")
    other.execute("create table notes (text)")
    other.commit()
    other.close()
    return tmp_path


@pytest.fixture
def moatbench(here, monkeypatch, capsys, fresh_workers):
    """Run the command line in this process, only as far as before a matrix runs."""
    assert fresh_workers is None

    def planned_only(_session, **_):
        raise SystemExitOfTheTest

    compared = {}

    def compared_once(*runs):
        return compared.setdefault("all", compared.get("all") or compare(*runs))

    monkeypatch.setattr(Session, "run", planned_only)
    monkeypatch.setattr(command, "compare", compared_once)
    monkeypatch.setattr(store_report, "write_report", lambda _records, _meta, out, *_: out / "report.md")
    monkeypatch.setattr(changes_page, "changes_page", lambda *_: ("# a page", "# a page"))
    monkeypatch.setattr(html_page, "write_html", lambda _: None)
    monkeypatch.setattr(store_report, "first_page", lambda *_: "# a page")
    monkeypatch.setenv("MOATBENCH_CACHE", str(here / "cache"))

    def hangs(*_):
        raise TimeoutError("the command hangs")

    def call(*words):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # as those of the command are
        monkeypatch.setattr(sys, "argv", ["moatbench", *words])
        signal.signal(signal.SIGALRM, hangs)
        signal.alarm(20)
        try:
            main.main()
        except SystemExit as stop:
            said = capsys.readouterr()
            return stop.code, said.out, said.err
        finally:
            signal.alarm(0)
        raise AssertionError("the command ended without an exit code")

    return call


class SystemExitOfTheTest(KeyboardInterrupt):
    """Ends a run that is planned: exit code 130."""


PATHS = (
    "",
    ".",
    "/",
    "nowhere/at/all",
    "folder",
    "empty",
    "text.txt",
    "text.txt/below",
    "bytes.toml",
    "list.json",
    "deep.json",
    "number.json",
    "pipe",
    "other.sqlite",
    "loop",
    "dangling",
    "/dev/null",
    "/dev/zero",
    "~",
    "~nobody-of-this-name/x",
    "a\0b",
    "x" * 5000,
    "odd\udcff",
    "-",
    "two\nlines",
)
TEXTS = ("", " ", "=", "a=b", "a=b=c", "\0", "x" * 5000, "odd\udcff", "-1", "1e400", "nan", "∞", "two\nlines")
NUMBERS = ("", "x", "-1", "1.5", "1e400", "nan", "inf", "-inf", "9" * 5000, "∞", "0x10", "1_0_0")
VICTIMS = (
    *TEXTS,
    ":",
    "x.py",
    "x.py:",
    ":make",
    "folder.py:make",
    "text.txt:make",
    "os:getcwd",
    "a:b:c",
    "..:x",
    ".x:y",
    "latin.toml:x",
)
MATRICES = (*PATHS, "latin.toml", "folder.toml", ".toml", "../x", "smoke/", "studies", "SMOKE")

REPORT_OPTIONS = ("--accuracy", "--brier", "--price", "--rate", "--quota")

CASES = [
    *(("run", path) for path in MATRICES),
    *(("run", "smoke", option, path) for option in ("--store", "--out", "--data-root") for path in PATHS[:4]),
    *(("run", "smoke", "--only", text) for text in TEXTS),
    *(("run", "smoke", "--victim", text) for text in VICTIMS),
    *(("run", "smoke", option, text) for option in ("--jobs", "--repeats") for text in NUMBERS),
    *(("run", "smoke", "--device", text) for text in (*TEXTS, "tpu", "CPU", "cuda")),
    *(
        ("run", *words)
        for words in ((), ("smoke", "smoke"), ("--walk",), ("smoke", "--jobs"), ("smoke", "-x"))
    ),
    *(("report", path, "--out", "new") for path in PATHS),
    *(("report", "store.sqlite", "--out", path) for path in PATHS),
    *(("report", *words) for words in ((), ("store.sqlite",), ("store.sqlite", "--out"), ("--out", "new"))),
    *(("report", "store.sqlite", option, text) for option in REPORT_OPTIONS for text in NUMBERS),
    *(("show", path) for path in PATHS),
    *(("show", "store.sqlite", "--sells", text) for text in (*TEXTS, "Labels", "label")),
    *(("show", *words) for words in ((), ("store.sqlite", "store.sqlite"))),
    *(("export", path, "new.csv") for path in PATHS),
    *(
        ("export", "store.sqlite", path)
        for path in (*PATHS, "new", "new.xlsx", "folder/inner", "text.txt/x.csv")
    ),
    *(("export", *words) for words in ((), ("store.sqlite",), ("store.sqlite", "a.csv", "b.csv"))),
    *(("compare", path, "baseline.json") for path in PATHS),
    *(("compare", "store.sqlite", path) for path in PATHS),
    *(
        ("compare", "store.sqlite", "store.sqlite", "--out", path)
        for path in (*PATHS, "store.sqlite")
        if path != "pipe"
    ),
    *(("compare", *words) for words in ((), ("store.sqlite",), ("a", "b", "c"))),
    *(("baseline", path, "--out", "new.json") for path in PATHS),
    *(("baseline", "store.sqlite", "--out", path) for path in (*PATHS, "store.sqlite")),
    *(
        ("baseline", "store.sqlite", "--out", path, "--force")
        for path in (".", "folder", "store.sqlite", "loop")
    ),
    *(("gate", path, "baseline.json") for path in PATHS),
    *(("gate", "baseline.json", path) for path in PATHS),
    *(("gate", "baseline.json", "baseline.json", "--tolerance", text) for text in NUMBERS),
    *(("gate", "baseline.json", "baseline.json", "--allow", text) for text in TEXTS),
    *(
        ("gate", "baseline.json", "store.sqlite", option, path)
        for option in ("--summary", "--json")
        for path in (*PATHS, "store.sqlite", "baseline.json")
        if path != "pipe"  # which waits for its reader, as in a shell
    ),
    *(("gate", *words) for words in ((), ("baseline.json",), ("a", "b", "c"))),
    *(("index", path) for path in (*PATHS, "latin", "blocked")),
    *(("list", text) for text in (*TEXTS, "attack", "Attacks")),
    *(("data", "list", "--data-root", path) for path in PATHS),
    *(("data", "fetch", text) for text in TEXTS),
    *(("data", "fetch", "digits", "--data-root", path) for path in PATHS),
    *(("data", *words) for words in ((), ("walk",), ("fetch",), ("list", "digits"))),
    *((text,) for text in TEXTS if text),
    ("walk", "--help-me"),
    ("--version", "x"),
    (),
]
"""Commands that are wrong, or at least odd."""


def complaints(said):
    return [line for line in said.splitlines() if line.startswith(("moatbench: ", "Error: "))]


COMMANDS = (
    "run",
    "report",
    "show",
    "export",
    "compare",
    "baseline",
    "gate",
    "index",
    "list",
    "data",
    "other",
)


# That of the gate compares two runs a hundred times.
@pytest.mark.parametrize(
    "group", [pytest.param(name, marks=pytest.mark.slow) if name == "gate" else name for name in COMMANDS]
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(moatbench, group):
    failures = []
    for words in CASES:
        if group != (words[0] if words and words[0] in COMMANDS else "other"):
            continue
        code, out, err = moatbench(*words)
        no_complaint = code == 2 and len(complaints(err)) != 1 and words not in {(), ("data",)}
        if code not in (0, 2, 130) or no_complaint or "Traceback" in out + err:
            failures.append(f"{[word[:40] for word in words]}: {code} {err[-300:]!r}")
    assert not failures, "\n".join(failures)


def test_files_that_the_user_may_not_read_are_one_sentence(here):
    for name in ("store.sqlite", "baseline.json", "blocked/one/report.md"):
        Path(name).chmod(0)
    for words in ("report store.sqlite --out new", "gate baseline.json baseline.json", "index blocked"):
        done = program(here, *words.split(), obey_permissions=True)
        assert done.returncode == 2
        assert len(complaints(done.stderr)) == 1
        assert "Traceback" not in done.stderr
