"""Of every cache: its key covers what made the value, and no damaged or half-written file is believed."""

import errno
import logging
import os
import signal
import time
from itertools import product
from pathlib import Path

import pytest
from caches import CACHES, Inputs, document_module, forget_code, prepare

from bench import files, keys
from bench.data import image_cache
from bench.files import LINE, remove_leftovers

NAMES = sorted(CACHES)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of all caches, empty."""
    prepare(tmp_path, monkeypatch)
    return tmp_path


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_kind_of_key_but_that_of_results_belongs_to_a_cache():
    assert {cache.kind for cache in CACHES.values()} == keys.INGREDIENTS.keys() - {"result"}


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_ingredient_of_a_cache_is_edited_below(name):
    cache = CACHES[name]
    edited = {edit.partition(",")[0] for edit in cache.edits}
    constant = {"schedule"} if name == "estimator" else set()  # the text of an estimator's hyperparameters
    assert keys.INGREDIENTS[cache.kind] - constant <= edited
    assert f"{keys.VERSION}Python" in edited


@pytest.mark.parametrize(("name", "edit"), [(name, edit) for name in NAMES for edit in CACHES[name].edits])
def test_another_ingredient_is_another_key(name, edit, root, monkeypatch):
    cache, inputs = CACHES[name], Inputs()
    cache.value(inputs)
    before = cache.kept(root)
    cache.value(inputs)
    assert cache.kept(root) == before
    forget_code(monkeypatch)
    cache.edits[edit](monkeypatch, inputs)
    cache.value(inputs)
    assert set(cache.kept(root)) - set(before)


CODE = [
    ("network", "bench.models.training"),
    ("estimator", "bench.models.networks"),
    ("training", "bench.models.fast.adam"),
    ("images", "bench.data.file_layouts"),
]


@pytest.mark.parametrize(("name", "module"), CODE)
def test_a_corrected_docstring_is_the_same_key(name, module, root, monkeypatch):
    cache = CACHES[name]
    cache.value(Inputs())
    before = cache.kept(root)
    document_module(module)(monkeypatch, None)
    cache.value(Inputs())
    assert cache.kept(root) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_cached_value_is_the_value(name, root):
    cache = CACHES[name]
    made = cache.value(Inputs())
    states = {path: path.stat().st_mtime_ns for path in cache.kept(root)}
    assert cache.value(Inputs()) == made
    assert {path: path.stat().st_mtime_ns for path in cache.kept(root)} == states


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.unlink()  # what is mapped must not change
    path.write_bytes(bytes(content))


PLACES = {
    "first byte": lambda _: 0,
    "checksum": lambda _: LINE - 10,
    "line break": lambda _: LINE - 1,
    "first of the content": lambda _: LINE,
    "before the images": lambda size: min(image_cache.HEAD, size) - 1,
    "a quarter": lambda size: size // 4,
    "the middle": lambda size: size // 2,
    "last byte": lambda size: size - 1,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_reported_in_one_line_and_the_file_is_made_anew(name, root, caplog):
    cache = CACHES[name]
    made = cache.value(Inputs())
    (path,) = cache.kept(root)
    for place in PLACES.values():
        flip(path, place(path.stat().st_size))
        damaged = path.read_bytes()
        caplog.clear()
        assert cache.value(Inputs()) == made
        (line,) = warnings(caplog)
        assert path.name in line
        assert "again" in line
        assert path.read_bytes() != damaged
        caplog.clear()
        assert cache.value(Inputs()) == made
        assert not warnings(caplog)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_an_empty_and_a_longer_file_are_reported_and_made_anew(name, root, caplog):
    cache = CACHES[name]
    made = cache.value(Inputs())
    (path,) = cache.kept(root)
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:LINE], whole[:-1], whole + b"\0", whole[LINE:]):
        path.unlink()
        path.write_bytes(content)
        caplog.clear()
        assert cache.value(Inputs()) == made
        assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_made_anew_without_a_word(name, root, caplog):
    cache = CACHES[name]
    made = cache.value(Inputs())
    (path,) = cache.kept(root)
    path.unlink()
    assert cache.value(Inputs()) == made
    assert not warnings(caplog)
    assert path.is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_place_of_the_folder_costs_the_cache_alone(name, root, caplog):
    cache = CACHES[name]
    made = cache.value(Inputs())
    for path in (*cache.kept(root), root / cache.folder):
        path.unlink() if path.is_file() else path.rmdir()
    (root / cache.folder).touch()
    assert [cache.value(Inputs()) for _ in range(2)] == [made, made]
    (line,) = warnings(caplog)
    assert "nothing is cached" in line


@pytest.mark.parametrize(("name", "code"), list(product(NAMES, [errno.ENOSPC, errno.EROFS])))
def test_a_full_or_read_only_disk_costs_the_cache_alone(name, code, root, caplog, monkeypatch):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    cache = CACHES[name]
    monkeypatch.setattr(Path, "replace", fail)
    first = cache.value(Inputs())
    assert cache.value(Inputs()) == first
    (line,) = warnings(caplog)
    assert os.strerror(code) in line
    assert not cache.kept(root)
    assert not list(root.rglob("*.part"))


def kill_before(monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def kill_after(monkeypatch):
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *a: replace(*a) and os.kill(os.getpid(), signal.SIGKILL))


def kill_in_the_middle(monkeypatch):
    write = Path.write_bytes

    def half(path, content):
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Path, "write_bytes", half)
    monkeypatch.setattr(image_cache, "sealed", lambda _: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("kill", [kill_before, kill_after, kill_in_the_middle])
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_writer_leaves_nothing_that_is_believed(name, kill, root, caplog, monkeypatch):
    cache = CACHES[name]
    child = os.fork()
    if not child:
        kill(monkeypatch)
        try:
            cache.value(Inputs())
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    left = list((root / cache.folder).iterdir())
    assert len(left) == 1
    value = cache.value(Inputs())
    assert not warnings(caplog)
    for path in cache.kept(root):
        path.unlink()
    assert cache.value(Inputs()) == value
    remove_leftovers(root)
    assert [path for path in left if path.suffix == ".part"] == list(root.rglob("*.part"))
    old = time.time() - files.LEFTOVER_SECONDS - 60
    for path in root.rglob("*.part"):
        os.utime(path, (old, old))
    remove_leftovers(root)
    assert not list(root.rglob("*.part"))
    assert cache.kept(root)
