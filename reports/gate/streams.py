"""Evaluates the bank's defenses with noise under other seeds of it, so that no result hangs on one seed.

    python reports/gate/streams.py results/bank/streams.sqlite

Results that are in the store already are not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from draws import REPEATS, SHIPPED

from bench import plugins
from bench.data.data_files import data_root
from bench.plan.matrix import load_matrix
from bench.runner.local_backend import WorkerSettings, available_cores
from bench.runner.run import run
from bench.store import Store
from bench.tasks import DefenseEvaluation

STREAMS, PLANTED_STREAMS = 60, 20
"""Seeds of the noise, for each defense of the matrix ``ci`` that has noise, and for each changed one."""


def tasks(matrix: Path) -> list[DefenseEvaluation]:
    """Return the evaluations of the noisy defenses, as ``ci`` has them but for the noise's seed."""
    noisy = [
        task
        for task in load_matrix(str(matrix)).tasks()
        if isinstance(task, DefenseEvaluation)
        and any(plugins.defenses.build(text).claims.stochastic for text in task.defense)
    ]
    return [
        replace(task, seed=seed, repeats=REPEATS, retrainings=0)
        for seed in range(1, STREAMS + 1)
        for task in noisy
        if seed <= PLANTED_STREAMS or set(task.defense) <= set(SHIPPED)
    ]


def main() -> None:
    """Run what the store lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", type=Path, help="where results are kept")
    given = parser.parse_args()
    matrix = Path(__file__).with_name("bank.toml")
    every = tasks(matrix)
    settings = WorkerSettings(data_root(), None, tuple(load_matrix(str(matrix)).plugin_files))
    given.store.parent.mkdir(parents=True, exist_ok=True)
    with Store(given.store, create=True) as store:
        run(every, store, settings, jobs=available_cores())


if __name__ == "__main__":
    main()
