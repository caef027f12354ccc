"""One cell, start to end: what is done with it is its attack family's business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import plugins
from bench.errors import UsageError, nearest
from bench.runner import extraction, membership
from bench.runner.context import WorkerContext
from bench.store import Outcome
from bench.tasks import Cell

Runner = Callable[[Sequence[Cell], Any, WorkerContext], list[Outcome]]
FAMILIES: dict[str, Runner] = {"extraction": extraction.run, "membership": membership.run}
"""How the repeats of a cell are run and measured, by the family that the attack declares."""


def run_cells(cells: Sequence[Cell], context: WorkerContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where it makes no sense."""
    attack = plugins.attacks.build(cells[0].attack)
    if attack.family not in FAMILIES:
        raise UsageError(
            f"attack {attack.name!r} is of family {attack.family!r}; {nearest(attack.family, FAMILIES)}"
        )
    return FAMILIES[attack.family](cells, attack, context)
