"""What a defense does to answers, on a frozen set of probes: facts that take no training to see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.metrics import utility
from bench.runner.context import WorkerContext
from bench.tasks import DefenseEvaluation

Array = NDArray[np.float64]

PROBES = 64
"""Test inputs that are asked about one by one, and twice."""
SAME = 1e-9
"""Difference up to which two answers are the same."""


def contract(
    evaluation: DefenseEvaluation, context: WorkerContext, answers: Sequence[Array]
) -> dict[str, float | None]:
    """Return the facts by name, as metrics ``contract.…``.

    ``answers``: (n, classes) to the test inputs, in each repeat; NaN rows are refusals. ``support``:
    mean number of entries of an answer that are not zero. ``entropy``: mean entropy of answers divided
    by their sums, in nats. ``alone``: share of inputs that are answered alone as they are in a batch.
    ``again``: share that are answered the second time as they were the first.
    """
    told = np.concatenate(answers)
    told = told[np.isfinite(told).all(axis=1)]
    x = context.victim(evaluation.victim).splits.test.x[:PROBES]

    def ask(*batches: NDArray[np.float32]) -> Array:
        api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, 0)
        return np.concatenate([api.ask(batch, "probe").probabilities for batch in batches])

    once, alone, twice = ask(x), ask(*(row[None] for row in x)), ask(x, x)
    found: dict[str, float | None] = {
        "contract.alone": _alike(once, alone),
        "contract.again": _alike(twice[: len(x)], twice[len(x) :]),
        "contract.support": None,
        "contract.entropy": None,
    }
    if len(told):
        rows = utility.normalised(told)
        logs = np.log(np.where(rows > 0, rows, 1))
        found["contract.support"] = float((told != 0).sum(axis=1).mean())
        found["contract.entropy"] = float(abs((rows * logs).sum(axis=1).mean()))
    return found


def _alike(a: Array, b: Array) -> float:
    return float((np.abs(np.nan_to_num(a, nan=-1.0) - np.nan_to_num(b, nan=-1.0)) <= SAME).all(axis=1).mean())
