"""Extraction: buy answers through the defended API, train copies, measure them on test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Extraction, Pool, Streams, Target, TransferSet
from bench.errors import NotApplicable
from bench.metrics import extraction
from bench.metrics import flags as checks
from bench.models import surrogates
from bench.models.defended_api import Bill
from bench.models.interim_surrogates import Apprentice
from bench.models.surrogates import Copy, Solved
from bench.models.training_config import rule
from bench.models.victims import Victim
from bench.runner.context import Workbench
from bench.runner.timing import Clock, memory_mib
from bench.seeds import derive
from bench.store import Outcome
from bench.tasks import Cell

Images = NDArray[np.float32]
ON_QUERIES = 2_000
"""Bought inputs on which the copy is compared with the victim, at most: the first ones."""


def run(cells: Sequence[Cell], attack: Extraction, workbench: Workbench) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack makes no sense."""
    first = cells[0]
    victim = workbench.victim(first.victim)
    pool = workbench.pool(first.victim, first.threat.pool, first.seed)
    reason = attack.applicable(pool, Target(victim.classes, victim.linear))
    if reason:
        raise NotApplicable(reason)
    purchases = [buy(cell, attack, pool, workbench) for cell in cells]
    clock = Clock()
    with clock.measure("train"):
        copies = _copies(cells, [purchase.bought for purchase in purchases], pool, workbench)
    return [
        measure(cell, purchase, copy, clock.share(len(cells)), workbench)
        for cell, purchase, copy in zip(cells, purchases, copies, strict=True)
    ]


def _copies(
    cells: Sequence[Cell], bought: Sequence[TransferSet], pool: Pool, workbench: Workbench
) -> Sequence[Copy]:
    finished = [Solved(each.copy) for each in bought if each.copy is not None]
    if len(finished) == len(bought):
        return finished
    first, seeds = cells[0], [training_seed(cell) for cell in cells]
    rest = None
    if rule(first.training).semi_supervised:
        rest = [pool.x[_unqueried(pool.x, each.x)] for each in bought]
    classes = workbench.victim(first.victim).classes
    return surrogates.fit(
        bought, first.threat.surrogate, classes, seeds, workbench.memo, first.training, rest=rest
    )


@dataclass(frozen=True)
class Purchase:
    """What an attack bought, what it was billed, and how long that took."""

    bought: TransferSet
    bill: Bill
    clock: Clock


def buy(cell: Cell, attack: Extraction, pool: Pool, workbench: Workbench) -> Purchase:
    """Let the attack spend its budget at a fresh API; the API is all of the victim that it sees."""
    victim, threat, clock = workbench.victim(cell.victim), cell.threat, Clock()
    streams = Streams(
        order=derive(cell.seed, "order", str(cell.victim), threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    api = workbench.api(
        cell.victim,
        cell.defense,
        cell.seed,
        cell.repeat,
        budget=cell.budget,
        shows=threat.shows,
        knowledge=threat.knowledge,
    )
    learner = Apprentice(
        threat.surrogate, victim.shape, victim.classes, training_seed(cell), cell.training, workbench.memo
    )
    with clock.measure("acquire"):
        bought = attack.acquire(api, pool, learner, streams)
    clock.wall |= {"query_model": api.bill.seconds_model, "query_defense": api.bill.seconds_defense}
    clock.cpu |= {"query_model": api.bill.cpu_model, "query_defense": api.bill.cpu_defense}
    return Purchase(bought, api.bill, clock)


def training_seed(cell: Cell) -> int:
    """Return the seed of initialisation and batches: the same for every defense, attack and budget."""
    return derive(cell.seed, "training", cell.threat.surrogate, cell.training, cell.repeat)


def measure(cell: Cell, purchase: Purchase, copy: Copy, training: Clock, workbench: Workbench) -> Outcome:
    """Compare the copy with the undefended victim, and with the deployed one, on the test split."""
    victim, bought, clock = workbench.victim(cell.victim), purchase.bought, purchase.clock
    pool = workbench.pool(cell.victim, cell.threat.pool, cell.seed)
    test = victim.splits.test
    with clock.measure("evaluate"):
        told, half = copy.probabilities(test.x), copy.probabilities_half(test.x)
        on_queries = _on_queries(copy, victim, bought.x[:ON_QUERIES])
    truth = workbench.truth(cell.victim)
    deployed = workbench.deployed(cell.victim, cell.defense, cell.seed, cell.repeat)
    guess = told.argmax(axis=1)
    agreement, correct = guess == truth.argmax(axis=1), guess == test.y
    fidelity_half = None if half is None else float((half.argmax(axis=1) == truth.argmax(axis=1)).mean())
    flags = checks.cell_flags(
        float(agreement.mean()), fidelity_half, truth, defended=bool(cell.defense), learnt=len(bought.x)
    )
    if pool.overlaps or (pool.access == "in-distribution" and cell.victim.splits == "official"):
        flags.append("overlap")
    fresh = _unqueried(test.x, bought.x) if pool.overlaps == "test" else np.ones(len(test.x), dtype=bool)
    bill = purchase.bill
    return Outcome(
        metrics=extraction.extraction(told, truth, test.y, deployed)
        | {
            "extraction.fidelity_half": fidelity_half,
            "extraction.fidelity_unqueried": extraction.share(agreement, fresh),
            "extraction.fidelity_on_queries": on_queries,
            "extraction.answered": bill.answered / bill.sent if bill.sent else None,
        }
        | {f"extraction.{name}": value for name, value in bought.facts.items()},
        arrays={"agreement": agreement.astype(np.uint8), "correct": correct.astype(np.uint8)},
        info={
            "queries": {
                "sent": bill.sent,
                "answered": bill.answered,
                "refused": bill.refused,
                "flagged": bill.flagged,
            },
            "learnt": len(bought.x),
            "steps": copy.steps,
            "flags": flags,
            "confusion": extraction.confusion(test.y, guess, victim.classes),
        },
        costs=_costs(clock, training, copy),
    )


def _costs(clock: Clock, training: Clock, copy: Copy) -> dict[str, Any]:
    return {
        "seconds": clock.wall | training.wall,
        "cpu_seconds": clock.cpu | training.cpu,
        "shared": copy.shared,
        "memory_mib": memory_mib(),
    }


def _unqueried(x: Images, queries: Images) -> NDArray[np.bool_]:
    """Return (n,) True for the inputs that are not among the queries, byte for byte."""
    asked = {hashlib.blake2b(row.tobytes()).digest() for row in queries}
    return np.array([hashlib.blake2b(row.tobytes()).digest() not in asked for row in x], dtype=bool)


def _on_queries(copy: Copy, victim: Victim, queries: Images) -> float | None:
    if not len(queries):
        return None
    guess, label = copy.probabilities(queries).argmax(axis=1), victim.probabilities(queries).argmax(axis=1)
    return float((guess == label).mean())
