"""The data set adult: its files, its columns, and splits without a shifted group and without copies."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from census import SIZES, use_census

from bench.data import adult, data_files
from bench.data.datasets import DATASETS, PARTS, info
from bench.errors import MissingDataError, UsageError


@pytest.fixture
def root(tmp_path, monkeypatch):
    use_census(monkeypatch, tmp_path)
    return tmp_path


def test_missing_values_labels_and_columns_are_read_as_the_files_have_them(root):
    lines = (root / "adult" / "adult.test").read_text().splitlines()[1:-1]
    x, y = info("adult").files.read("test", root)
    assert x.shape == (900, 12)
    assert x.dtype == np.float32
    assert adult.SPACE.problem(x) == ""
    for line, row, label in zip(lines, x, y, strict=True):
        fields = line.split(", ")
        assert label == fields[-1].startswith(">50K")
        del fields[2:4]
        for column, value, text in zip(adult.COLUMNS, row, fields, strict=False):
            if text == "?":
                assert np.isnan(value)
            elif column.kind == "category":
                assert column.categories[int(value)] == text
            else:
                assert int(text) == value


def test_splits_have_their_sizes_and_nobody_from_elsewhere(root):
    splits = data_files.load_splits("adult", 0, root)
    assert tuple(len(getattr(splits, part)) for part in PARTS) == SIZES
    assert splits.space == adult.SPACE
    assert splits.groups == ("sex", "race")
    for part in PARTS:
        assert not adult.from_elsewhere(getattr(splits, part).x).any()
    assert adult.from_elsewhere(splits.shifted.x).all()
    every, _ = info("adult").files.read("train", root)
    assert len(splits.shifted) == adult.from_elsewhere(every).sum()


def test_a_row_that_equals_one_of_another_split_is_not_in_the_test_split(root):
    learnt = (root / "adult" / "adult.data").read_text().splitlines()[:-1]
    path = root / "adult" / "adult.test"
    head, *lines = path.read_text().splitlines()
    size = path.stat().st_size
    lines[:300] = [line + "." for line in learnt[:300]]
    content = "\n".join([head, *lines[:-1]]) + "\n"
    path.write_text(content.ljust(size, "\n")[:size])
    if path.stat().st_size != size:
        pytest.fail("the file has to keep its size")
    splits = data_files.load_splits("adult", 0, root, "600/150/400/300")
    others = {row.tobytes() for part in PARTS[:3] for row in getattr(splits, part).x}
    assert not others & {row.tobytes() for row in splits.test.x}
    (note,) = splits.notes
    official, _ = info("adult").files.read("test", root)
    kept = official[~adult.from_elsewhere(official)]
    equal = sum(row.tobytes() in others for row in kept)
    assert note.startswith(f"{equal} of 900 official test rows equal a row of training")
    assert equal > 100


def test_official_splits_are_taken_as_they_are(root):
    splits = data_files.load_splits("adult", 0, root, "official")
    assert (len(splits.train), len(splits.test)) == (1_600, 900)
    assert splits.shifted is None


def test_more_rows_than_are_left_is_a_sentence(root):
    with pytest.raises(UsageError, match="ask for 1,400 and 300 rows; adult has 1,280"):
        data_files.load_splits("adult", 0, root, "1000/200/200/300")


def test_a_value_that_the_column_does_not_have_is_reported_with_the_command_that_fetches_it(root):
    path = root / "adult" / "adult.data"
    path.write_text(path.read_text().replace("Private", "Privace"))
    with pytest.raises(MissingDataError, match=r"workclass has unknown values: Privace.*data fetch adult"):
        data_files.load_splits("adult", 0, root)


def test_it_is_downloaded_by_pooch_with_its_md5(tmp_path, monkeypatch):
    fetched = []

    def retrieve(url, known_hash, fname, path):
        fetched.append((url, known_hash))
        path.mkdir(exist_ok=True)
        split = "train" if fname == "adult.data" else "test"
        (path / fname).write_bytes(bytes(adult.FILES[split][1]))

    monkeypatch.setitem(sys.modules, "pooch", SimpleNamespace(retrieve=retrieve))
    assert "32,561 train and 16,281 test rows" in data_files.fetch("adult", tmp_path)
    assert fetched == [(f"{adult.URL}{name}", f"md5:{md5}") for name, _, md5 in adult.FILES.values()]


def test_without_pooch_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingDataError, match=r"pip install 'moatbench\[tables\]'"):
        data_files.fetch("adult", tmp_path)


def test_what_is_known_of_it_fits_the_space():
    assert DATASETS["adult"].shape == (12,)
    assert {column.name for column in adult.COLUMNS} >= set(DATASETS["adult"].groups)
