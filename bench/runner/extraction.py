"""Extraction: query the defended API, train surrogates on the answers, measure them on the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Attack, Extraction, Pool, RandomSeeds, Restoration, Target, TransferSet
from bench.data.made_inputs import uniform_inputs
from bench.errors import NotApplicable, PluginError
from bench.metrics import extraction
from bench.metrics.definitions import METRICS
from bench.metrics.flags import cell_flags
from bench.models import surrogates
from bench.models.defended_api import NO_DEFENSE, QueryAccount
from bench.models.interim_surrogates import InterimSurrogates
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.models.promises import (
    check_rows,
    checked_probabilities,
    checked_reason,
    own_transfer_set,
    require,
)
from bench.models.surrogates import SolvedSurrogate, TrainedSurrogate
from bench.models.training_config import parse_training
from bench.models.victims import Victim
from bench.records import SURROGATE_LABEL, AdaptationRecord, Costs, Info, Outcome
from bench.runner.context import WorkerContext
from bench.runner.timing import Timings, memory_mib
from bench.seeds import derive
from bench.tasks import Cell

Images = NDArray[np.float32]
OWN_METRICS = frozenset(name.partition(".")[2] for name in METRICS if name.startswith("extraction."))
"""Names that no fact of an attack may have."""
MAX_COMPARED_QUERIES = 2_000
"""At most this many queries, the first ones, are used to compare the surrogate with the victim."""


def run(cells: Sequence[Cell], attack: Extraction, context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack does not apply."""
    first = cells[0]
    victim = context.victim(first.victim)
    pool = context.pool(first.victim, first.threat.pool, first.seed)
    require_applicable(attack, pool, victim)
    acquisitions = [acquire(cell, attack, pool, context) for cell in cells]
    outcomes = trained_and_measured(cells, acquisitions, pool, context)
    if first.threat.knowledge == "none":
        return outcomes
    # At the end, so that no time of the cells themselves changes.
    adapts = adaptation(first, attack, acquisitions[0].transfer_set, pool, context)
    return [replace(each, info=each.info.with_values(adaptation=adapts.values())) for each in outcomes]


def trained_and_measured(
    cells: Sequence[Cell], acquisitions: Sequence[Acquisition], pool: Pool, context: WorkerContext
) -> list[Outcome]:
    """Train a surrogate on what each repeat of a cell acquired, and return what it measures up to."""
    timings = Timings()
    with timings.measure("train"):
        trained = _surrogates(cells, [acquired.transfer_set for acquired in acquisitions], pool, context)
    return [
        measure(cell, acquired, surrogate, timings.share(len(cells)), context)
        for cell, acquired, surrogate in zip(cells, acquisitions, trained, strict=True)
    ]


def adaptation(
    cell: Cell, attack: Extraction, informed: TransferSet, pool: Pool, context: WorkerContext
) -> AdaptationRecord:
    """Return whether what an attack knows of the defense changes the transfer set that it acquires.

    ``informed``: its transfer set in ``cell``. The attack is run once more with the same seeds and without
    that knowledge; one that cannot do without is told that there is no defense. Where it fails then, nothing
    is proven. Where answers vary, an attack may find that out by its queries: then it has to acquire
    something else when it is told that there is no defense.
    """
    if not cell.defense:
        return AdaptationRecord(differs=False, reason="there is no defense")
    claims = context.stack(cell.victim, cell.defense, cell.seed).claims
    reacts = claims.may_refuse or claims.may_flag or claims.counts_queries
    if (claims.one_hot or cell.threat.shows == "labels") and not reacts:
        return AdaptationRecord(differs=False, reason="answers are labels alone: nothing can be inverted")
    without = "none" if "none" in attack.knowledge else NO_DEFENSE
    control = _control(cell, attack, pool, context, without)
    if control is None or informed.digest() != control.digest():
        return AdaptationRecord(differs=control is not None)
    if tried := _not_kept(informed, control):
        return AdaptationRecord(differs=False, reason=f"it evaluated {', '.join(tried)} and did not keep it")
    if claims.stochastic and not claims.consistent_noise and not attack.universal and without == "none":
        misled = _control(cell, attack, pool, context, NO_DEFENSE)
        if misled is not None and informed.digest() != misled.digest():
            reason = "its own queries show what it would otherwise be told: answers vary"
            return AdaptationRecord(differs=False, reason=reason)
    return AdaptationRecord(differs=False)


def _not_kept(informed: TransferSet, control: TransferSet) -> list[str]:
    """Return the facts that knowledge adds, but for what was learnt in the end: ``read_as_NAME`` of 1."""
    added = sorted(informed.facts.keys() - control.facts.keys())
    return [name for name in added if not (name.startswith("read_as_") and informed.facts[name])]


def _control(
    cell: Cell, attack: Extraction, pool: Pool, context: WorkerContext, knowledge: str
) -> TransferSet | None:
    """Return the transfer set of the attack with this ``knowledge``; None where it fails."""
    try:
        return acquire(cell, attack, pool, context, knowledge=knowledge).transfer_set
    except PluginError:
        return None


