"""Seconds by name, and the memory of this process alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import clock
from bench.clock import Clock, memory_mib


def test_blocks_are_timed_by_name_and_shared_out():
    made = Clock()
    with made.measure("train"):
        sum(range(10_000))
    assert set(made.wall) == set(made.cpu) == {"train"}
    assert made.wall["train"] > 0
    assert made.share(4).wall["train"] == pytest.approx(made.wall["train"] / 4)


def test_memory_is_a_high_water_mark():
    before = memory_mib()
    np.ones(2**25).sum()
    assert memory_mib() > before + 200 or before > 1_000
    assert memory_mib() >= before


def test_a_new_process_does_not_inherit_the_mark_of_the_one_that_started_it():
    np.ones(2**26).sum()
    code = "from bench.clock import memory_mib; print(memory_mib())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert memory_mib() > 500
    assert 5 < float(told.stdout) < 300


def test_memory_is_known_without_proc(monkeypatch):
    with_proc = memory_mib()

    def absent(*_):
        raise FileNotFoundError

    monkeypatch.setattr(clock.Path, "read_text", absent)
    assert memory_mib() >= 0.9 * with_proc
    assert Path is clock.Path
