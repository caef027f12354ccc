"""How long tasks will take, by what finished tasks took on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from bench.records import Record
from bench.tasks import Cell, Task

_PARTS_OF_OTHERS = ("query_model", "query_defense")
"""Seconds that are part of those to acquire a transfer set."""


@dataclass(frozen=True)
class Estimate:
    """``seconds``: of work in one process. ``unknown``: tasks that nothing like them has finished."""

    seconds: float
    unknown: int


@dataclass(frozen=True)
class Durations:
    """Mean seconds of finished tasks by what they are, the most specific description first."""

    means: dict[Hashable, float] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Durations:
        """Return what these records took; those that failed or do not apply count for nothing."""
        taken: dict[Hashable, list[float]] = defaultdict(list)
        for record in records:
            if record.status == "ok" and (seconds := _seconds(record)) is not None:
                for description in _descriptions(record.task):
                    taken[description].append(seconds)
        return cls({each: sum(values) / len(values) for each, values in taken.items()})

    def of_task(self, task: Task) -> float | None:
        """Return the seconds that a task will take; None where nothing like it has finished."""
        return next((self.means[each] for each in _descriptions(task) if each in self.means), None)

    def estimate(self, tasks: Iterable[Task]) -> Estimate:
        """Return the seconds of work of all the tasks of which something is known."""
        found = [self.of_task(task) for task in tasks]
        known = [seconds for seconds in found if seconds is not None]
        return Estimate(sum(known), len(found) - len(known))


def _seconds(record: Record) -> float | None:
    parts = {name: s for name, s in record.costs.seconds.items() if name not in _PARTS_OF_OTHERS}
    if not parts:
        return None
    again = 0.0
    if isinstance(record.task, Cell) and record.task.defense and record.task.threat.knowledge != "none":
        # Whether the attack adapts is found out by acquiring once more, for all repeats together.
        again = parts.get("acquire", 0.0) / record.task.repeats
    return sum(parts.values()) + again


def _descriptions(task: Task) -> Iterator[Hashable]:
    """Yield what a task is like, from the most to the least specific."""
    if not isinstance(task, Cell):
        yield "evaluation", task.victim, task.defense
        yield "evaluation", task.victim, bool(task.defense)
        yield "evaluation", task.victim
        return
    who = (task.victim, task.attack, task.threat.surrogate, task.training, task.threat.shows)
    knows = (task.threat.knowledge, bool(task.defense))
    yield *who, *knows, task.threat.pool, task.defense, task.budget
    yield *who, *knows, task.threat.pool, task.budget
    yield *who, *knows, task.budget
    yield *who, *knows
    yield who
    yield task.victim, task.attack, task.threat.surrogate
    yield task.victim, task.attack
    yield (task.victim,)
