"""How long surrogates take to train on this machine, found out in a moment."""

from __future__ import annotations

import time

from attacks.base import TransferSet
from bench.inputs import InputSpace
from bench.models import surrogates
from bench.models.batched_training import BATCHED
from bench.models.determinism import single_thread
from bench.models.sklearn_surrogates import ESTIMATORS

PART = 0.01
"""Share of the steps of a training that are taken to time it."""


def seconds_of_trainings(
    architecture: str, transfer_set: TransferSet, classes: int, inputs: InputSpace, repeats: int
) -> float:
    """Return about how many seconds ``repeats`` trainings on ``transfer_set`` take in one process.

    Networks take a hundredth of their steps, twice, of which the second counts: the first loads and compiles.
    Models of scikit-learn are trained once.
    """
    batched = architecture in BATCHED
    count = repeats if batched else 1

    def trained(part: float) -> float:
        start = time.perf_counter()
        surrogates.fit(
            [transfer_set] * count,
            architecture,
            classes,
            list(range(count)),
            inputs=inputs,
            step_fraction=part,
        )
        return time.perf_counter() - start

    with single_thread():
        if architecture in ESTIMATORS:
            return repeats * trained(1.0)
        trained(PART)
        return trained(PART) / PART * (1 if batched else repeats)
