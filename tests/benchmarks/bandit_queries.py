"""Why surrogates of the bandit's queries stay below published ones on MNIST: four ways to learn.

Usage: ``python tests/benchmarks/bandit_queries.py REPEATS``; by default 3. The queries are those of the study
``proof-of-work`` with the largest budget.
"""

from __future__ import annotations

import sys

import numpy as np

from attacks.base import TransferSet
from bench import plugins
from bench.data import data_files
from bench.models import surrogates
from bench.models.determinism import single_thread
from bench.models.plugin_guard import build
from bench.plan.matrix import load_matrix
from bench.runner.context import WorkerContext
from bench.runner.extraction import acquire
from bench.tasks import Cell

LONGER = "rule(learning_rate=0.001, epochs=30, decay=false)"


def measure(cell: Cell, context: WorkerContext) -> None:
    """Print which inputs a repeat sends, and the fidelity of what is learnt from them."""
    pool, victim = context.pool(cell.victim, cell.threat.pool, cell.seed), context.victim(cell.victim)
    labels = acquire(cell, build(plugins.attacks, cell.attack), pool, context).transfer_set
    place = {x.tobytes(): number for number, x in enumerate(pool.x)}
    sent = np.array([place[x.tobytes()] for x in labels.x])
    distinct = len(np.unique(sent))
    shares = (np.sort(np.bincount(pool.y[sent]))[::-1] / len(sent)).round(2)
    print(f"repeat {cell.repeat}: {distinct:,} distinct inputs; the pool's classes by share: {shares}")

    def one_hot(x):
        return np.eye(victim.classes, dtype=np.float32)[victim.probabilities(x).argmax(axis=1)]

    random = pool.x[np.random.default_rng(cell.repeat).permutation(len(pool.x))[:distinct]]
    test = victim.splits.test.x
    truth = victim.probabilities(test).argmax(axis=1)
    for name, learnt, training in (
        ("labels, as the attack learns them", labels, "rule"),
        ("labels, 30 epochs", labels, LONGER),
        ("labels of as many random inputs", TransferSet(random, one_hot(random)), "rule"),
        ("probabilities", TransferSet(labels.x, victim.probabilities(labels.x).astype(np.float32)), "rule"),
    ):
        (found,) = surrogates.fit(
            [learnt],
            cell.threat.surrogate,
            victim.classes,
            [cell.repeat],
            training_text=training,
            inputs=victim.inputs,
        )
        fidelity = (found.probabilities(test).argmax(axis=1) == truth).mean()
        print(f"  {name}: fidelity {fidelity:.3f}", flush=True)


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    tasks = [task for task in load_matrix("studies/proof-of-work").tasks() if isinstance(task, Cell)]
    bandit = [task for task in tasks if task.attack.startswith("knockoff")]
    largest = max(task.budget for task in bandit)
    with single_thread():
        context = WorkerContext(data_files.data_root(), None)
        for task in bandit:
            if task.budget == largest and task.repeat < repeats:
                measure(task, context)
