"""Runs the repeats of a cell by the family of its attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import plugins
from bench.errors import UsageError, nearest
from bench.models.plugin_guard import build
from bench.records import Outcome
from bench.runner import extraction, membership
from bench.runner.context import WorkerContext
from bench.tasks import Cell

Runner = Callable[[Sequence[Cell], Any, WorkerContext], list[Outcome]]
RUNNERS: dict[str, Runner] = {"extraction": extraction.run, "membership": membership.run}
"""The function that runs and measures the repeats of a cell, by the family of its attack."""


def run_cells(cells: Sequence[Cell], context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where its attack does not apply."""
    attack = build(plugins.attacks, cells[0].attack)
    if attack.family not in RUNNERS:
        raise UsageError(
            f"attack {attack.name!r} is of family {attack.family!r}; {nearest(attack.family, RUNNERS)}"
        )
    return RUNNERS[attack.family](cells, attack, context)
