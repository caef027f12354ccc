"""Membership inference: run an attack that scores records as members or non-members, and measure it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, MembershipInference, Pool, RandomSeeds, Records, TransferSet
from bench.errors import BudgetError, PluginError
from bench.metrics import membership
from bench.models import surrogates
from bench.models.defended_api import ApiClient, QueryAccount
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.models.promises import checked_scores
from bench.models.surrogates import TrainedSurrogate
from bench.models.victims import Victim
from bench.records import Costs, Info, Outcome
from bench.runner.context import WorkerContext
from bench.runner.extraction import require_applicable, training_seed
from bench.runner.membership_data import IN_DISTRIBUTION, MembershipData, draw_records, non_members
from bench.runner.timing import Timings, memory_mib
from bench.seeds import derive, random_state
from bench.tasks import Cell

Images = NDArray[np.float32]
Array = NDArray[np.float64]


def run(cells: Sequence[Cell], attack: MembershipInference, context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack does not apply."""
    first = cells[0]
    victim = context.victim(first.victim)
    pool = context.pool(first.victim, first.threat.pool, first.seed)
    require_applicable(attack, pool, victim)
    others = non_members(pool, victim, attack.target)
    samples = [draw_records(cell, attack.members, victim, others) for cell in cells]
    targets = _surrogates(cells, context) if attack.target == "surrogate" else _victims(cells, context)
    return [
        measure(cell, attack, sample, target, context)
        for cell, sample, target in zip(cells, samples, targets, strict=True)
    ]


@dataclass(frozen=True)
class AttackTarget:
    """The API that an attack queries, and the cost of providing it.

    ``close``: ends it after the attack, and checks what defenses promise. ``account``: queries to the
    victim's API. ``facts``: what the record's ``info`` begins with. ``shared``: whether the surrogate's
    training was taken from the training cache.
    """

    api: Api
    account: QueryAccount
    timings: Timings
    facts: Info
    close: Callable[[], None]
    shared: bool = False


def _victims(cells: Sequence[Cell], context: WorkerContext) -> list[AttackTarget]:
    apis = [_api(cell, context) for cell in cells]
    return [AttackTarget(api.client(), api.account, Timings(), Info(), api.close) for api in apis]


def _api(cell: Cell, context: WorkerContext) -> Any:
    return context.api(
        cell.victim, cell.defense, cell.seed, cell.repeat, budget=cell.budget, shows=cell.threat.shows
    )


def surrogate_api(surrogate: TrainedSurrogate, victim: Victim) -> ApiClient:
    """Return a surrogate as an API: it answers with its probabilities, with no limit on queries."""

    def send(x: Images, _client: str) -> Array:
        return surrogate.probabilities(np.array(x, dtype=np.float32, order="C"))

    return ApiClient(send, victim.inputs, victim.classes, sys.maxsize, None)


def _surrogates(cells: Sequence[Cell], context: WorkerContext) -> list[AttackTarget]:
    """Return a surrogate for each repeat, extracted from the victim with the cell's budget."""
    first, victim = cells[0], context.victim(cells[0].victim)
    pool = context.pool(first.victim, IN_DISTRIBUTION, first.seed)
    if first.budget > len(pool.x):
        raise BudgetError(
            f"budget {first.budget} is larger than what pool {IN_DISTRIBUTION!r} supplies "
            f"({len(pool.x)} inputs); choose a smaller budget"
        )
    transfer_sets, accounts, timings = [], [], []
    for cell in cells:
        api, spent = _api(cell, context), Timings()
        with spent.measure("acquire"):
            transfer_sets.append(_acquire(cell, pool, api))
        api.close()
        accounts.append(api.account)
        timings.append(spent)
    training = Timings()
    with training.measure("train"):
        seeds = [training_seed(cell) for cell in cells]
        trained = surrogates.fit(
            transfer_sets,
            first.threat.surrogate,
            victim.classes,
            seeds,
            context.training_cache,
            first.training,
            inputs=victim.inputs,
        )
    share = training.share(len(cells))
    for spent in timings:
        spent.wall |= share.wall
        spent.cpu |= share.cpu
    return [
        AttackTarget(
            surrogate_api(surrogate, victim),
            account,
            spent,
            Info(learnt=len(transfer_set.x), steps=surrogate.steps),
            lambda: None,
            surrogate.shared,
        )
        for surrogate, account, spent, transfer_set in zip(
            trained, accounts, timings, transfer_sets, strict=True
        )
    ]


