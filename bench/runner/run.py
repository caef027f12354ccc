"""Runs a matrix: prepares victims, spreads cells over processes, stores results as they come."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench import plugins as registry
from bench.calls import parse_call
from bench.data import query_pools
from bench.errors import BudgetError, NotApplicable
from bench.models.determinism import on, single_thread, versions
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.runner.defense_evaluation import evaluate_defense
from bench.store import Outcome, Record, Store
from bench.tasks import Cell, Task, VictimSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What a worker needs beside the task: where data and shared trainings are, outside plugins, a device."""

    data_root: Path
    training_cache: Path | None
    plugins: tuple[Path, ...] = ()
    device: str = "cpu"


@cache
def opened(setting: Setting) -> WorkerContext:
    """Return this process' workbench of a setting, its plugins known."""
    for path in setting.plugins:
        registry.attacks.add_file(path)
        registry.defenses.add_file(path)
    return WorkerContext(setting.data_root, setting.training_cache)


Item = tuple[Task, str]
"""A task and its key."""
Backend = Callable[[Sequence[Item], Setting, WorkerContext], Iterator[Record]]
"""What does tasks away from here, and yields their records as they are made, in any order."""


def perform(setting: Setting, items: Sequence[Item]) -> list[Record]:
    """Run one audit, or the wanted repeats of one cell, in this process; an error becomes failed records."""
    context, first = opened(setting), items[0][0]
    try:
        with single_thread(), on(setting.device):
            if isinstance(first, Cell):
                outcomes = dict(zip(first.group(), run_cells(first.group(), context), strict=True))
                return [_record(item, "ok", outcomes[item[0]]) for item in items if isinstance(item[0], Cell)]
            return [_record(items[0], "ok", evaluate_defense(first, context))]
    except NotApplicable as reason:
        return [_record(item, "not_applicable", error=str(reason)) for item in items]
    except Exception as error:  # noqa: BLE001  # whatever a plugin raises must not stop the others
        return failed(items, f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()})


def failed(items: Sequence[Item], error: str, info: dict[str, Any] | None = None) -> list[Record]:
    """Return what is kept of tasks that did not run through."""
    return [_record(item, "failed", error=error, info=info) for item in items]


def _record(
    item: Item,
    status: str,
    outcome: Outcome | None = None,
    *,
    error: str | None = None,
    info: dict[str, Any] | None = None,
) -> Record:
    task, key = item
    made = outcome or Outcome({})
    declared = _declarations(task) if status == "ok" else {}
    everything = made.info | made.costs | declared | (info or {})
    return Record(key, task.kind, task.spec(), status, made.metrics, made.arrays, everything, error)


def _declarations(task: Task) -> dict[str, Any]:
    """Return the plugins' declarations that reports read from records, so that they need no plugin.

    A cell: its attack's ``knowledge`` and whether it is ``universal``. A defense evaluation: the names of
    the attacks that each defense of the stack is ``known_by``, by the defense's name.
    """
    if isinstance(task, Cell):
        attack = registry.attacks.get(parse_call(task.attack)[0])
        universal = bool(getattr(attack, "universal", False))
        return {"attack": {"knowledge": list(attack.knowledge), "universal": universal}}
    names = [parse_call(text)[0] for text in task.defense]
    return {"known_by": {name: list(registry.defenses.get(name).known_by) for name in names}}


def bundles(items: Iterable[Item]) -> list[list[Item]]:
    """Return what runs together: each audit alone, and the repeats of each cell."""
    found: dict[Task, list[Item]] = {}
    for task, key in items:
        found.setdefault(replace(task, repeat=0) if isinstance(task, Cell) else task, []).append((task, key))
    return list(found.values())


def _in_worker(parent: int, folder: str, setting: Setting, items: Sequence[Item]) -> list[Record]:
    if os.getppid() != parent:
        # The run was killed: what is still queued has nobody to be handed to.
        os._exit(1)
    # Workers outlive a run; a victim's file is named relative to where this one was started.
    os.chdir(folder)
    return perform(setting, items)


def keys(tasks: Sequence[Task], fingerprints: dict[VictimSpec, str], device: str = "cpu") -> list[str]:
    """Return each task's key: spec, victim, source of its plugins, versions, and device, hashed.

    An edited defense, another model or another version is never answered from an old result.
    """
    attack_source, defense_source = (
        cache(registry.attacks.source_digest),
        cache(registry.defenses.source_digest),
    )
    found = []
    for task in tasks:
        sources = [defense_source(text) for text in task.defense]
        if isinstance(task, Cell):
            sources.append(attack_source(task.attack))
        parts = [task.kind, task.spec(), fingerprints[task.victim], sources, versions()]
        if device != "cpu":
            parts.append(device)
        found.append(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())
    return found


