"""Images are converted once, cached, and memory-mapped by every worker."""

import hashlib
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from images import PARTS, shrink, write_mnist_like

from bench.data import data_files, datasets, image_cache
from bench.data.data_files import load_pool_source, load_splits
from bench.data.datasets import DATASETS, Labelled


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data set that is like MNIST, and small; a cache of its own."""
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
    shrink(monkeypatch, "mnist", 40, 12)
    draw(tmp_path)
    return tmp_path


def draw(root, seed=0):
    rng = np.random.default_rng(seed)
    for stem, n in (("train", 40), ("t10k", 12)):
        write_mnist_like(root / "MNIST" / "raw", stem, rng.integers(0, 256, (n, 28, 28)))


def reads(monkeypatch):
    """Return the list of official splits that are read from now on."""
    seen, real = [], data_files._read
    monkeypatch.setattr(
        data_files, "_read", lambda this, split, root: (seen.append(split), real(this, split, root))[1]
    )
    return seen


def equal(one, other):
    return all(
        np.array_equal(getattr(one, part).x, getattr(other, part).x)
        and np.array_equal(getattr(one, part).y, getattr(other, part).y)
        for part in PARTS
    )


def kept(root):
    return sorted((root / "cache" / "images").iterdir())


def test_a_split_is_read_once_and_mapped(root, monkeypatch):
    seen = reads(monkeypatch)
    first = load_splits("mnist", 0, root)
    assert seen == ["train", "test"]
    again = load_splits("mnist", 0, root)
    assert seen == ["train", "test"]
    assert equal(first, again)
    for part in PARTS:
        x = getattr(again, part).x
        assert isinstance(x.base, np.memmap)
        assert type(x) is np.ndarray
        assert x.dtype == np.float32
    assert len(kept(root)) == len(PARTS)


def test_what_is_mapped_is_what_the_files_say(root):
    rows = datasets.split_indices("mnist", 0)
    raw = data_files._read(DATASETS["mnist"], "train", root)
    pool = load_splits("mnist", 0, root).pool
    assert np.array_equal(pool.x, raw[0][rows["pool"]].astype(np.float32) / np.float32(255))
    assert np.array_equal(pool.y, raw[1][rows["pool"]])
    assert pool.digest == hashlib.sha256(pool.x.tobytes() + pool.y.tobytes()).hexdigest()
    assert pool.digest == Labelled(pool.x, pool.y).digest


def test_converting_by_slices_changes_nothing(root, monkeypatch):
    whole = load_splits("mnist", 0, root)
    monkeypatch.setattr(image_cache, "SLICE", 3)
    monkeypatch.setenv("MOATBENCH_CACHE", str(root / "other"))
    assert equal(whole, load_splits("mnist", 0, root))


def test_other_seeds_and_other_files_are_other_images(root):
    one, other = load_splits("mnist", 0, root), load_splits("mnist", 1, root)
    assert not equal(one, other)
    draw(root, seed=1)
    raw = root / "MNIST" / "raw"
    for path in raw.iterdir():
        os.utime(path, ns=(1, 1))
    assert not equal(one, load_splits("mnist", 0, root))


def test_images_of_other_code_or_of_older_files_take_the_place_of_theirs(root, monkeypatch):
    load_splits("mnist", 0, root)
    load_splits("mnist", 1, root)
    before = kept(root)
    for path in (root / "MNIST" / "raw").iterdir():
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr(data_files, "_code", lambda: "other code")
    load_splits("mnist", 0, root)
    after = kept(root)
    assert len(after) == len(before)
    assert len(set(after) - set(before)) == len(PARTS)


def test_a_pool_of_another_data_set_is_mapped_too(root, monkeypatch):
    seen = reads(monkeypatch)
    first, again = load_pool_source("mnist", root), load_pool_source("mnist", root)
    assert seen == ["train"]
    assert np.array_equal(first.x, again.x)
    assert isinstance(again.x.base, np.memmap)


def test_writing_to_mapped_images_changes_nobody_elses(root):
    first = load_splits("mnist", 0, root)
    first.pool.x[:] = 7
    assert load_splits("mnist", 0, root).pool.x.max() <= 1


@pytest.mark.parametrize("size", [0, 50, image_cache.HEAD, -1])
def test_files_that_were_cut_are_reported_and_converted_again(root, caplog, size):
    first = load_splits("mnist", 0, root)
    for path in kept(root):
        content = path.read_bytes()
        path.unlink()  # what is mapped must not shrink
        path.write_bytes(content[:size])
    with caplog.at_level(logging.WARNING):
        assert equal(first, load_splits("mnist", 0, root))
    assert caplog.text.count("are damaged") == len(PARTS)
    caplog.clear()
    assert equal(first, load_splits("mnist", 0, root))
    assert not caplog.records


def test_a_cache_that_cannot_be_written_to_costs_memory_only(root, monkeypatch, caplog):
    first = load_splits("mnist", 0, root)
    (root / "file").write_text("")
    monkeypatch.setenv("MOATBENCH_CACHE", str(root / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert equal(first, load_splits("mnist", 0, root))
    assert "every worker holds its own" in caplog.text


def test_nothing_half_written_is_left(root, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "sealed", broken)
        with pytest.raises(KeyboardInterrupt):
            load_splits("mnist", 0, root)
    assert kept(root) == []


def test_what_comes_with_scikit_learn_is_not_kept(root):
    load_splits("digits", 0, root)
    assert not (root / "cache").exists()


def test_pages_that_nobody_looks_at_take_no_memory(tmp_path):
    code = """
import resource, sys
import numpy as np
from bench.data.image_cache import cached_images

def take(here):
    rows = np.arange(here.start, here.stop)
    return np.ones((len(rows), 1, 64, 64), np.float32), rows

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x, _, _ = cached_images("blank", "0", 20_000, lambda: take)
assert x[19_999].sum() == 64 * 64
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = []
    for _ in range(2):
        call = [sys.executable, "-c", code]
        told = subprocess.run(
            call, capture_output=True, check=True, env=os.environ | {"MOATBENCH_CACHE": tmp_path}
        )
        grown.append(int(told.stdout))
    size = 20_000 * 64 * 64 * 4 // 2**20
    assert grown[1] < 0.1 * size
    assert grown[0] < size


def test_two_that_convert_at_once_end_with_the_same(root, monkeypatch):
    write = image_cache._write

    def overtaken(part, rows, take):
        write(part, rows, take)
        path = part.with_name(part.name[:-22])
        write(path, rows, take)
        finished.append(path)

    finished = []
    monkeypatch.setattr(image_cache, "_write", overtaken)
    first = load_splits("mnist", 0, root)
    monkeypatch.undo()
    assert len(finished) == len(PARTS)
    assert first.pool.digest == Labelled(first.pool.x, first.pool.y).digest
