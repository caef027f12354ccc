"""Reading data sets: what is there, downloads, and loaders on the real files."""

import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import slow_unless
from images import PARTS, shrink, write_mnist_like

from bench.data import datasets
from bench.data.data_files import Presence, available, data_root, fetch, load_pool_source, load_splits
from bench.data.datasets import DATASETS, info
from bench.data.file_layouts import idx_files
from bench.data.torchvision_compat import load_torchvision
from bench.errors import MissingDataError, UsageError


def test_the_root_is_the_override_then_the_environment_then_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOATBENCH_DATA", str(tmp_path))
    assert data_root(tmp_path / "mine") == tmp_path / "mine"
    assert data_root() == tmp_path
    monkeypatch.delenv("MOATBENCH_DATA")
    assert data_root().parts[-2:] != tmp_path.parts[-2:]
    assert data_root().name == "data"


def assert_well_formed(part: datasets.Labelled, size: int, name: str) -> None:
    assert part.x.shape == (size, *info(name).shape)
    assert part.x.dtype == np.float32
    assert part.x.flags.c_contiguous
    assert part.x.min() >= 0
    assert 0.9 < part.x.max() <= 1
    assert part.y.dtype == np.int64
    assert part.y.shape == (size,)
    assert set(np.unique(part.y)) == set(range(info(name).classes))


def pixel_hashes(part: datasets.Labelled) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in part.x}


