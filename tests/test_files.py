import threading

import pytest

from bench.files import cache_root, replacement, write_atomically


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
