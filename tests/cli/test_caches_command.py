"""``moatbench cache`` shows what can be made again, and deletes nothing else."""

import pytest
from in_process import moatbench

from bench.cli.caches import KINDS, readable
from bench.files import write_checked

NAMES = {
    "victims": "digits-mlp-0a1b.safetensors",
    "images": "mnist-train-0a1b.images",
    "lists": f"attacks-{'a' * 16}.txt",
    "trainings": "0a1b.safetensors",
}


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Return the path of one file of each kind, by kind."""
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
    folders = dict.fromkeys(KINDS, tmp_path / "cache") | {"trainings": tmp_path / "results/mine"}
    paths = {
        kind: folders[kind] / ("store.memo" if kind == "trainings" else kind) / name
        for kind, name in NAMES.items()
    }
    for path in paths.values():
        write_checked(path, b"\0" * 2048)
    return paths


@pytest.mark.usefixtures("caches")
def test_every_kind_is_listed_with_its_size(tmp_path):
    code, text = moatbench(tmp_path, "cache", "list")
    assert code == 0
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert all("2.1 KiB" in rows[kind] for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_named_kind_is_deleted(caches, tmp_path, kind):
    code, text = moatbench(tmp_path, "cache", "clear", kind)
    assert (code, text) == (0, f"{kind}: 2.1 KiB freed, 1 file\n")
    assert {name for name, path in caches.items() if not path.exists()} == {kind}


def test_without_a_kind_all_are_deleted(caches, tmp_path):
    assert moatbench(tmp_path, "cache", "clear")[0] == 0
    assert not any(path.exists() for path in caches.values())


def test_files_that_are_not_moatbenchs_stay(caches, tmp_path):
    folder = caches["victims"].parent
    (folder / "notes.txt").write_text("mine")
    (folder / "other-0a1b.safetensors").write_bytes(b"a model of the user's")
    (folder / "link-0a1b.safetensors").symlink_to(caches["trainings"])
    (tmp_path / "results/mine/store.sqlite").write_bytes(b"results")
    assert moatbench(tmp_path, "cache", "clear")[0] == 0
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"notes.txt", "other-0a1b.safetensors", "link-0a1b.safetensors"}
    assert (tmp_path / "results/mine/store.sqlite").exists()


def test_an_empty_cache_is_listed_and_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "none"))
    assert moatbench(tmp_path, "cache", "list")[0] == 0
    assert moatbench(tmp_path, "cache", "clear") == (
        0,
        "\n".join(f"{kind}: 0 B freed, 0 files" for kind in KINDS) + "\n",
    )


def test_an_unknown_kind_is_a_usage_error(tmp_path):
    code, text = moatbench(tmp_path, "cache", "clear", "victim")
    assert code == 2
    assert "victims" in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**40, "3072.0 GiB")]
)
def test_sizes_are_readable(size, text):
    assert readable(size) == text
