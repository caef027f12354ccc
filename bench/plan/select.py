"""Selects a part of a matrix: ``--only axis=value``."""

from __future__ import annotations

from collections.abc import Iterable

from bench.calls import parse_call
from bench.errors import UsageError, nearest, shown
from bench.tasks import Cell, DefenseEvaluation, Task

AXES = (
    *("data", "victim", "splits", "defense", "attack", "pool", "knowledge", "surrogate", "shows"),
    *("training", "budget", "repeat"),
)
"""The axes of a matrix, by the names that ``--only`` takes."""


def select(tasks: Iterable[Task], only: Iterable[str]) -> list[Task]:
    """Return the cells that have a given value on every axis of ``only``, and their defense evaluations.

    ``only`` holds texts ``axis=value``; an axis given twice admits both values. A defense or attack is
    named by its full text or by its plugin's name alone. Raises UsageError for an unknown axis, and for
    a value that no cell has.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, equals, value = text.partition("=")
        if not equals or axis not in AXES:
            raise UsageError(f"--only {shown(text)}: write axis=value; {nearest(axis, AXES)}")
        wanted.setdefault(axis, set()).add(value)
    every = list(tasks)
    cells = [task for task in every if isinstance(task, Cell)]
    kept = cells
    for axis, values in wanted.items():
        known = {name for task in cells for name in _names(task, axis)}
        for value in sorted(values):
            if value not in known:
                given = value if len(value) <= 80 and value.isprintable() else shown(value)
                raise UsageError(
                    f"--only {axis}={given}: nothing in this matrix has it; {nearest(value, known)}"
                )
        kept = [task for task in kept if values & _names(task, axis)]
    if not kept:
        raise UsageError("the matrix has no cells left after --only; select more values")
    defended = {(task.victim, task.defense) for task in kept}
    evaluations = [t for t in every if isinstance(t, DefenseEvaluation) and (t.victim, t.defense) in defended]
    return [*evaluations, *kept]


def _names(task: Task, axis: str) -> set[str]:
    value = {**task.spec(), "victim": task.victim.architecture or str(task.victim)}.get(axis)
    if axis == "defense":
        texts = list(task.defense) or ["none"]
        return {
            " + ".join(texts),
            " + ".join(parse_call(text)[0] for text in texts),
            *([texts[0]] if len(texts) == 1 else []),
        }
    if axis == "attack":
        return {str(value), parse_call(str(value))[0]}
    return {str(value)}
