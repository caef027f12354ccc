"""One cell, start to end: the method section of a paper, as code."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bench import checks, metrics, registry, surrogate
from bench.seeds import derive
from bench.spec import Cell
from bench.store import Outcome
from bench.workbench import Workbench
from attacks.base import Streams


class NotApplicable(Exception):
    """The cell makes no sense; the message says why. It is no failure."""


def run_cell(cell: Cell, workbench: Workbench) -> Outcome:
    """Buy answers through the defended API, train a copy on them, and measure it on the test split."""
    victim = workbench.victim(cell.victim)
    pool = workbench.pool(cell.victim, cell.threat.pool, cell.seed)
    attack = registry.attacks.build(cell.attack)
    reason = attack.applicable(pool)
    if reason:
        raise NotApplicable(reason)

    clock = Clock()
    streams = Streams(
        order=derive(cell.seed, "order", str(cell.victim), cell.threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    training_seed = derive(cell.seed, "training", cell.threat.surrogate, cell.repeat)
    architecture, classes = cell.threat.surrogate, victim.classes
    api = workbench.api(
        cell.victim, cell.defense, cell.seed, cell.repeat, budget=cell.budget, shows=cell.threat.shows
    )
    learner = partial(surrogate.online, architecture, victim.shape, classes, training_seed)
    with clock.measure("acquire"):
        bought = attack.acquire(api, pool, learner, streams)
    with clock.measure("train"):
        copy = surrogate.fit(bought, architecture, classes, training_seed, workbench.memo)
    test = victim.splits.test
    with clock.measure("evaluate"):
        told, half = copy.probabilities(test.x), copy.probabilities(test.x, half=True)
    truth = victim.probabilities(test.x)
    deployed = workbench.deployed(cell.victim, cell.defense, cell.seed, cell.repeat)

    agreement = told.argmax(axis=1) == truth.argmax(axis=1)
    fidelity_half = float((half.argmax(axis=1) == truth.argmax(axis=1)).mean())
    measured = metrics.extraction(told, truth, test.y, deployed) | {"extraction.fidelity_half": fidelity_half}
    bill = api.bill
    clock.wall |= {"query_model": bill.seconds_model, "query_defense": bill.seconds_defense}
    return Outcome(
        metrics=measured,
        arrays={"agreement": agreement.astype(np.uint8)},
        info={
            "queries": {
                "sent": bill.sent,
                "answered": bill.answered,
                "refused": bill.refused,
                "flagged": bill.flagged,
            },
            "learnt": len(bought.x),
            "steps": copy.steps,
            "flags": checks.cell_flags(
                float(agreement.mean()), fidelity_half, truth, defended=bool(cell.defense), learnt=len(bought.x)
            ),
        },
        costs={
            "seconds": clock.wall,
            "cpu_seconds": clock.cpu,
            "shared": copy.shared,
            "memory_mib": memory_mib(),
        },
    )


class Clock:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = time.perf_counter() - wall
        self.cpu[name] = time.process_time() - cpu


def memory_mib() -> float:
    """Return the high-water mark of this process's memory, in MiB."""
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
