"""Two runs at once that share an empty cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.plan.matrix import load_matrix
from bench.runner.local_backend import WorkerSettings
from bench.runner.run import run
from bench.store import Store

MATRIX = """
repeats = 1
[[block]]
defense = "none"
attack = "copycat"
surrogate = "logistic"
budget = 20
"""


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_workers")
def test_two_runs_that_share_an_empty_cache_both_finish_with_right_results(matrix_file, tmp_path):
    file = matrix_file(MATRIX)
    home = str(Path(bench.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": home, "MOATBENCH_CACHE": str(tmp_path / "cache")}
    runs = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bench", "run", str(file), "--jobs", "1"),
                *("--store", str(tmp_path / name / "store.sqlite"), "--out", str(tmp_path / name)),
            ],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    for each in runs:
        text, _ = each.communicate(timeout=500)
        assert each.returncode == 0, text
        assert "damaged" not in text
    tasks = load_matrix(str(file)).tasks()
    with Store(tmp_path / "alone.sqlite", create=True) as store:
        run(tasks, store, WorkerSettings(tmp_path, None), jobs=1)
        alone = [record.comparable() for record in store.records()]
    for name in ("one", "two"):
        with Store(tmp_path / name / "store.sqlite") as store:
            assert [record.comparable() for record in store.records()] == alone
    assert not list((tmp_path / "cache").rglob("*.part"))
