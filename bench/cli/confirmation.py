"""The confirmation run: which cells repeat the best defenses of a run with fresh random seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.analysis.findings import Findings
from bench.analysis.recommendation import Selected, selected
from bench.analysis.threat_models import UNDEFENDED, Defense, VictimThreatModel, defense_of
from bench.plan.matrix import Matrix
from bench.records import Record
from bench.run_facts import Meta
from bench.seeds import derive
from bench.tasks import Cell, Task

MOST = 3
"""Largest number of defenses of a victim that are confirmed."""


def confirmation_cells(
    tasks: Sequence[Task], records: Sequence[Record], meta: Meta, seed: int
) -> tuple[list[Selected], list[Cell]]:
    """Return what a run selected to be confirmed, and the cells of the confirmation run, in their order.

    ``tasks``: those of the run, all finished; ``records``: their results; ``seed``: that of the matrix. For
    each victim the cells are those of no defense and of the selected defenses at the selected budget, under
    the selected threat model and the weaker ones that it includes, with new seeds. Where a selected defense
    keeps every label, results against ``label_only`` hold for it too, so these are among them.
    """
    findings = Findings.of_run(records, meta)
    chosen = [each for each in selected(findings, meta.report) if each.defenses]
    cells: dict[Cell, None] = {}
    for each in chosen:
        defenses = {UNDEFENDED, *each.defenses}
        if any(findings.carries_over(each.threat, defense) for defense in each.defenses):
            defenses |= {d for d in map(defense_of, tasks) if findings.is_label_only(d)}
        cells |= dict.fromkeys(_fresh(tasks, each, defenses, meta.report.confirm, seed))
    return chosen, list(cells)


def _fresh(
    tasks: Iterable[Task], chosen: Selected, defenses: Iterable[Defense], repeats: int, seed: int
) -> list[Cell]:
    """Return the cells of these defenses under the selected threat model and weaker ones, with new seeds."""
    threats = {chosen.threat, *chosen.threat.weaker()}
    wanted = set(defenses)
    planned = {
        replace(task, repeat=0)
        for task in tasks
        if isinstance(task, Cell)
        and task.budget == chosen.budget
        and defense_of(task) in wanted
        and VictimThreatModel.of(task) in threats
    }
    firsts = [task for task in tasks if task in planned]
    own = derive(seed, "confirmation")
    return [
        cell
        for first in firsts
        for cell in replace(first, repeats=repeats, seed=own, confirmation=True).group()
    ]


def most_cells(matrix: Matrix, tasks: Sequence[Task], repeats: int) -> int:
    """Return the largest number of cells that a confirmation run of these tasks can have.

    What will be selected is not known before the tasks are finished: for each victim, that is the threat
    model with most cells, and the defenses with most. ``repeats``: of the confirmation run.
    """
    counts: dict[VictimThreatModel, dict[int, dict[Defense, int]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(int))
    )
    data = {}
    for task in tasks:
        if isinstance(task, Cell) and task.repeat == 0 and task.budget:
            threat = VictimThreatModel.of(task)
            counts[threat][task.budget][defense_of(task)] += 1
            data[threat.victim] = task.victim.data
    most: dict[str, int] = defaultdict(int)
    for threat in counts:
        sources = [counts[each] for each in (threat, *threat.weaker()) if each in counts]
        budget = matrix.budgets_by_data.get(data[threat.victim])
        budgets = {each for source in sources for each in source}
        total: dict[Defense, int] = defaultdict(int)
        for source in sources:
            for defense, number in source[budget if budget in budgets else max(budgets)].items():
                total[defense] += number
        undefended = total.pop(UNDEFENDED, 0)
        # Besides the selected ones label_only, whose results hold for defenses that keep labels.
        defended = sum(sorted(total.values(), reverse=True)[: MOST + 1])
        most[threat.victim] = max(most[threat.victim], undefended + defended if defended else 0)
    return repeats * sum(most.values())
