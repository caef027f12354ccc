"""What trainings on views cost and reach: CPU seconds and fidelity of one surrogate.

Usage: ``python tests/benchmarks/view_trainings.py DATA VICTIM SURROGATE LABELS REPEATS``; by default digits.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from attacks.base import TransferSet
from bench.data import data_files
from bench.errors import NotApplicable
from bench.models import surrogates
from bench.models.determinism import single_thread
from bench.runner.context import WorkerContext
from bench.tasks import VictimSpec

TRAININGS = (
    "rule",
    "rule(augment=weak)",
    *(f"rule(unlabelled={name})" for name in ("pseudo-labels", "fixmatch", "mixmatch", "rotation")),
)


def measure(data: str, architecture: str, surrogate: str, labels: int, repeats: int) -> None:
    """Print a line for each training; surrogates learn the labels of as many random inputs of the pool."""
    context, spec = WorkerContext(data_files.data_root(), None), VictimSpec(data, architecture, 0)
    victim, pool = context.victim(spec), context.pool(spec, "in-distribution", 0)
    answers = np.eye(victim.classes, dtype=np.float32)[victim.probabilities(pool.x).argmax(axis=1)]
    test = victim.splits.test.x
    truth, plain = victim.probabilities(test).argmax(axis=1), 0.0
    for training in TRAININGS:
        fidelity, seconds = [], []
        for repeat in range(repeats):
            order = np.random.default_rng(repeat).permutation(len(pool.x))
            queried, rest = order[:labels], order[labels:]
            bought = TransferSet(pool.x[queried], answers[queried])
            began = time.process_time()
            try:
                (found,) = surrogates.fit(
                    [bought],
                    surrogate,
                    victim.classes,
                    [repeat],
                    training_text=training,
                    inputs=victim.inputs,
                    unqueried=[pool.x[rest]],
                )
            except NotApplicable as reason:
                print(f"{training}: {reason}")
                break
            seconds.append(time.process_time() - began)
            fidelity.append(float((found.probabilities(test).argmax(axis=1) == truth).mean()))
        else:
            middle = float(np.median(seconds))
            plain = plain or middle
            print(
                f"{training}: fidelity {np.mean(fidelity):.3f} (sd {np.std(fidelity):.3f}), "
                f"{middle:.2f} CPU s, {middle / plain:.1f} × the rule, {found.rows:,} rows"
            )


if __name__ == "__main__":
    given = sys.argv[1:] or ["digits", "mlp", "mlp", "50", "5"]
    with single_thread():
        measure(*given[:3], *map(int, given[3:5]))
