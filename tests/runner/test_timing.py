"""Seconds by name, and the memory of this process alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.runner import timing
from bench.runner.timing import Timings, memory_mib


def test_blocks_are_timed_by_name_and_shared_out():
    made = Timings()
    with made.measure("train"):
        sum(range(10_000))
    assert set(made.wall) == set(made.cpu) == {"train"}
    assert made.wall["train"] > 0
    assert made.share(4).wall["train"] == pytest.approx(made.wall["train"] / 4)


def in_a_new_process(code):
    told = subprocess.run(
        [sys.executable, "-c", f"from bench.runner.timing import memory_mib; import numpy as np; {code}"],
        capture_output=True,
        check=True,
        text=True,
    )
    return [float(each) for each in told.stdout.split()]


def test_memory_is_the_peak():
    before, most, after = in_a_new_process(
        "a = memory_mib(); x = np.ones(2**25); b = memory_mib(); del x; print(a, b, memory_mib())"
    )
    assert before + 240 < most < before + 280
    assert after > most - 1  # Linux counts pages by thread, and adds up late


def test_a_new_process_does_not_inherit_the_mark_of_the_one_that_started_it():
    np.ones(2**26).sum()
    assert memory_mib() > 500
    (mark,) = in_a_new_process("print(memory_mib())")
    assert 5 < mark < 300


def test_memory_is_known_without_proc(monkeypatch):
    with_proc = memory_mib()

    def absent(*_):
        raise FileNotFoundError

    monkeypatch.setattr(timing.Path, "read_text", absent)
    assert memory_mib() >= 0.9 * with_proc
    assert Path is timing.Path
