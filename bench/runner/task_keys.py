"""The keys of tasks, and why stored results no longer match them."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench import keys, plugins
from bench.calls import parse_call
from bench.data import data_files, query_pools
from bench.data.datasets import DATASETS
from bench.models import user_victims
from bench.models.determinism import versions
from bench.plan import feasibility
from bench.records import PlannedTask
from bench.runner.cells import RUNNERS
from bench.runner.defense_evaluation import evaluate_defense
from bench.sources import Code, code, module_digest
from bench.tasks import Cell, Task, VictimSpec

SHARED = ("bench.runner.cells", "bench.runner.local_backend")
"""Modules that run tasks of every family; what they import for other families does not count."""
COVERED = frozenset({"art", "numpy", "pydantic", "scipy", "sklearn", "torch", "torchvision"})
"""Libraries of plugins whose versions count in any case, or never matter."""


def task_keys(
    tasks: Sequence[Task],
    fingerprints: Mapping[VictimSpec, str],
    device: str = "cpu",
    data_root: Path | None = None,
    modules: Mapping[str, str] = MappingProxyType({}),
) -> list[PlannedTask]:
    """Return each task with its key; the ingredients of the key are all that the result depends on.

    ``modules``: by the ``data`` of users' victims, the module of their code, "" where a file holds the model.
    The ingredients are spec, victim, device, the files of the data sets, the versions of libraries, and the
    code: that of the harness as far as tasks of this family import it, and that of plugins and of a user's
    victim as far as it is not the harness's. So a result is never reused after an edit of what computed it.
    """
    harness, code_of = cache(harness_code), cache(code)

    @cache
    def source(kind: str, text: str, family: str) -> tuple[str, str, dict[str, str]]:
        own = code_of(*_modules(kind, text, modules))
        name = text if kind == "victim" else parse_call(text)[0]
        libraries = _library_versions(own.libraries - COVERED)
        return f"{keys.SOURCE}{kind} {name}", own.digest(without=harness(family).modules), libraries

    harness_digest = cache(lambda family: harness(family).digest())
    root = data_files.data_root(data_root)
    data = cache(lambda name: data_files.file_digest(name, root))
    attack_family = cache(lambda text: plugins.attacks.get(parse_call(text)[0]).family)
    found = []
    for task in tasks:
        family = attack_family(task.attack) if isinstance(task, Cell) else ""
        used = [("defense", text) for text in task.defense]
        if isinstance(task, Cell):
            used.append(("attack", task.attack))
        if task.victim.is_reference and modules.get(task.victim.data, task.victim.data):
            used.append(("victim", task.victim.data))
        parts: dict[str, list[str]] = {}
        libraries: dict[str, str] = {}
        for kind, text in used:
            name, digest, needed = source(kind, text, family)
            parts.setdefault(name, []).append(digest)
            libraries |= needed
        ingredients = {
            "victim": fingerprints[task.victim],
            "harness": harness_digest(family),
            "device": device,
            **{name: " ".join(digests) for name, digests in parts.items()},
            **{f"{keys.DATA}{name}": data(name) for name in _data_sets(task)},
            **keys.versions_of(libraries | versions()),
        }
        key = keys.compose("result", {"kind": task.kind, "spec": task.spec(), **ingredients})
        found.append(PlannedTask(key, task, ingredients))
    return found


def _data_sets(task: Task) -> list[str]:
    """Return the data sets that a task reads from files: the victim's and those of the pools."""
    pools = [task.threat.pool] if isinstance(task, Cell) else task.pools
    # Auxiliary data have the names of pools; "default" is never a data set.
    asked = feasibility.auxiliary_names(task.defense).values()
    names = dict.fromkeys((task.victim.data, *(query_pools.data_set(pool) for pool in (*pools, *asked))))
    return [name for name in names if name in DATASETS and DATASETS[name].fetchable]


def _modules(kind: str, text: str, modules: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules that define a plugin or a user's victim."""
    if kind == "victim":
        return (modules.get(text) or user_victims.module_of(text),)
    registry: plugins.Registry[Any] = plugins.attacks if kind == "attack" else plugins.defenses
    return registry.modules(text)


def _library_versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed libraries by name, from the names of their modules."""
    names = sorted({name for module in modules for name in _distributions().get(module, ())})
    return {name: importlib.metadata.version(name) for name in names}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def harness_code(family: str) -> Code:
    """Return the code that runs and measures cells of an attack's ``family``; defense evaluations for ""."""
    runner: Any = RUNNERS.get(family) if family else evaluate_defense
    found = code(runner.__module__) if runner else Code({})
    return Code(found.modules | {name: module_digest(name) for name in SHARED}, found.libraries)


def outdated(planned: Iterable[PlannedTask], stored: Iterable[PlannedTask]) -> str:
    """Return, in one sentence, how many stored results no longer match and why; empty if all do.

    ``planned``: the tasks without a result. ``stored``: what a store holds. A result of the same task with
    another key does not match.
    """
    old: dict[Task, list[Mapping[str, str]]] = {}
    for each in stored:
        old.setdefault(each.task, []).append(each.ingredients)
    reasons: Counter[str] = Counter()
    for each in planned:
        if each.task in old:
            # A store may hold several, of several edits: the nearest one.
            nearest = min((keys.changes(before, each.ingredients) for before in old[each.task]), key=len)
            reasons[" and ".join(nearest)] += 1
    if not reasons:
        return ""
    number = reasons.total()
    results = "result no longer matches" if number == 1 else "results no longer match"
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    return f"{number} stored {results}: {why}; {'it runs' if number == 1 else 'they run'} again"