def require_applicable(attack: Attack, pool: Pool, victim: Victim) -> None:
    """Raise NotApplicable where the attack says that it cannot be run on this pool and victim."""
    who, target = describe(attack), Target(victim.classes, victim.linear, victim.inputs, victim.tree)
    with PluginCall(who, "applicable", generator("attack", 0)):
        given = attack.applicable(own_pool(pool), target)
    reason = checked_reason(who, given)
    if reason:
        raise NotApplicable(reason)


def own_pool(pool: Pool) -> Pool:
    """Return a copy of the pool for an attack, which may write into it."""
    x = pool.x.copy()
    reference = pool.reference
    if reference is not None:
        reference = x if reference is pool.x else reference.copy()
    return replace(pool, x=x, y=pool.y.copy(), reference=reference)


def _surrogates(
    cells: Sequence[Cell], transfer_sets: Sequence[TransferSet], pool: Pool, context: WorkerContext
) -> Sequence[TrainedSurrogate]:
    """Return the surrogate of each transfer set: the attack's own where all have one, else trained."""
    finished = [SolvedSurrogate(each.surrogate) for each in transfer_sets if each.surrogate is not None]
    if len(finished) == len(transfer_sets):
        return finished
    first, seeds = cells[0], [training_seed(cell) for cell in cells]
    unqueried = None
    if parse_training(first.training).semi_supervised:
        if pool.overlaps == "test":
            raise NotApplicable(
                f"training={first.training}: pool {pool.name!r} is the test split, and no surrogate may be "
                "trained on the inputs that it is tested on"
            )
        unqueried = [pool.x[_unqueried(pool.x, each.x)] for each in transfer_sets]
    victim = context.victim(first.victim)
    return surrogates.fit(
        transfer_sets,
        first.threat.surrogate,
        victim.classes,
        seeds,
        context.training_cache,
        first.training,
        inputs=victim.inputs,
        unqueried=unqueried,
    )


@dataclass(frozen=True)
class Acquisition:
    """The transfer set of an attack, its query account and the time it took."""

    transfer_set: TransferSet
    account: QueryAccount
    timings: Timings


def acquire(
    cell: Cell, attack: Extraction, pool: Pool, context: WorkerContext, *, knowledge: str = ""
) -> Acquisition:
    """Run the attack against a fresh API, with the budget of the cell, and return what it acquired.

    ``knowledge``: what it knows of the defense, if not what the cell says.
    """
    victim, threat, timings = context.victim(cell.victim), cell.threat, Timings()
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
        knowledge=knowledge or threat.knowledge,
        recorded=attack.queries and attack.row_by_row,
    )
    interim = InterimSurrogates(
        threat.surrogate,
        victim.shape,
        victim.classes,
        training_seed(cell),
        cell.training,
        context.training_cache,
        victim.inputs,
        pool.x,
    )
    who, client, own = describe(attack), api.client(), own_pool(pool)
    try:
        with PluginCall(who, "acquire", generator("attack", streams.order)), timings.measure("acquire"):
            given = attack.acquire(client, own, interim, streams)
    except PluginError:
        api.close()  # raises the error of a defense that made the attack fail
        raise
    api.close()
    transfer_set = own_transfer_set(who, given, victim.inputs, victim.classes)
    if attack.queries and attack.row_by_row:
        check_rows(who, transfer_set, *api.queries())
    for name in transfer_set.facts:
        require(name not in OWN_METRICS, who, f"returned the fact {name!r}, which is the name of a metric")
    if transfer_set.surrogate is not None:
        transfer_set = with_checked_surrogate(transfer_set, who, victim.classes)
    timings.wall |= {"query_model": api.account.seconds_model, "query_defense": api.account.seconds_defense}
    timings.cpu |= {"query_model": api.account.cpu_model, "query_defense": api.account.cpu_defense}
    return Acquisition(transfer_set, api.account, timings)


def with_checked_surrogate(transfer_set: TransferSet, who: str, classes: int) -> TransferSet:
    """Return the transfer set with its surrogate guarded: it gets arrays of its own, and is checked."""
    surrogate: Any = transfer_set.surrogate

    def answer(x: Images) -> NDArray[np.float64]:
        with PluginCall(who, "the surrogate of its transfer set", generator("attack", 0)):
            given = surrogate(x.copy())
        return checked_probabilities(who, given, len(x), classes)

    restoration = transfer_set.restoration
    return TransferSet(transfer_set.x, transfer_set.y, answer, transfer_set.facts, restoration=restoration)


def training_seed(cell: Cell) -> int:
    """Return the seed of initialisation and batches; it does not depend on defense, attack or budget."""
    return derive(cell.seed, "training", cell.threat.surrogate, cell.training, cell.repeat)


