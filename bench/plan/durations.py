"""How long tasks will take, by what finished tasks took on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

from bench.records import Record
from bench.tasks import Cell, Task, VictimSpec

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
        """Return the seconds that a task will take; None where nothing like it has finished.

        An attack that only ran with another surrogate takes longer by as much as any attack that ran with
        both.
        """
        for each in _descriptions(task):
            if each in self.means:
                return self.means[each] * self._slower(task, each)
        return None

    def _slower(self, task: Task, known: Hashable) -> float:
        """Return how much longer a task takes than those that ``known`` describes, by its surrogate."""
        if not isinstance(task, Cell) or known != (task.victim, task.attack):
            return 1.0
        wanted, ratios = task.threat.surrogate, [1.0]
        for attack, surrogate in [each[1:] for each in self.means if _names_surrogate(each, task.victim)]:
            with_wanted = self.means.get((task.victim, attack, wanted))
            if with_wanted and (task.victim, task.attack, surrogate) in self.means:
                ratios.append(with_wanted / max(self.means[task.victim, attack, surrogate], 1e-9))
        return max(ratios)

    def estimate(self, tasks: Iterable[Task]) -> Estimate:
        """Return the seconds of work of all the tasks of which something is known."""
        found = [self.of_task(task) for task in tasks]
        known = [seconds for seconds in found if seconds is not None]
        return Estimate(sum(known), len(found) - len(known))


def _names_surrogate(description: Hashable, victim: VictimSpec) -> TypeGuard[tuple[VictimSpec, str, str]]:
    """Return whether a description is (victim, attack, surrogate) of this victim."""
    return isinstance(description, tuple) and len(description) == 3 and description[0] == victim


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
