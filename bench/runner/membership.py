"""Membership inference: tell what the victim was trained on from what it never saw, and measure how well."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from attacks.base import Api, MembershipInference, Pool, RandomSeeds, Target, TransferSet
from bench.errors import BudgetError, NotApplicable
from bench.metrics import membership
from bench.models import surrogates
from bench.models.defended_api import QueryAccount
from bench.models.surrogates import TrainedSurrogate
from bench.models.victims import Victim
from bench.runner.context import WorkerContext
from bench.runner.extraction import training_seed
from bench.runner.membership_data import OWN, MembershipData, draw, non_members
from bench.runner.timing import Clock, memory_mib
from bench.seeds import derive, random_state
from bench.store import Outcome
from bench.tasks import Cell

Images = NDArray[np.float32]
Array = NDArray[np.float64]


def run(cells: Sequence[Cell], attack: MembershipInference, context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack makes no sense."""
    first = cells[0]
    victim = context.victim(first.victim)
    pool = context.pool(first.victim, first.threat.pool, first.seed)
    reason = attack.applicable(pool, Target(victim.classes, victim.linear))
    if reason:
        raise NotApplicable(reason)
    others = non_members(pool, victim, attack.target)
    samples = [draw(cell, attack.members, victim, others) for cell in cells]
    served = _copies(cells, context) if attack.target == "surrogate" else _victims(cells, context)
    return [
        measure(cell, attack, sample, service, context)
        for cell, sample, service in zip(cells, samples, served, strict=True)
    ]


@dataclass(frozen=True)
class Service:
    """Whom the attack asks, and what making that took. ``bill``: what the victim's API was asked."""

    api: Api
    account: QueryAccount
    clock: Clock
    facts: dict[str, Any]
    shared: bool = False


def _victims(cells: Sequence[Cell], context: WorkerContext) -> list[Service]:
    apis = [_api(cell, context) for cell in cells]
    return [Service(api, api.account, Clock(), {}) for api in apis]


def _api(cell: Cell, context: WorkerContext) -> Any:
    return context.api(
        cell.victim, cell.defense, cell.seed, cell.repeat, budget=cell.budget, shows=cell.threat.shows
    )


class CopyApi(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """A stolen copy, which answers in full and for nothing."""

    budget = sys.maxsize

    def __init__(self, copy: TrainedSurrogate, victim: Victim) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=victim.shape,
            nb_classes=victim.classes,
            clip_values=(0.0, 1.0),
        )
        self._copy = copy

    def predict(self, x: Images, batch_size: int = 256) -> Array:
        """Return (n, classes) probabilities of the copy."""
        return self._copy.probabilities(np.ascontiguousarray(x, dtype=np.float32))


def _copies(cells: Sequence[Cell], context: WorkerContext) -> list[Service]:
    """Steal the victim with the cell's budget, once a repeat, and serve the copies."""
    first, victim = cells[0], context.victim(cells[0].victim)
    pool = context.pool(first.victim, OWN, first.seed)
    if first.budget > len(pool.x):
        raise BudgetError(
            f"budget {first.budget} is larger than what pool {OWN!r} supplies ({len(pool.x)} inputs); "
            "choose a smaller budget"
        )
    bought, bills, clocks = [], [], []
    for cell in cells:
        api, clock = _api(cell, context), Clock()
        with clock.measure("acquire"):
            bought.append(_buy(cell, pool, api))
        bills.append(api.account)
        clocks.append(clock)
    training = Clock()
    with training.measure("train"):
        seeds = [training_seed(cell) for cell in cells]
        copies = surrogates.fit(
            bought, first.threat.surrogate, victim.classes, seeds, context.training_cache, first.training
        )
    each = training.share(len(cells))
    for clock in clocks:
        clock.wall |= each.wall
        clock.cpu |= each.cpu
    return [
        Service(CopyApi(copy, victim), account, clock, {"learnt": len(x.x), "steps": copy.steps}, copy.shared)
        for copy, account, clock, x in zip(copies, bills, clocks, bought, strict=True)
    ]


def _buy(cell: Cell, pool: Pool, api: Api) -> TransferSet:
    """Send a random part of the pool and keep what was answered: Copycat's queries, in its order."""
    stream = random_state(derive(cell.seed, "order", str(cell.victim), OWN, cell.repeat))
    rows = stream.choice(len(pool.x), cell.budget, replace=False)
    answers = api.predict(pool.x[rows])
    answered = np.isfinite(answers).all(axis=1)
    return TransferSet(
        np.ascontiguousarray(pool.x[rows[answered]]), np.ascontiguousarray(answers[answered], np.float32)
    )