def prepare(tasks: Sequence[Task], context: WorkerContext) -> dict[VictimSpec, str]:
    """Load or train every victim, look at every pool, and return the victims' fingerprints.

    Raises the error that the first cells would raise, before anything has run: missing data, a bad
    victim, or a budget that a pool cannot supply.
    """
    cells = [task for task in tasks if isinstance(task, Cell)]
    detected = (name for task in tasks if not isinstance(task, Cell) for name in task.pools)
    for name in dict.fromkeys((*(cell.threat.pool for cell in cells), *detected)):
        query_pools.require(name, context.data_root)
    fingerprints = {spec: context.victim(spec).fingerprint for spec in dict.fromkeys(t.victim for t in tasks)}
    wanted = dict.fromkeys((cell.victim, cell.threat.pool, cell.attack, cell.budget) for cell in cells)
    for spec, pool, attack, budget in wanted:
        splits = context.victim(spec).splits
        sizes = {"train": len(splits.train), "pool": len(splits.pool), "test": len(splits.test)}
        size = query_pools.size(pool, spec.data, sizes)
        supply = registry.attacks.build(attack).supply(size)
        if supply is not None and budget > supply:
            raise BudgetError(
                f"budget {budget} is larger than what pool {pool!r} supplies to {attack} ({supply} inputs); "
                "choose a smaller budget or a larger pool"
            )
    return fingerprints


def work(todo: Iterable[Item], setting: Setting, jobs: int) -> Iterator[Record]:
    """Yield records as they are made, in any order. ``jobs`` = 1 stays in this process."""
    if jobs == 1:
        for items in bundles(todo):
            yield from perform(setting, items)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    with parallel_config(backend="loky", inner_max_num_threads=1):
        pool = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        try:
            job = delayed(partial(_in_worker, os.getpid(), str(Path.cwd()), setting))
            for records in pool(job(items) for items in bundles(todo)):
                yield from records
        except BaseException:
            # Without this, workers finish what is dispatched before the command can end.
            get_reusable_executor().shutdown(wait=False, kill_workers=True)
            raise


def run(
    tasks: Sequence[Task],
    store: Store,
    setting: Setting,
    *,
    jobs: int,
    fresh: bool = False,
    elsewhere: Backend | None = None,
    progress: Callable[[Iterable[Record], int, int], Iterable[Record]] = lambda records, _done, _all: records,
) -> Counter[str]:
    """Run what the store does not have yet; return how many tasks ended in which status.

    ``progress`` wraps the stream of records: it gets the stream, the number already done and the
    number of all. Failed tasks are tried again; ``fresh`` forgets every record first. What has been
    stored stays stored however this ends. ``elsewhere``: who is to do the work, instead of ``jobs``
    processes here; the workbench holds the victims.
    """
    started = time.time()
    context = opened(setting)
    with single_thread():
        fingerprints = prepare(tasks, context)
        victims = [_describe(spec, context) for spec in fingerprints]
    named = keys(tasks, fingerprints, setting.device)
    if fresh:
        store.clear()
    store.set_plan((key, task.kind, task.spec()) for task, key in zip(tasks, named, strict=True))
    done = store.done()
    todo = [(task, key) for task, key in zip(tasks, named, strict=True) if key not in done]
    store.set_meta(victims=victims, versions=versions(), jobs=jobs, started=started, device=setting.device)
    records = elsewhere(todo, setting, context) if elsewhere and todo else work(todo, setting, jobs)
    for record in progress(records, len(tasks) - len(todo), len(tasks)):
        store.put(record)
        if record.status == "failed":
            log.error("%s failed: %s", " ".join(map(str, record.spec.values())), record.error)
    finished = time.time()
    counts = store.counts()
    store.set_meta(finished=finished, ran=len(todo))
    if setting.training_cache is not None and not store.missing():
        # The memo serves one run; its trainings would outweigh the results a hundredfold.
        shutil.rmtree(setting.training_cache, ignore_errors=True)
    return counts


def _describe(spec: VictimSpec, context: WorkerContext) -> dict[str, Any]:
    victim = context.victim(spec)
    accuracy = victim.accuracy()
    if victim.expected is not None and accuracy < victim.expected:
        log.warning("victim %s reaches %.3f, below the expected %.3f", spec, accuracy, victim.expected)
    sizes = {part: len(getattr(victim.splits, part).x) for part in ("train", "calibration", "pool", "test")}
    return {
        "victim": str(spec),
        "seed": spec.seed,
        "splits": spec.splits,
        "accuracy": accuracy,
        "expected": victim.expected,
        "fingerprint": victim.fingerprint,
        "sizes": sizes,
        "parameters": victim.parameters,
    }
