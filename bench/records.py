"""Records: the results of tasks as they are stored, exported and sent between processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from bench.tasks import Cell, DefenseEvaluation, Task, ThreatModel

COSTS = frozenset({"seconds", "cpu_seconds", "shared", "memory_mib", "latency_us", "undone"})
"""Parts of ``info`` that differ from run to run; everything else is equal bit for bit."""


@dataclass(frozen=True)
class Outcome:
    """The result of a task. ``arrays`` hold 0 and 1; ``costs`` hold what differs from run to run.

    Raises ValueError for a metric that is NaN or infinite: what cannot be measured is None.
    """

    metrics: dict[str, float | None]
    arrays: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(
                    f"metric {name} is {value}; a metric must be a finite number, "
                    "or None where it cannot be measured"
                )


@dataclass(frozen=True)
class Record:
    """A task's result as it is stored. ``status``: "ok", "failed" or "not_applicable"."""

    key: str
    kind: str
    spec: dict[str, Any]
    status: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def comparable(self) -> tuple[Any, ...]:
        """Return everything that must be equal bit for bit in two runs of the same task."""
        info = {name: value for name, value in self.info.items() if name not in COSTS}
        arrays = {name: value.tobytes() for name, value in self.arrays.items()}
        return self.key, self.kind, self.spec, self.status, self.metrics, arrays, info, self.error


@dataclass(frozen=True)
class PlannedTask:
    """A task of a plan, or of a record that is stored already.

    ``ingredients``: what went into the key, a digest or a text by name; empty for records of stores that
    were written before ingredients were kept.
    """

    key: str
    task: Task
    ingredients: Mapping[str, str] = field(default_factory=dict)


_TASKS: dict[str, pydantic.TypeAdapter[Any]] = {
    task.kind: pydantic.TypeAdapter(task) for task in (Cell, DefenseEvaluation)
}
_OFFICIAL = " (official splits)"


def task_of(kind: str, spec: Mapping[str, Any]) -> Task:
    """Return the task that ``task.spec()`` wrote; ``kind``: "cell" or "audit".

    Raises ValueError for anything else. Stores written before there were splits have the victim's name alone.
    """
    if kind not in _TASKS:
        raise ValueError(f"no task is of kind {kind!r}")
    values = dict(spec)
    name, data = str(values.pop("victim", "")), str(values.get("data", ""))
    own = name == data
    values["victim"] = {
        "data": values.pop("data", None),
        "architecture": "" if own else name.removesuffix(_OFFICIAL).removeprefix(f"{data}/"),
        "seed": values.pop("victim_seed", 0),
        "splits": values.pop("splits", "official" if name.endswith(_OFFICIAL) else "disjoint"),
    }
    if kind == Cell.kind:
        values["threat"] = {axis.name: values.pop(axis.name, None) for axis in fields(ThreatModel)}
    task: Task = _TASKS[kind].validate_python(values)
    return task
