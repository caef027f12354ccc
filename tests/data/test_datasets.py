"""The data sets: what is known about them, and disjoint splits."""

import subprocess
import sys

import numpy as np
import pytest
from images import PARTS

from bench.data import datasets
from bench.data.datasets import DATASETS, info
from bench.errors import UsageError


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestInfo:
    def test_importing_the_module_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, bench.data.datasets, bench.data.query_pools\n"
            "print([m for m in ('torch', 'torchvision', 'sklearn', 'scipy') if m in sys.modules])"
        )
        assert run_python(code) == "[]"

    def test_an_unknown_name_gets_the_nearest_ones(self) -> None:
        with pytest.raises(UsageError, match=r"'minst'.*did you mean.*'mnist'"):
            info("minst")

    @pytest.mark.parametrize("name", DATASETS)
    def test_the_splits_fit_into_the_official_ones(self, name: str) -> None:
        this = info(name)
        official = dict(this.official)
        if this.fetchable:
            assert sum(this.sizes[:3]) <= official["train"]
            assert this.sizes[3] <= official["test"]
        else:
            assert sum(this.sizes) == official["all"]
        assert this.pool[1] <= official[this.pool[0]]


class TestSplitIndices:
    @pytest.mark.parametrize("name", DATASETS)
    def test_splits_are_disjoint_and_of_the_stated_sizes(self, name: str) -> None:
        rows = datasets.split_indices(name, seed=0)
        assert tuple(len(rows[part]) for part in PARTS) == info(name).sizes
        together = [rows[part] for part in (PARTS if name == "digits" else PARTS[:3])]
        joined = np.concatenate(together)
        assert len(np.unique(joined)) == len(joined)
        assert len(np.unique(rows["test"])) == len(rows["test"])

    def test_digits_uses_every_image_once(self) -> None:
        rows = datasets.split_indices("digits", seed=3)
        assert sorted(np.concatenate([rows[part] for part in PARTS])) == list(range(1797))

    def test_the_seed_decides_and_nothing_else(self) -> None:
        again, other = datasets.split_indices("mnist", 1), datasets.split_indices("mnist", 2)
        for part in PARTS:
            np.testing.assert_array_equal(datasets.split_indices("mnist", 1)[part], again[part])
        assert not np.array_equal(again["train"], other["train"])
        np.testing.assert_array_equal(again["test"], np.arange(10_000))

    @pytest.mark.parametrize("name", ["digits", "mnist"])
    def test_sizes_of_ones_own_cut_the_same_order_of_images_elsewhere(self, name: str) -> None:
        rows, usual = datasets.split_indices(name, 0, "500/150/297/850"), datasets.split_indices(name, 0)
        assert [len(rows[part]) for part in PARTS] == [500, 150, 297, 850]
        np.testing.assert_array_equal(rows["train"], usual["train"][:500])
        together = np.concatenate([rows[part] for part in (PARTS if name == "digits" else PARTS[:3])])
        assert len(np.unique(together)) == len(together)
        own = "/".join(str(size) for size in info(name).sizes)
        for part, indices in datasets.split_indices(name, 0, own).items():
            np.testing.assert_array_equal(indices, usual[part])

    @pytest.mark.parametrize(
        ("name", "splits", "said"),
        [
            ("digits", "500/150/297/851", "ask for 1,798 images; digits has 1,797"),
            ("mnist", "60000/1/1/10", "ask for 60,002 and 10 images; mnist has 60,000"),
            ("mnist", "10/10/10/10001", "10,000 for test"),
            ("digits", "500/0/297/850", "leave a split without images"),
            *(("digits", text, "is not known") for text in ("", "500/150/297", "500/150/297/x", "whole")),
        ],
    )
    def test_sizes_that_a_data_set_does_not_have_are_refused(self, name: str, splits: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            datasets.split_indices(name, 0, splits)

    def test_data_sets_are_split_independently_of_each_other(self) -> None:
        assert not np.array_equal(
            datasets.split_indices("mnist", 0)["pool"], datasets.split_indices("fashion-mnist", 0)["pool"]
        )


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist"])
def test_official_splits_train_on_all_that_is_not_test(name):
    rows, this = datasets.split_indices(name, 3, "official"), datasets.info(name)
    if len(this.official) == 1:
        together = np.concatenate([rows["train"], rows["test"]])
        assert sorted(together) == list(range(1_797))
        assert len(rows["train"]) == 1_437
    else:
        assert [len(rows["train"]), len(rows["test"])] == [60_000, 10_000]
        assert (rows["test"] == np.arange(10_000)).all()
    for part in ("calibration", "pool"):
        assert set(rows[part]) <= set(rows["train"])
        assert len(rows[part]) == len(datasets.split_indices(name, seed=3)[part])
    assert not set(rows["calibration"]) & set(rows["pool"])


def test_official_splits_of_digits_follow_the_seed():
    one, other = (datasets.split_indices("digits", seed, "official")["test"] for seed in (0, 1))
    assert set(one) != set(other)