def measure(
    cell: Cell,
    acquired: Acquisition,
    surrogate: TrainedSurrogate,
    training: Timings,
    context: WorkerContext,
) -> Outcome:
    """Compare the surrogate with the undefended and with the defended victim on the test split."""
    victim, transfer_set = context.victim(cell.victim), acquired.transfer_set
    pool = context.pool(cell.victim, cell.threat.pool, cell.seed)
    test = victim.splits.test
    with acquired.timings.measure("evaluate"):
        probabilities, half = surrogate.probabilities(test.x), surrogate.probabilities_half(test.x)
        uniform = _uniform_agreement(cell, surrogate, context)
        on_queries = _agreement_on_queries(surrogate, victim, transfer_set.x[:MAX_COMPARED_QUERIES])
    truth = context.truth(cell.victim)
    deployed = context.deployed(cell.victim, cell.defense, cell.seed, cell.repeat)
    guess = probabilities.argmax(axis=1)
    agreement, correct = guess == truth.argmax(axis=1), guess == test.y
    fidelity_half = None if half is None else float((half.argmax(axis=1) == truth.argmax(axis=1)).mean())
    flags = cell_flags(
        float(agreement.mean()), fidelity_half, truth, defended=bool(cell.defense), learnt=len(transfer_set.x)
    )
    if pool.overlaps or (pool.access == "in-distribution" and cell.victim.splits == "official"):
        flags.append("overlap")
    # Not only where a pool is the test split: an input that an attacker makes may be one of it by chance.
    fresh = _unqueried(test.x, transfer_set.x)
    account = acquired.account
    return Outcome(
        metrics=extraction.extraction(probabilities, truth, test.y, deployed)
        | {
            "extraction.fidelity_half": fidelity_half,
            "extraction.fidelity_unqueried": extraction.share(agreement, fresh),
            "extraction.fidelity_on_queries": on_queries,
            "extraction.answered": account.answered / account.sent if account.sent else None,
        }
        | uniform
        | _restoration_errors(victim, transfer_set.restoration)
        | {f"extraction.{name}": value for name, value in transfer_set.facts.items()},
        arrays={"agreement": agreement.astype(np.uint8), "correct": correct.astype(np.uint8)}
        | ({SURROGATE_LABEL: guess.astype(np.uint8)} if victim.classes <= 256 else {}),
        info=Info(
            queries=account.counts(),
            learnt=len(transfer_set.x),
            steps=surrogate.steps,
            flags=flags,
            confusion=extraction.confusion(test.y, guess, victim.classes),
            **_size_of_training(surrogate),
        ),
        costs=_costs(acquired.timings, training, surrogate),
    )


def _size_of_training(surrogate: TrainedSurrogate) -> dict[str, Any]:
    """Return what a training took in, by the name in a record; nothing where it was none."""
    taken = {"rows": surrogate.rows, "unlabelled": surrogate.unlabelled}
    return {name: value for name, value in taken.items() if value is not None}


def _restoration_errors(victim: Victim, restoration: Restoration | None) -> dict[str, float | None]:
    """Return the mean L1 from the victim's answers: of bought ones, of their labels, of restored ones."""
    if restoration is None:
        return {}
    truth = victim.probabilities(restoration.x)
    known = np.isfinite(truth).all(axis=1)  # of a live target, answers are known to what was bought alone
    labels = np.eye(truth.shape[1])[restoration.answers.argmax(axis=1)]
    read = {"answers": restoration.answers, "labels": labels, "restored": restoration.restored}
    return {
        f"extraction.l1_{name}": float(np.abs(rows - truth)[known].sum(axis=1).mean())
        if known.any()
        else None
        for name, rows in read.items()
    }


def _costs(acquisition: Timings, training: Timings, surrogate: TrainedSurrogate) -> Costs:
    return Costs(
        seconds=acquisition.wall | training.wall,
        cpu_seconds=acquisition.cpu | training.cpu,
        shared=surrogate.shared,
        memory_mib=memory_mib(),
    )


def _unqueried(x: Images, queries: Images) -> NDArray[np.bool_]:
    """Return (n,) True for the inputs that are not among the queries, byte for byte."""
    queried = {hashlib.blake2b(row.tobytes()).digest() for row in queries}
    return np.array([hashlib.blake2b(row.tobytes()).digest() not in queried for row in x], dtype=bool)


def _uniform_agreement(
    cell: Cell, surrogate: TrainedSurrogate, context: WorkerContext
) -> dict[str, float | None]:
    """Return the agreement on uniform inputs of the victim's space, by name; nothing for images."""
    victim = context.victim(cell.victim)

    def draw() -> tuple[Images, NDArray[np.intp]] | None:
        x = uniform_inputs(victim.splits, str(cell.victim))
        return None if x is None else (x, victim.probabilities(x).argmax(axis=1))

    drawn = context.once(("uniform inputs", cell.victim), draw)
    if drawn is None:
        return {}
    x, label = drawn
    return {"extraction.fidelity_uniform": float((surrogate.probabilities(x).argmax(axis=1) == label).mean())}


def _agreement_on_queries(surrogate: TrainedSurrogate, victim: Victim, queries: Images) -> float | None:
    if not len(queries):
        return None
    guess = surrogate.probabilities(queries).argmax(axis=1)
    answers = victim.probabilities(queries)
    # Of a live target, answers are known to what was bought alone.
    return extraction.share(guess == answers.argmax(axis=1), np.asarray(np.isfinite(answers).all(axis=1)))
