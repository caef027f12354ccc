"""Statistics of a defense's answers on a fixed set of test inputs, without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.metrics import utility
from bench.runner.context import WorkerContext
from bench.tasks import DefenseEvaluation

Array = NDArray[np.float64]

PROBES = 64
"""Test inputs that are queried one by one, and twice."""
TOLERANCE = 1e-9
"""Largest difference between entries of two answers that count as the same."""


def answer_statistics(
    evaluation: DefenseEvaluation,
    context: WorkerContext,
    answers: Sequence[Array],
    repeat: int = 0,
    *,
    singly: bool = True,
) -> dict[str, float | None]:
    """Return the statistics by name, as metrics ``contract.…``.

    ``answers``: (n, classes) to the test inputs, in each repeat; rows of NaN are rejected queries.
    ``repeat``: whose noise the queries one by one and again get. ``singly``: whether any are sent one by one,
    which takes long; else ``alone`` is 1.
    ``support``: mean number of nonzero entries of an answer. ``entropy``: mean entropy of the normalised
    answers, in nats. ``alone``: share of inputs with the same answer alone as in a batch. ``again``: share of
    inputs with the same answer the second time.
    """
    answered = np.concatenate(answers)
    answered = answered[np.isfinite(answered).all(axis=1)]
    x = context.victim(evaluation.victim).splits.test.x[:PROBES]

    def query(*batches: NDArray[np.float32]) -> Array:
        api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, repeat)
        answers = np.concatenate([api.query(batch, "probe").probabilities for batch in batches])
        api.close()
        return answers

    once, twice = query(x), query(x, x)
    alone = query(*(row[None] for row in x)) if singly else once
    statistics: dict[str, float | None] = {
        "contract.alone": _share_of_equal(once, alone),
        "contract.again": _share_of_equal(twice[: len(x)], twice[len(x) :]),
        "contract.support": None,
        "contract.entropy": None,
    }
    if len(answered):
        rows = utility.normalised(answered)
        logs = np.log(np.where(rows > 0, rows, 1))
        statistics["contract.support"] = float((answered != 0).sum(axis=1).mean())
        statistics["contract.entropy"] = float(abs((rows * logs).sum(axis=1).mean()))
    return statistics


def _share_of_equal(a: Array, b: Array) -> float:
    return float(
        (np.abs(np.nan_to_num(a, nan=-1.0) - np.nan_to_num(b, nan=-1.0)) <= TOLERANCE).all(axis=1).mean()
    )
