"""What ``moatbench run --plan`` prints: the cells of a matrix and the time they will take; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from bench.cli.progress import duration
from bench.cli.session import Session
from bench.errors import StoreError
from bench.plan.durations import Durations
from bench.records import Record, victim_name
from bench.runner.local_backend import available_cores
from bench.store import Store
from bench.tasks import Cell, Task


def plan_text(session: Session, *, jobs: int, fresh: bool) -> str:
    """Return what ``session`` would run in ``jobs`` processes (0: one per core), and how long that takes.

    The time is that of the tasks which the store does not hold, from what those took that it holds.
    """
    records, done = _stored(session, fresh=fresh)
    left = [task for task in session.tasks if task not in done]
    jobs = jobs or available_cores()
    later = session.later()
    lines = [
        f"{session.matrix.name}: {session.matrix.description}".rstrip(": "),
        "",
        _table(session.tasks),
        "",
        _counts(session.tasks, len(session.tasks) - len(left), later),
        _time(left, records, jobs, later),
    ]
    return "\n".join(lines)


def _stored(session: Session, *, fresh: bool) -> tuple[Sequence[Record], set[Task]]:
    """Return the records of the session's store and the tasks that they finish; none without a store."""
    try:
        with Store(session.store) as store:
            records = store.records()
    except StoreError:
        if session.store.exists():
            raise
        return [], set()
    return records, set() if fresh else {each.task for each in records if each.status != "failed"}


def _table(tasks: Sequence[Task]) -> str:
    """Return a row for each victim, attacker and attack: its defenses, budgets and number of cells."""
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for task in tasks:
        if isinstance(task, Cell):
            threat = task.threat
            key = (victim_name(task.victim), threat.pool, threat.knowledge, threat.surrogate, task.attack)
            rows.setdefault(key, []).append(task)
    body = [
        (
            *key,
            len({cell.defense for cell in cells}),
            " ".join(f"{budget:,}" for budget in sorted({cell.budget for cell in cells})),
            max(cell.repeats for cell in cells),
            len(cells),
        )
        for key, cells in rows.items()
    ]
    headers = ("victim", "pool", "knows", "surrogate", "attack", "defenses", "queries", "repeats", "cells")
    return tabulate(body, headers=headers)


def _counts(tasks: Sequence[Task], stored: int, later: int) -> str:
    cells = sum(isinstance(task, Cell) for task in tasks)
    budgets = sorted({task.budget for task in tasks if isinstance(task, Cell)})
    text = (
        f"{cells:,} cells and {len(tasks) - cells:,} defense evaluations, {stored:,} of them stored; "
        f"{len({task.defense for task in tasks})} defenses (none included), "
        f"{len({task.attack for task in tasks if isinstance(task, Cell)})} attacks, "
        f"{len(budgets)} budgets"
    )
    return text + (f"; up to {later:,} more cells confirm what they suggest" if later else "")


def _time(left: Sequence[Task], records: Sequence[Record], jobs: int, later: int) -> str:
    if not left:
        # Keys hold the victim and the code; only a run compares them.
        more = " or something is to be confirmed" if later else ""
        return f"time: nothing is left to run, unless code, data or versions have changed since{more}"
    if not records:
        return "time: unknown until the first cells have run"
    found = Durations.of(records).estimate(left)
    cells = sum(isinstance(task, Cell) for task in left)
    text = f"time: about {duration(found.seconds / jobs)} in {jobs} process{'es' * (jobs != 1)}"
    if found.unknown:
        text += f" for {len(left) - found.unknown:,} of {len(left):,}; nothing like the others has run yet"
    elif later and cells:
        most = found.seconds * (1 + later / cells)
        text += f", up to {duration(most / jobs)} with the confirmation"
    return f"{text} (from what finished cells took)"
