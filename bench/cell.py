"""One cell, start to end: the method section of a paper, as code."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attacks.base import Attack, Pool, Streams, TransferSet
from bench import checks, metrics, registry, surrogate
from bench.api import Bill
from bench.seeds import derive
from bench.spec import Cell
from bench.store import Outcome
from bench.surrogate import Surrogate
from bench.workbench import Workbench


class NotApplicable(Exception):  # noqa: N818  # it is no error
    """The cell makes no sense; the message says why. It is no failure."""


def run_cells(cells: Sequence[Cell], workbench: Workbench) -> list[Outcome]:
    """Run all repeats of a cell: buy through the defended API, train copies, measure them on test."""
    first = cells[0]
    attack = registry.attacks.build(first.attack)
    pool = workbench.pool(first.victim, first.threat.pool, first.seed)
    reason = attack.applicable(pool)
    if reason:
        raise NotApplicable(reason)
    classes = workbench.victim(first.victim).classes
    purchases = [buy(cell, attack, pool, workbench) for cell in cells]
    clock = Clock()
    with clock.measure("train"):
        copies = surrogate.fit(
            [purchase.bought for purchase in purchases],
            first.threat.surrogate,
            classes,
            [training_seed(cell) for cell in cells],
            workbench.memo,
        )
    return [
        measure(cell, purchase, copy, clock.share(len(cells)), workbench)
        for cell, purchase, copy in zip(cells, purchases, copies, strict=True)
    ]


@dataclass(frozen=True)
class Purchase:
    """What an attack bought, what it was billed, and how long that took."""

    bought: TransferSet
    bill: Bill
    clock: Clock


def buy(cell: Cell, attack: Attack, pool: Pool, workbench: Workbench) -> Purchase:
    """Let the attack spend its budget at a fresh API; the API is all of the victim that it sees."""
    victim, threat, clock = workbench.victim(cell.victim), cell.threat, Clock()
    streams = Streams(
        order=derive(cell.seed, "order", str(cell.victim), threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    api = workbench.api(
        cell.victim, cell.defense, cell.seed, cell.repeat, budget=cell.budget, shows=threat.shows
    )
    learner = partial(surrogate.online, threat.surrogate, victim.shape, victim.classes, training_seed(cell))
    with clock.measure("acquire"):
        bought = attack.acquire(api, pool, learner, streams)
    clock.wall |= {"query_model": api.bill.seconds_model, "query_defense": api.bill.seconds_defense}
    clock.cpu |= {"query_model": api.bill.cpu_model, "query_defense": api.bill.cpu_defense}
    return Purchase(bought, api.bill, clock)


def training_seed(cell: Cell) -> int:
    """Return the seed of initialisation and batches: the same for every defense, attack and budget."""
    return derive(cell.seed, "training", cell.threat.surrogate, cell.repeat)


def measure(
    cell: Cell, purchase: Purchase, copy: Surrogate, training: Clock, workbench: Workbench
) -> Outcome:
    """Compare the copy with the undefended victim, and with the deployed one, on the test split."""
    victim, clock = workbench.victim(cell.victim), purchase.clock
    test = victim.splits.test
    with clock.measure("evaluate"):
        told, half = copy.probabilities(test.x), copy.probabilities(test.x, half=True)
    truth = victim.probabilities(test.x)
    deployed = workbench.deployed(cell.victim, cell.defense, cell.seed, cell.repeat)
    agreement = told.argmax(axis=1) == truth.argmax(axis=1)
    fidelity_half = float((half.argmax(axis=1) == truth.argmax(axis=1)).mean())
    learnt = len(purchase.bought.x)
    flags = checks.cell_flags(
        float(agreement.mean()), fidelity_half, truth, defended=bool(cell.defense), learnt=learnt
    )
    bill = purchase.bill
    return Outcome(
        metrics=metrics.extraction(told, truth, test.y, deployed)
        | {"extraction.fidelity_half": fidelity_half},
        arrays={"agreement": agreement.astype(np.uint8)},
        info={
            "queries": {
                "sent": bill.sent,
                "answered": bill.answered,
                "refused": bill.refused,
                "flagged": bill.flagged,
            },
            "learnt": learnt,
            "steps": copy.steps,
            "flags": flags,
        },
        costs={
            "seconds": clock.wall | training.wall,
            "cpu_seconds": clock.cpu | training.cpu,
            "shared": copy.shared,
            "memory_mib": memory_mib(),
        },
    )


class Clock:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def share(self, among: int) -> Clock:
        """Return each one's part of what ``among`` cells took together."""
        part = Clock()
        part.wall = {name: seconds / among for name, seconds in self.wall.items()}
        part.cpu = {name: seconds / among for name, seconds in self.cpu.items()}
        return part

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
