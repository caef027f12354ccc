"""Extraction: buy answers through the defended API, train copies, measure them on test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Extraction, Pool, RandomSeeds, Target, TransferSet
from bench.errors import NotApplicable
from bench.metrics import extraction
from bench.metrics import flags as checks
from bench.models import surrogates
from bench.models.defended_api import QueryAccount
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.surrogates import SolvedSurrogate, TrainedSurrogate
from bench.models.training_config import rule
from bench.models.victims import Victim
from bench.runner.context import WorkerContext
from bench.runner.timing import Clock, memory_mib
from bench.seeds import derive
from bench.store import Outcome
from bench.tasks import Cell

Images = NDArray[np.float32]
ON_QUERIES = 2_000
"""Bought inputs on which the copy is compared with the victim, at most: the first ones."""


def run(cells: Sequence[Cell], attack: Extraction, context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack makes no sense."""
    first = cells[0]
    victim = context.victim(first.victim)
    pool = context.pool(first.victim, first.threat.pool, first.seed)
    reason = attack.applicable(pool, Target(victim.classes, victim.linear))
    if reason:
        raise NotApplicable(reason)
    purchases = [buy(cell, attack, pool, context) for cell in cells]
    clock = Clock()
    with clock.measure("train"):
        copies = _copies(cells, [purchase.bought for purchase in purchases], pool, context)
    return [
        measure(cell, purchase, copy, clock.share(len(cells)), context)
        for cell, purchase, copy in zip(cells, purchases, copies, strict=True)
    ]


def _copies(
    cells: Sequence[Cell], bought: Sequence[TransferSet], pool: Pool, context: WorkerContext
) -> Sequence[TrainedSurrogate]:
    finished = [SolvedSurrogate(each.copy) for each in bought if each.copy is not None]
    if len(finished) == len(bought):
        return finished
    first, seeds = cells[0], [training_seed(cell) for cell in cells]
    rest = None
    if rule(first.training).semi_supervised:
        rest = [pool.x[_unqueried(pool.x, each.x)] for each in bought]
    classes = context.victim(first.victim).classes
    return surrogates.fit(
        bought, first.threat.surrogate, classes, seeds, context.training_cache, first.training, rest=rest
    )


@dataclass(frozen=True)
class Acquisition:
    """What an attack bought, what it was billed, and how long that took."""

    bought: TransferSet
    account: QueryAccount
    clock: Clock


def buy(cell: Cell, attack: Extraction, pool: Pool, context: WorkerContext) -> Acquisition:
    """Let the attack spend its budget at a fresh API; the API is all of the victim that it sees."""
    victim, threat, clock = context.victim(cell.victim), cell.threat, Clock()
    streams = RandomSeeds(
        order=derive(cell.seed, "order", str(cell.victim), threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    api = context.api(
        cell.victim,
        cell.defense,
        cell.seed,
        cell.repeat,
        budget=cell.budget,
        shows=threat.shows,
        knowledge=threat.knowledge,
    )
    learner = InterimSurrogates(
        threat.surrogate,
        victim.shape,
        victim.classes,
        training_seed(cell),
        cell.training,
        context.training_cache,
    )
    with clock.measure("acquire"):
        bought = attack.acquire(api, pool, learner, streams)
    clock.wall |= {"query_model": api.account.seconds_model, "query_defense": api.account.seconds_defense}
    clock.cpu |= {"query_model": api.account.cpu_model, "query_defense": api.account.cpu_defense}
    return Acquisition(bought, api.account, clock)


def training_seed(cell: Cell) -> int:
    """Return the seed of initialisation and batches: the same for every defense, attack and budget."""
    return derive(cell.seed, "training", cell.threat.surrogate, cell.training, cell.repeat)


def measure(
    cell: Cell, purchase: Acquisition, copy: TrainedSurrogate, training: Clock, context: WorkerContext
) -> Outcome:
    """Compare the copy with the undefended victim, and with the deployed one, on the test split."""
    victim, bought, clock = context.victim(cell.victim), purchase.bought, purchase.clock
    pool = context.pool(cell.victim, cell.threat.pool, cell.seed)
    test = victim.splits.test
    with clock.measure("evaluate"):
        told, half = copy.probabilities(test.x), copy.probabilities_half(test.x)
        on_queries = _on_queries(copy, victim, bought.x[:ON_QUERIES])
    truth = context.truth(cell.victim)
    deployed = context.deployed(cell.victim, cell.defense, cell.seed, cell.repeat)
    guess = told.argmax(axis=1)
    agreement, correct = guess == truth.argmax(axis=1), guess == test.y
    fidelity_half = None if half is None else float((half.argmax(axis=1) == truth.argmax(axis=1)).mean())
    flags = checks.cell_flags(
        float(agreement.mean()), fidelity_half, truth, defended=bool(cell.defense), learnt=len(bought.x)
    )
    if pool.overlaps or (pool.access == "in-distribution" and cell.victim.splits == "official"):
        flags.append("overlap")
    fresh = _unqueried(test.x, bought.x) if pool.overlaps == "test" else np.ones(len(test.x), dtype=bool)
    account = purchase.account
    return Outcome(
        metrics=extraction.extraction(told, truth, test.y, deployed)
        | {
            "extraction.fidelity_half": fidelity_half,
            "extraction.fidelity_unqueried": extraction.share(agreement, fresh),
            "extraction.fidelity_on_queries": on_queries,
            "extraction.answered": account.answered / account.sent if account.sent else None,
        }
        | {f"extraction.{name}": value for name, value in bought.facts.items()},
        arrays={"agreement": agreement.astype(np.uint8), "correct": correct.astype(np.uint8)},
        info={
            "queries": {
                "sent": account.sent,
                "answered": account.answered,
                "refused": account.refused,
                "flagged": account.flagged,
            },
            "learnt": len(bought.x),
            "steps": copy.steps,
            "flags": flags,
            "confusion": extraction.confusion(test.y, guess, victim.classes),
        },
        costs=_costs(clock, training, copy),
    )


def _costs(clock: Clock, training: Clock, copy: TrainedSurrogate) -> dict[str, Any]:
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


def _on_queries(copy: TrainedSurrogate, victim: Victim, queries: Images) -> float | None:
    if not len(queries):
        return None
    guess, label = copy.probabilities(queries).argmax(axis=1), victim.probabilities(queries).argmax(axis=1)
    return float((guess == label).mean())
