"""Runs a matrix: prepares victims, hands tasks to a backend, stores results as they finish."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from bench import plugins
from bench.data import data_files, query_pools, sketches
from bench.errors import UsageError
from bench.files import CACHES, cache_root, remove_leftovers
from bench.models.determinism import single_thread, versions
from bench.models.victims import Victim
from bench.plan import feasibility
from bench.records import Record
from bench.run_facts import Meta, ReferenceAnswers, SplitSizes, VictimFacts
from bench.runner.context import WorkerContext
from bench.runner.local_backend import (
    Item,
    LocalBackend,
    WorkerSettings,
    shared_by_processes,
    worker_context,
)
from bench.runner.task_keys import outdated, task_keys
from bench.store import Store
from bench.tasks import Cell, Task, VictimSpec

log = logging.getLogger(__name__)


class Backend(Protocol):
    """Runs tasks: on this machine (:mod:`bench.runner.local_backend`) or on a Dask cluster."""

    def records(
        self, todo: Sequence[Item], settings: WorkerSettings, context: WorkerContext
    ) -> Iterator[Record]:
        """Yield a record for each task, in any order, as they finish. ``context`` holds the victims."""


def prepare(tasks: Sequence[Task], context: WorkerContext) -> dict[VictimSpec, str]:
    """Load or train every victim, check every pool, and return the victims' fingerprints.

    Raises, before anything has run, the error that the first cells would raise: missing data, an invalid
    victim, or a cell that its data rule out (:mod:`bench.plan.feasibility`). What costs nothing comes first.
    """
    cells = [task for task in tasks if isinstance(task, Cell)]
    specs = list(dict.fromkeys(task.victim for task in tasks))
    detected = (name for task in tasks if not isinstance(task, Cell) for name in task.pools)
    for name in dict.fromkeys((*(cell.threat.pool for cell in cells), *detected)):
        query_pools.require(name, context.data_root)
    for defense in dict.fromkeys(task.defense for task in tasks):
        for name in feasibility.auxiliary_names(defense).values():
            query_pools.require(name, context.data_root)
    for data in dict.fromkeys(spec.data for spec in specs if not spec.is_reference):
        data_files.require_all(data, context.data_root)
    fingerprints = {spec: context.victim(spec).fingerprint for spec in specs}
    facts = {spec: _facts(context.victim(spec)) for spec in specs}
    for spec, defense, pool in dict.fromkeys(
        (task.victim, task.defense, task.threat.pool if isinstance(task, Cell) else "none") for task in tasks
    ):
        origin = f"victim {spec}: " if spec.is_reference else ""
        try:
            feasibility.check_auxiliary(defense, pool, spec.data, facts[spec].layout)
        except UsageError as error:
            raise UsageError(f"{origin}{error}") from error
    for cell in dict.fromkeys(replace(cell, defense=(), repeat=0, training="rule") for cell in cells):
        origin = f"victim {cell.victim}: " if cell.victim.is_reference else ""
        try:
            feasibility.check_cell(cell, plugins.attacks.build(cell.attack), facts[cell.victim])
        except UsageError as error:
            raise UsageError(f"{origin}{error}") from error
    return fingerprints


def _facts(victim: Victim) -> feasibility.PlannedVictim:
    names = ("train", "calibration", "pool", "test", "shifted", "public")
    parts = {name: part for name in names if (part := getattr(victim.splits, name)) is not None}
    return feasibility.PlannedVictim(victim.shape, {name: len(part) for name, part in parts.items()})


def run(
    tasks: Sequence[Task],
    store: Store,
    settings: WorkerSettings,
    *,
    jobs: int,
    fresh: bool = False,
    backend: Backend | None = None,
    progress: Callable[[Iterable[Record], int, int], Iterable[Record]] = lambda records, _done, _all: records,
) -> Counter[str]:
    """Run the tasks without a record in the store; return the number of tasks by status.

    ``jobs``: worker processes on this machine; ``backend``: runs the tasks instead of them. Failed tasks
    run again; ``fresh`` deletes every record first. ``progress`` wraps the stream of records: it gets the
    stream, the number of tasks already done and the number of all. Every record is stored when its task
    finishes, so that an interrupted run keeps it.
    """
    started = time.time()
    settings = settings.as_they_are(tasks)
    context = worker_context(settings)
    for folder in CACHES:
        remove_leftovers(cache_root() / folder)
    with single_thread():
        fingerprints = prepare(tasks, context)
        victims = [_victim_facts(spec, context) for spec in fingerprints]
    modules = {spec.data: context.own.module(spec) for spec in fingerprints if spec.is_reference}
    own = tuple((spec, fingerprint) for spec, fingerprint in fingerprints.items() if spec.is_reference)
    settings = replace(settings, expected=own)
    plan = task_keys(tasks, fingerprints, settings.device, settings.data_root, modules)
    if fresh:
        store.clear()
    store.set_plan(plan)
    done = store.done()
    left = [each for each in plan if each.key not in done]
    todo = [(each.task, each.key) for each in left]
    if left and (message := outdated(left, (each for each in store.stored() if each.key in done))):
        log.warning(message)
    facts = Meta(victims=victims, versions=versions(), jobs=jobs, device=settings.device)
    # Where nothing is left to run, the times stay those of the run that did it.
    store.set_meta(facts.with_values(started=started) if todo else facts)
    if todo and backend is None and jobs > 1:
        settings = shared_by_processes(settings, context)
    chosen = backend if backend and todo else LocalBackend(jobs)
    records = chosen.records(todo, settings, context)
    undone: set[str] = set()
    for record in progress(records, len(tasks) - len(todo), len(tasks)):
        store.put(record)
        for note in set(record.costs.undone) - undone:
            undone.add(note)
            log.warning("%s", note)
        if record.status == "failed":
            log.error("%s failed: %s", " ".join(map(str, record.spec.values())), record.error)
    finished = time.time()
    counts = store.counts()
    if todo:
        store.set_meta(Meta(finished=finished, ran=len(todo)))
    if settings.training_cache is not None and not store.missing():
        # The training cache serves one run; it would take a hundred times the space of the results.
        shutil.rmtree(settings.training_cache, ignore_errors=True)
    return counts


def _victim_facts(spec: VictimSpec, context: WorkerContext) -> VictimFacts:
    """Return what a store keeps of a victim; warns where its accuracy is below the expected one."""
    victim = context.victim(spec)
    accuracy = victim.accuracy()
    if victim.expected is not None and accuracy < victim.expected:
        log.warning("victim %s reaches %.3f, below the expected %.3f", spec, accuracy, victim.expected)
    splits = victim.splits
    return VictimFacts(
        victim=str(spec),
        seed=spec.seed,
        splits=spec.splits,
        accuracy=accuracy,
        expected=victim.expected,
        fingerprint=victim.fingerprint,
        recipe=victim.recipe,
        data=sketches.data_digest(splits),
        sketch=sketches.data_sketch(splits),
        answers=ReferenceAnswers.of(victim.probabilities(splits.test.x)),
        sizes=SplitSizes(
            train=len(splits.train.x),
            calibration=len(splits.calibration.x),
            pool=len(splits.pool.x),
            test=len(splits.test.x),
        ),
        parameters=victim.parameters,
        notes=list(victim.notes),
    )
