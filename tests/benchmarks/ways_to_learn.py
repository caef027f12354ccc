"""What surrogates reach by each way in which the attack ``auto`` may learn answers, without a defense.

Usage: ``python tests/benchmarks/ways_to_learn.py DATA VICTIM SURROGATE ANSWERS REPEATS SEED KIND``; the
default is a victim of digits with seed 5, which no report uses. ``KIND``: labels or probabilities.
"""

from __future__ import annotations

import sys

import numpy as np

from attacks.auto import EFFORT, Interpretation, fold_parts, out_of_fold
from attacks.base import TransferSet
from attacks.inverse.numerics.intervals import one_hot
from attacks.transfer_sets.ways import NOISY, VIEWS, Ways, kept
from bench.data import data_files
from bench.models import surrogates
from bench.models.determinism import single_thread
from bench.models.interim_surrogates import InterimSurrogates
from bench.runner.context import WorkerContext
from bench.tasks import VictimSpec


def measure(
    data: str, architecture: str, surrogate: str, answers: int, repeats: int, seed: int, kind: str
) -> None:
    """Print the mean fidelity of each way, and of the one that is kept; queries are random."""
    context, spec = WorkerContext(data_files.data_root(), None), VictimSpec(data, architecture, seed)
    victim, pool = context.victim(spec), context.pool(spec, "in-distribution", 0)
    truth = victim.probabilities(victim.splits.test.x).argmax(axis=1)
    reached: dict[str, list[float]] = {}
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(pool.x))
        x, rest = pool.x[order[:answers]], pool.x[order[answers:]]
        rows = victim.probabilities(x)
        targets = rows if kind == "probabilities" else one_hot(rows)
        interim = InterimSurrogates(
            surrogate, victim.shape, victim.classes, repeat, "rule", None, victim.inputs, pool.x
        )
        ways, reading = Ways(rest, interim, repeat, EFFORT), Interpretation("as_is", targets, rows[:, 0] >= 0)
        parts = fold_parts(x, reading)
        found = dict(ways.compared(parts, interim.fit(parts, EFFORT)))
        found[NOISY] = ways.self_trained(parts, found[VIEWS])
        losses = {name: out_of_fold(x, targets, reading, students) for name, students in found.items()}
        fidelity = {}
        for name, students in found.items():
            inputs, learnt = ways.final(name, (x, targets), students)
            (final,) = surrogates.fit(
                [TransferSet(np.ascontiguousarray(inputs), learnt.astype(np.float32))],
                surrogate,
                victim.classes,
                [repeat],
                inputs=victim.inputs,
            )
            predicted = final.probabilities(victim.splits.test.x).argmax(axis=1)
            fidelity[name] = float((predicted == truth).mean())
        fidelity["kept"] = fidelity[kept(losses, labels=kind == "labels")]
        for name, value in fidelity.items():
            reached.setdefault(name, []).append(value)
    print(*(f"{name} {100 * np.mean(values):.1f} %" for name, values in reached.items()), sep=", ")


if __name__ == "__main__":
    given = sys.argv[1:] or ["digits", "mlp", "mlp", "200", "6", "5", "labels"]
    with single_thread():
        measure(*given[:3], *map(int, given[3:6]), given[6])
