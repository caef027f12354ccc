"""Files and folders that cannot be written are found before a command starts its work."""

import os
from pathlib import Path

import pytest
from programs import program, require_small_disk

from bench.cli.outputs import check_outputs
from bench.errors import UsageError


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder/inner").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("folders", "file", "file is a file, not a folder"),
        ("folders", "file/inner/out", "file is a file, not a folder"),
        ("folders", "/proc/out", "cannot write in /proc/out"),
        ("folders", "x" * 5000, "File name too long"),
        ("folders", "a\0b", "null"),
        ("files", "folder", "folder is a folder; name a file"),
        ("files", "file/inner.json", "file is a file, not a folder"),
        ("files", "/proc/out.json", "cannot write in /proc"),
        ("files", "folder/" + "x" * 5000, "File name too long"),
        ("files", "a\0b", "null"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(places, kind, path, message):
    with pytest.raises(UsageError, match=message) as raised:
        check_outputs(**{kind: {"--out": places / path}})
    assert "\n" not in str(raised.value)


def test_a_loop_of_links_is_one_sentence(places):
    (places / "loop").symlink_to(places / "loop")
    for kind in ("files", "folders"):
        with pytest.raises(UsageError, match="--out"):
            check_outputs(**{kind: {"--out": places / "loop/x"}})


@pytest.mark.parametrize("option", ["files", "folders"])
def test_folders_without_permission_or_space_are_one_sentence(places, option):
    code = (
        "import sys; from pathlib import Path; from bench.cli.failures import guarded\n"
        "from bench.cli.outputs import check_outputs\n"
        "sys.exit(guarded(lambda: check_outputs(**{sys.argv[1]: {'--out': Path(sys.argv[2])}}) or 0))"
    )
    closed = places / "closed"
    closed.mkdir(mode=0o500)
    done = program(places, option, closed / "new", python=("-c", code), obey_permissions=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"moatbench: --out {closed}/new: cannot write in {closed}")
    assert done.stderr.count("\n") == 1


def test_missing_folders_are_made_and_nothing_else_is_left(places):
    check_outputs(
        files={"--json": places / "a/b/x.json", "--summary": None}, folders={"--out": places / "c/d"}
    )
    assert sorted(path.relative_to(places).as_posix() for path in places.rglob("*")) == [
        "a",
        "a/b",
        "c",
        "c/d",
        "file",
        "folder",
        "folder/inner",
    ]


def test_devices_are_written_to_as_they_are(places):
    os.mkfifo(places / "pipe")
    check_outputs(files={"--summary": places / "pipe", "--json": places / "pipe"})
    check_outputs(files={"--summary": Path("/dev/null")})


def test_an_output_replaces_neither_an_input_nor_another_output(places):
    (places / "link").symlink_to(places / "file")
    with pytest.raises(UsageError, match=r"--json .*link is also BASELINE"):
        check_outputs(files={"--json": places / "link"}, inputs={"BASELINE": places / "file"})
    with pytest.raises(UsageError, match=r"--json .*new is also --summary"):
        check_outputs(files={"--summary": places / "new", "--json": places / "folder/../new"})


def test_a_full_disk_is_found(places):
    require_small_disk(places / "folder")
    code = (
        "import pathlib, sys; from bench.cli.failures import guarded\n"
        "from bench.cli.outputs import check_outputs\n"
        "with open('folder/fill', 'wb', buffering=0) as file:\n"
        "    try:\n"
        "        while file.write(bytes(4096)): pass\n"
        "    except OSError: pass\n"
        "sys.exit(guarded(lambda: check_outputs(folders={'--out': pathlib.Path('folder')}) or 0))"
    )
    done = program(places, python=("-c", code), disk=(places / "folder", "64k"))
    assert done.returncode == 2
    assert "cannot write in folder (No space left on device)" in done.stderr
