import ast
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench
from bench.files import cache_root, remove_leftovers, replacement, sealed, unsealed, write_atomically


def names(folder):
    return [path.name for path in folder.iterdir()]


def fail(error):
    raise error


@pytest.mark.parametrize("content", ["text with é\n", b"\x00\xff"])
def test_content_is_written_as_it_is_and_folders_are_made(content, tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(path.parent) == ["file"]


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacement(path) as part:
        _ = part.write_text("half of the n"), fail(KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file(point, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    child = os.fork()
    if not child:
        place = os if point == "fsync" else Path
        monkeypatch.setattr(place, point, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            write_atomically(path, "new")
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old"
    write_atomically(path, "newer")
    assert path.read_text() == "newer"


def test_two_writers_at_once_end_with_the_whole_file_of_the_last(tmp_path):
    path = tmp_path / "file"
    with replacement(path) as one, replacement(path) as other:
        assert one != other
        one.write_text("first")
        other.write_text("second, longer")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_a_reader_never_sees_half_of_a_file_while_threads_write_it(tmp_path):
    path, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(4)]
    write_atomically(path, contents[0])
    writers = [
        threading.Thread(target=lambda c=content: [write_atomically(path, c) for _ in range(50)])
        for content in contents
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert names(tmp_path) == ["file"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("MOATBENCH_CACHE")
    assert cache_root().name == "moatbench"


def test_a_link_stays_a_link_and_a_device_is_written_to_as_it_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "text"
    write_atomically(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(path.exists()) or sync(number))
    write_atomically(path, "text")
    assert seen == [False]


@settings(deadline=None)
@given(st.binary(max_size=200), st.data())
def test_what_is_sealed_comes_back_and_any_flipped_bit_is_noticed(content, data):
    whole = sealed(content)
    assert unsealed(whole) == content
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[place // 8] ^= 1 << place % 8
    assert unsealed(bytes(changed)) is None
    assert unsealed(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert unsealed(whole + b"\0") is None


def test_leftovers_of_others_and_fresh_ones_stay(tmp_path):
    paths = {name: tmp_path / "deep" / name for name in ("a.0123456789abcdef.part", "theirs.part", "a.txt")}
    for path in paths.values():
        write_atomically(path, "")
        os.utime(path, (0, 0))
    fresh = tmp_path / "deep" / "b.0123456789abcdef.part"
    fresh.touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in fresh.parent.iterdir()} == {"theirs.part", "a.txt", fresh.name}
    remove_leftovers(tmp_path / "nowhere")


WRITES = {
    *("write_text", "write_bytes", "savefig", "tofile", "save_file", "savez", "touch", "to_csv", "to_json"),
    *("copyfile", "copytree", "copy2", "symlink_to", "NamedTemporaryFile", "np.save", "torch.save"),
    *("json.dump", "pickle.dump", "joblib.dump", "skops.io.dump"),
}
"""Names of functions that write a file."""
LAST = {"open", *(name.rpartition(".")[-1] for name in WRITES)}
"""The last words of these, and of what opens one: unparsing every call takes long."""
WRITERS = {
    "bench/files.py": "the writer itself",
    "bench/data/image_cache.py": "inside a replacement: too large for memory",
    "bench/report/figures/style.py": "inside a replacement: matplotlib writes the file",
    "bench/cli/outputs.py": "tries whether a folder can be written to",
    "bench/models/kept_answers.py": "into memory, for the writer of checked files",
    "bench/models/own_model.py": "into memory, for the writer of checked files",
    "bench/remote/frames.py": "into memory, or to another process",
    "bench/serve/checkpoints.py": "appends to the checkpoints, and cuts off an unfinished one",
    "bench/gate/command.py": "appends to GitHub's summary of a job",
}


def last_word(function):
    return getattr(function, "attr", None) or getattr(function, "id", "open")


def writes(tree):
    """Yield the lines with a call that writes a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_word(node.func) in LAST:
            name = ast.unparse(node.func)
            modes = [
                *node.args[name == "open" :][:1],
                *(each.value for each in node.keywords if each.arg == "mode"),
            ]
            opened = name.rpartition(".")[-1] == "open" and any(
                isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes
            )
            if opened or name in WRITES or name.rpartition(".")[-1] in WRITES:
                yield node.lineno


def test_every_file_is_written_through_the_one_writer():
    home = Path(bench.__file__).parents[1]
    found = {}
    for package in ("bench", "attacks", "defenses"):
        for path in (home / package).rglob("*.py"):
            if lines := list(writes(ast.parse(path.read_text(encoding="utf-8")))):
                found[path.relative_to(home).as_posix()] = lines
    assert set(found) == set(WRITERS), found


def test_the_test_of_writers_sees_a_writer():
    for line in ("open('b', 'w')", "path.open('ab')", "np.save(x, y)", "p.touch()", "p.open(mode='x')"):
        assert list(writes(ast.parse(line))) == [1]
    assert not list(writes(ast.parse("open('a'); p.open('rb'); p.read_text()")))