def measure(
    cell: Cell, attack: MembershipInference, sample: MembershipData, service: Service, context: WorkerContext
) -> Outcome:
    """Let the attack score the records it is asked about, and compare with the truth."""
    member, clock, account = sample.asked.member, service.clock, service.account
    streams = RandomSeeds(
        order=derive(cell.seed, "order", str(cell.victim), cell.threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    hidden = replace(sample.asked, member=np.zeros_like(member))
    with clock.measure("infer"):
        score = np.asarray(attack.infer(service.api, sample.known, hidden, streams), dtype=np.float64)
    if score.shape != member.shape or not bool(np.all((score >= 0) & (score <= 1))):
        raise ValueError(f"attack {attack.name!r} must return ({len(member)},) scores in [0, 1]")
    clock.wall |= {"query_model": account.seconds_model, "query_defense": account.seconds_defense}
    clock.cpu |= {"query_model": account.cpu_model, "query_defense": account.cpu_defense}
    beside, beside_errors = _beside(cell, sample, context)
    flags = []
    if service.facts.get("learnt") == 0:
        flags.append("nothing_learnt")
    if service.facts and cell.victim.splits == "official":
        flags.append("overlap")  # the thief's pool is part of what the victim was trained on
    return Outcome(
        metrics=membership.membership(member, score) | beside | {"membership.records": len(member)},
        info={
            "queries": {
                "sent": account.sent,
                "answered": account.answered,
                "refused": account.refused,
                "flagged": account.flagged,
            },
            **service.facts,
            "flags": flags,
            "errors": membership.errors(member, score) | beside_errors,
            "roc": membership.roc(member, score),
        },
        costs={
            "seconds": clock.wall,
            "cpu_seconds": clock.cpu,
            "shared": service.shared,
            "memory_mib": memory_mib(),
        },
    )


Measured = tuple[dict[str, float | None], dict[str, float | None]]
"""Metrics, and their standard errors, by name."""


def _beside(cell: Cell, sample: MembershipData, context: WorkerContext) -> Measured:
    """Return what stands beside every attack: the victim's gap, and records told apart without it."""
    gap: Measured = context.once(("gap", cell.victim), partial(_gap, context.victim(cell.victim)))
    seed = derive(cell.seed, "without victim", str(cell.victim), cell.threat.pool, cell.repeat)
    key = ("without victim", sample.digest(), seed)
    apart: Measured = context.once(key, partial(without_victim, sample, seed))
    return gap[0] | apart[0], gap[1] | apart[1]


def _gap(victim: Victim) -> Measured:
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for name, part in (("train_accuracy", victim.splits.train), ("test_accuracy", victim.splits.test)):
        right = victim.probabilities(part.x).argmax(axis=1) == part.y
        values[name], errors[name] = float(right.mean()), membership.binomial_error(right)
    values["gap"] = values["train_accuracy"] - values["test_accuracy"]
    errors["gap"] = math.hypot(*errors.values())
    return (
        {f"membership.{name}": value for name, value in values.items()},
        {f"membership.{name}": value for name, value in errors.items()},
    )


def without_victim(sample: MembershipData, seed: int) -> Measured:
    """Tell members from non-members by their pixels alone: trained on the known records, judged on the asked.

    100 extremely randomised trees (Geurts et al. 2006) with leaves of 5 records or more. What they
    find is a difference between two data sets, which an attack through the victim may have found too.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # takes a second

    # Ten pixels a split and no pure leaves: as good on MNIST as the defaults, in less than half the time.
    model = ExtraTreesClassifier(100, max_features=10, min_samples_leaf=5, random_state=seed % 2**32)
    known, asked = sample.known, sample.asked
    model.fit(known.x.reshape(len(known), -1), known.member)
    score = np.asarray(model.predict_proba(asked.x.reshape(len(asked), -1))[:, 1], dtype=np.float64)
    found, errors = membership.membership(asked.member, score), membership.errors(asked.member, score)
    names = ("accuracy", "auc")
    return (
        {f"membership.without_victim_{name}": found[f"membership.{name}"] for name in names},
        {f"membership.without_victim_{name}": errors[f"membership.{name}"] for name in names},
    )