def _acquire(cell: Cell, pool: Pool, api: Api) -> TransferSet:
    """Query a random part of the pool and return the answered queries: those of Copycat, in its order."""
    stream = random_state(derive(cell.seed, "order", str(cell.victim), IN_DISTRIBUTION, cell.repeat))
    rows = stream.choice(len(pool.x), cell.budget, replace=False)
    answers = api.predict(pool.x[rows])
    answered = np.isfinite(answers).all(axis=1)
    return TransferSet(
        np.ascontiguousarray(pool.x[rows[answered]]), np.ascontiguousarray(answers[answered], np.float32)
    )


def measure(
    cell: Cell,
    attack: MembershipInference,
    sample: MembershipData,
    target: AttackTarget,
    context: WorkerContext,
) -> Outcome:
    """Let the attack score the records of unknown membership, and compare the scores with the truth."""
    member, timings, account = sample.asked.member, target.timings, target.account
    streams = RandomSeeds(
        order=derive(cell.seed, "order", str(cell.victim), cell.threat.pool, cell.repeat),
        choices=derive(cell.seed, "choices", cell.attack, cell.repeat),
    )
    hidden = replace(own_records(sample.asked), member=np.zeros_like(member))
    who = describe(attack)
    try:
        with PluginCall(who, "infer", generator("attack", streams.order)), timings.measure("infer"):
            given = attack.infer(target.api, own_records(sample.known), hidden, streams)
    except PluginError:
        target.close()  # raises the error of a defense that made the attack fail
        raise
    target.close()
    score = checked_scores(who, given, len(member))
    timings.wall |= {"query_model": account.seconds_model, "query_defense": account.seconds_defense}
    timings.cpu |= {"query_model": account.cpu_model, "query_defense": account.cpu_defense}
    context_metrics, context_errors = _context_metrics(cell, sample, context)
    flags = []
    if target.facts.learnt == 0:
        flags.append("nothing_learnt")
    if target.facts.learnt is not None and cell.victim.splits == "official":
        flags.append("overlap")  # the attacker's pool is part of the victim's training data
    return Outcome(
        metrics=membership.membership(member, score) | context_metrics | {"membership.records": len(member)},
        info=target.facts.with_values(
            queries=account.counts(),
            flags=flags,
            errors=membership.standard_errors(member, score) | context_errors,
            roc=membership.roc(member, score),
        ),
        costs=Costs(
            seconds=timings.wall,
            cpu_seconds=timings.cpu,
            shared=target.shared,
            memory_mib=memory_mib(),
        ),
    )


def own_records(records: Records) -> Records:
    """Return a copy for an attack, which may write into it."""
    return Records(records.x.copy(), records.y.copy(), records.member.copy())


MetricsAndErrors = tuple[dict[str, float | None], dict[str, float | None]]
"""Metrics, and their standard errors, by name."""


def _context_metrics(cell: Cell, sample: MembershipData, context: WorkerContext) -> MetricsAndErrors:
    """Return the victim's train-test gap, and how well records are classified without the victim."""
    gap: MetricsAndErrors = context.once(("gap", cell.victim), partial(_gap, context.victim(cell.victim)))
    seed = derive(cell.seed, "without victim", str(cell.victim), cell.threat.pool, cell.repeat)
    key = ("without victim", sample.digest(), seed)
    without: MetricsAndErrors = context.once(key, partial(without_victim, sample, seed))
    return gap[0] | without[0], gap[1] | without[1]


def _gap(victim: Victim) -> MetricsAndErrors:
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


def without_victim(sample: MembershipData, seed: int) -> MetricsAndErrors:
    """Return metrics of a classifier that sees the records but not the victim, and their standard errors.

    It is trained on the known records and evaluated on the others: 100 extremely randomised trees (Geurts et
    al. 2006) with leaves of at least 5 records. A result above chance shows a difference between the two data
    sets, which an attack may detect as well.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # takes a second

    # Ten pixels a split and no pure leaves: as good on MNIST as the defaults, in less than half the time.
    model = ExtraTreesClassifier(100, max_features=10, min_samples_leaf=5, random_state=seed % 2**32)
    known, asked = sample.known, sample.asked
    model.fit(known.x.reshape(len(known), -1), known.member)
    score = np.asarray(model.predict_proba(asked.x.reshape(len(asked), -1))[:, 1], dtype=np.float64)
    metrics = membership.membership(asked.member, score)
    errors = membership.standard_errors(asked.member, score)
    names = ("accuracy", "auc")
    return (
        {f"membership.without_victim_{name}": metrics[f"membership.{name}"] for name in names},
        {f"membership.without_victim_{name}": errors[f"membership.{name}"] for name in names},
    )