class TestDigits:
    def test_splits_are_well_formed_and_share_no_image(self, tmp_path: Path) -> None:
        splits = load_splits("digits", 0, tmp_path)
        seen: set[bytes] = set()
        for part, size in zip(PARTS, info("digits").sizes, strict=True):
            labelled = getattr(splits, part)
            assert_well_formed(labelled, size, "digits")
            assert len(labelled) == size
            seen |= pixel_hashes(labelled)
        assert len(seen) == 1797
        assert splits.classes == 10

    def test_loading_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        one, two = load_splits("digits", 5, tmp_path), load_splits("digits", 5, tmp_path)
        assert one.train.x.tobytes() == two.train.x.tobytes()
        assert load_splits("digits", 6, tmp_path).train.x.tobytes() != one.train.x.tobytes()

    def test_as_a_pool_it_gives_every_image(self, tmp_path: Path) -> None:
        assert_well_formed(load_pool_source("digits", tmp_path), 1797, "digits")

    def test_there_is_nothing_to_fetch(self, tmp_path: Path) -> None:
        assert "nothing to fetch" in fetch("digits", tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestRealFiles:
    @pytest.mark.parametrize(
        "name", slow_unless(lambda name: name == "mnist", ["mnist", "fashion-mnist", "usps"])
    )
    def test_splits_are_well_formed_and_share_no_image(self, data_root: Path, name: str) -> None:
        splits = load_splits(name, 0, data_root)
        seen: set[bytes] = set()
        for part, size in zip(PARTS, info(name).sizes, strict=True):
            labelled = getattr(splits, part)
            assert_well_formed(labelled, size, name)
            hashes = pixel_hashes(labelled)
            assert not hashes & seen
            seen |= hashes

    @pytest.mark.parametrize(
        ("name", "size"),
        slow_unless(
            lambda name, _: name != "usps",
            [("mnist", 10_000), ("fashion-mnist", 10_000), ("kmnist", 10_000), ("usps", 7_291)],
        ),
    )
    def test_pool_sources_are_well_formed(self, data_root: Path, name: str, size: int) -> None:
        assert_well_formed(load_pool_source(name, data_root), size, name)

    def test_a_pool_source_is_the_same_on_every_machine(self, data_root: Path) -> None:
        digest = hashlib.sha256(load_pool_source("mnist", data_root).y.tobytes()).hexdigest()
        assert digest.startswith("3e8fa51fe93bf2c6")

    def test_every_official_split_is_counted_by_its_header(self, data_root: Path) -> None:
        found = {(each.name, each.split): each.images for each in available(data_root)}
        assert found["mnist", "train"] == 60_000
        assert found["fashion-mnist", "test"] == 10_000
        assert found["usps", "train"] == 7_291
        assert found["usps", "test"] == 2_007
        assert found["kmnist", "test"] == 10_000

    def test_an_empty_placeholder_is_a_missing_split(self, data_root: Path, tmp_path: Path) -> None:
        raw = tmp_path / "KMNIST" / "raw"
        shutil.copytree(data_root / "KMNIST" / "raw", raw)
        (raw / "train-images-idx3-ubyte").write_bytes(b"")
        assert Presence("kmnist", "train", None) in available(tmp_path)
        with pytest.raises(MissingDataError, match="'kmnist': its train images are missing"):
            load_splits("kmnist", 0, tmp_path)
        assert len(load_pool_source("kmnist", tmp_path)) == 10_000

    def test_a_damaged_file_of_the_right_size_is_an_error_in_one_sentence(
        self, data_root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "usps.bz2").write_bytes(bytes((data_root / "usps.bz2").stat().st_size))
        with pytest.raises(MissingDataError, match=r"cannot read its train images.*data fetch usps"):
            load_pool_source("usps", tmp_path)


class TestMissing:
    @pytest.mark.parametrize("name", [name for name in DATASETS if info(name).fetchable])
    def test_the_message_names_data_set_splits_root_and_command(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(MissingDataError) as error:
            load_splits(name, 0, tmp_path)
        assert str(error.value) == (
            f"data set {name!r}: its train and test {info(name).noun} are missing or not whole in "
            f"{tmp_path}; fetch it with: moatbench data fetch {name} --data-root {tmp_path}"
        )

    def test_the_default_root_is_left_out_of_the_command(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MOATBENCH_DATA", str(tmp_path))
        with pytest.raises(MissingDataError, match=r"moatbench data fetch mnist$"):
            load_pool_source("mnist", data_root())

    @pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x03" + bytes(11), b"<html>" * 9])
    def test_files_that_are_no_idx_files_count_as_missing(self, content: bytes, tmp_path: Path) -> None:
        write_mnist_like(tmp_path / "MNIST" / "raw", "train", np.zeros((4, 28, 28)))
        assert Presence("mnist", "train", 4) in available(tmp_path)
        (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
        assert Presence("mnist", "train", None) in available(tmp_path)

    def test_a_file_cut_short_counts_as_missing(self, tmp_path: Path) -> None:
        write_mnist_like(tmp_path / "MNIST" / "raw", "t10k", np.zeros((4, 28, 28)))
        images = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
        images.write_bytes(images.read_bytes()[:-1])
        assert Presence("mnist", "test", None) in available(tmp_path)

    def test_loading_never_downloads(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        shrink(monkeypatch, "mnist", 8, 4)
        write_mnist_like(tmp_path / "MNIST" / "raw", "train", np.zeros((8, 28, 28)))
        # torchvision wants the files of both splits; it must say so rather than fetch the others.
        with pytest.raises(MissingDataError, match="cannot read its train images"):
            load_pool_source("mnist", tmp_path)


class TestLayouts:
    """Layouts of sets that are rarely at hand, read by torchvision's own loaders from made files."""

    def test_emnist_is_turned_upright(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        shrink(monkeypatch, "emnist-digits", 40, 10)
        lying = np.zeros((40, 28, 28))
        lying[:, 3, :] = 255  # a row in the file is a column of the image
        write_mnist_like(tmp_path / "EMNIST" / "raw", "emnist-digits-train", lying)
        write_mnist_like(tmp_path / "EMNIST" / "raw", "emnist-digits-test", lying[:10])
        for part in PARTS:
            upright = getattr(load_splits("emnist-digits", 0, tmp_path), part).x
            assert upright.shape[1:] == (1, 28, 28)
            assert (upright[:, 0, :, 3] == 1).all()
            assert upright.sum() == len(upright) * 28

    def test_letters_are_classes_from_0(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        shrink(monkeypatch, "emnist-letters", 40, 10)
        layout = DATASETS["emnist-letters"].files
        found = SimpleNamespace(data=np.zeros((3, 28, 28), np.uint8), targets=[1, 26, 13])
        monkeypatch.setattr(type(layout), "_open", lambda *_, **__: found)
        assert layout.read("train", tmp_path)[1].tolist() == [0, 25, 12]

    def test_cifar_is_channels_first_and_old_pickles_do_not_warn(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class OldDtype:
            def __reduce__(self) -> Any:
                return np.dtype, ("u1", 0, 1)  # as NumPy 1 pickled a dtype

        shrink(monkeypatch, "cifar10", 20, 4)
        cls = load_torchvision().datasets.CIFAR10
        for kind in ("train_list", "test_list"):
            monkeypatch.setattr(cls, kind, [[name, None] for name, _ in getattr(cls, kind)])
        monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": None})
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": []}))
        pixels = np.zeros((4, 3, 32, 32), np.uint8)
        pixels[:, 2] = 255  # blue
        batch = {"data": pixels.reshape(4, -1), "labels": [0, 1, 2, 3], "extra": OldDtype()}
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            (folder / name).write_bytes(pickle.dumps(batch))
        splits = load_splits("cifar10", 0, tmp_path)
        assert splits.train.x.shape == (5, 3, 32, 32)
        np.testing.assert_array_equal(splits.test.x, pixels / np.float32(255))


class TestFetch:
    def fake(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None
    ) -> list[tuple[bool, bool]]:
        """Replace torchvision's KMNIST by one that takes what exists for whole, as torchvision does."""
        calls: list[tuple[bool, bool]] = []

        def kmnist(root: str, *, train: bool, download: bool) -> None:
            calls.append((train, download))
            if error is not None:
                raise error
            raw = Path(root) / "KMNIST" / "raw"
            for stem, number in (("train", 8), ("t10k", 4)):
                if not (raw / f"{stem}-images-idx3-ubyte").exists():
                    write_mnist_like(raw, stem, np.zeros((number, 28, 28)))

        shrink(monkeypatch, "kmnist", 8, 4)
        monkeypatch.setattr(load_torchvision().datasets, "KMNIST", kmnist)
        return calls

    def test_it_downloads_both_splits(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        calls = self.fake(monkeypatch)
        assert fetch("kmnist", tmp_path) == f"kmnist: 8 train and 4 test images are in {tmp_path}"
        assert calls == [(True, True), (False, True)]

    def test_it_replaces_a_placeholder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.fake(monkeypatch)
        raw = tmp_path / "KMNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte").touch()
        fetch("kmnist", tmp_path)
        assert Presence("kmnist", "train", 8) in available(tmp_path)
        assert len(list(raw.iterdir())) == 4

    @pytest.mark.parametrize("error", [RuntimeError("Error downloading:\nTried it"), OSError("no route")])
    def test_a_failed_download_is_one_sentence_and_leaves_things_as_they_were(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
    ) -> None:
        self.fake(monkeypatch, error)
        raw = tmp_path / "KMNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte").write_bytes(b"half")
        with pytest.raises(MissingDataError, match=r"could not fetch kmnist into .*") as caught:
            fetch("kmnist", tmp_path)
        assert "\n" not in str(caught.value)
        assert [path.name for path in raw.iterdir()] == ["train-images-idx3-ubyte"]
        assert (raw / "train-images-idx3-ubyte").read_bytes() == b"half"

    def test_what_came_short_is_not_called_fetched(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.fake(monkeypatch)
        shrink(monkeypatch, "kmnist", 12, 4)
        with pytest.raises(MissingDataError, match="not whole"):
            fetch("kmnist", tmp_path)

    def test_an_unknown_name_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="usps"):
            fetch("upsp", tmp_path)


class TestNewEntry:
    """One entry of ``DATASETS`` adds a data set: nothing else names its loader or its files."""

    @pytest.fixture
    def entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout = idx_files("QMNIST", ("q-train", "q-test"), columns_first=True)
        made = replace(
            DATASETS["mnist"],
            name="made",
            official=(("train", 40), ("test", 12)),
            sizes=(10, 10, 10, 12),
            pool=("train", 10),
            files=layout,
            expected={"mlp": 0.5},
        )
        monkeypatch.setitem(DATASETS, "made", made)

        class Loader:
            def __init__(self, root: str, *, train: bool, download: bool) -> None:
                if download:
                    for stem, number in (("q-train", 40), ("q-test", 12)):
                        write_mnist_like(Path(root) / "QMNIST" / "raw", stem, np.zeros((number, 28, 28)))
                number = 40 if train else 12
                self.data, self.targets = np.zeros((number, 28, 28), np.uint8), np.arange(number) % 10
                self.data[:, 3, :] = 255

        monkeypatch.setattr(load_torchvision().datasets, "QMNIST", Loader)

    @pytest.mark.usefixtures("entry")
    def test_it_is_missing_then_fetched_counted_and_read(self, tmp_path: Path) -> None:
        assert Presence("made", "train", None) in available(tmp_path)
        assert fetch("made", tmp_path) == f"made: 40 train and 12 test images are in {tmp_path}"
        assert Presence("made", "test", 12) in available(tmp_path)
        splits = load_splits("made", 0, tmp_path)
        assert [len(getattr(splits, part)) for part in PARTS] == [10, 10, 10, 12]
        assert (splits.train.x[:, 0, :, 3] == 1).all()
        assert info("made").expected == {"mlp": 0.5}
