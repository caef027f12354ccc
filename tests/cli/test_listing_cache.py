"""Lists that are kept between calls, as long as the lines are that made them."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import listing_cache
from bench.files import cache_root


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Count how often a list is made; the cache is empty, the code is two files."""
    home = tmp_path / "home"
    for folder in listing_cache.PACKAGES:
        (home / folder).mkdir(parents=True)
        (home / folder / "one.py").write_text("x = 1")
    monkeypatch.setattr(listing_cache, "HOME", home)
    monkeypatch.setenv("MOATBENCH_CACHE", str(tmp_path / "cache"))
    calls = []
    monkeypatch.setattr(listing_cache, "_made", lambda kind: calls.append(kind) or f"{kind}: {len(calls)}")
    return calls


def test_a_list_is_made_once(made):
    assert [listing_cache.table("attacks") for _ in range(3)] == ["attacks: 1"] * 3
    assert listing_cache.table("defenses") == "defenses: 2"
    assert made == ["attacks", "defenses"]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("folder", listing_cache.PACKAGES)
def test_an_edit_or_a_new_file_makes_it_anew_and_leaves_no_old_one(folder):
    listing_cache.table("attacks")
    (listing_cache.HOME / folder / "one.py").write_text("x = 2")
    assert listing_cache.table("attacks") == "attacks: 2"
    (listing_cache.HOME / folder / "two.py").write_text("")
    assert listing_cache.table("attacks") == "attacks: 3"
    assert len(list((cache_root() / "lists").iterdir())) == 1


@pytest.mark.usefixtures("made")
def test_other_peoples_plugins_are_looked_up_each_time(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ["theirs"])
    assert [listing_cache.table("attacks") for _ in range(2)] == ["attacks: 1", "attacks: 2"]


@pytest.mark.usefixtures("made")
def test_a_cache_that_cannot_be_written_costs_time_alone(monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no")))
    assert [listing_cache.table("attacks") for _ in range(2)] == ["attacks: 1", "attacks: 2"]


@pytest.mark.slow
@pytest.mark.long
def test_python_without_docstrings_does_not_spoil_the_list(tmp_path):
    env = os.environ | {"MOATBENCH_CACHE": str(tmp_path), "PYTHONPATH": str(listing_cache.HOME)}
    texts = []
    for words in ((), ("-OO",), ()):
        call = [sys.executable, *words, "-m", "bench", "list", "defenses"]
        texts.append(subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout)
    assert texts[0] == texts[2] != texts[1]
    assert "rounded" in texts[1]


def test_the_list_that_is_kept_is_the_list():
    from bench.cli import listing

    assert [listing_cache.table("victims") for _ in range(2)] == [listing.table("victims")] * 2
