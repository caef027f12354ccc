"""The recipe of a publication as it was measured here, and what explains that it gives another result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.claim_records import Estimate, SameRecipe
from bench.analysis.claim_rule import OTHER_VICTIM, holds, prediction_interval
from bench.analysis.interval_text import number
from bench.analysis.published_claims import Claim, Quantity
from bench.analysis.study_results import ARRAYS
from bench.errors import UsageError
from bench.metrics.flags import FLAGS
from bench.metrics.intervals import paired_difference
from bench.plan.study import Where, matching_specs, repeat_groups
from bench.records import Record
from bench.tasks import Cell


@dataclass(frozen=True, eq=False)
class RecipeResult:
    """Cells of one recipe with the defense and without it, in the repeats that both have.

    ``undefended``, ``defended``: (repeats, test inputs), 1 where the surrogate is right. ``warnings``: names
    of the reliability warnings that any of the cells has by which numbers cannot be used.
    """

    cell: Cell
    undefended: NDArray[Any]
    defended: NDArray[Any]
    warnings: tuple[str, ...] = ()

    @property
    def losses(self) -> list[float]:
        """The loss of each repeat, a fraction."""
        return [float(each) for each in self.undefended.mean(axis=1) - self.defended.mean(axis=1)]

    def as_record(self, seeds: int) -> SameRecipe:
        """Return what is stored of it. ``seeds``: how many the publication averages over."""
        return SameRecipe(
            undefended=float(self.undefended.mean()),
            defended=float(self.defended.mean()),
            loss=Estimate.of(paired_difference(self.undefended, self.defended)),
            predicted=Estimate.of(prediction_interval(self.losses, seeds, OTHER_VICTIM)),
            repeats=len(self.losses),
            warnings=list(self.warnings),
        )


def recipe_result(
    where: Where, records: Sequence[Record], quantity: Quantity, without: Where | None = None
) -> RecipeResult | None:
    """Return the first alternative of ``where`` that was run with the defense and without it.

    ``without``: which cells are those without it; None for the same but for the defense.
    Only cells that ended well count, and none of a confirmation run. None where no alternative has both.
    Raises UsageError where an alternative selects several groups of repeats.
    """
    array = ARRAYS[f"extraction.{quantity}"]
    usable = [
        record
        for record in records
        if isinstance(record.task, Cell)
        and record.status == "ok"
        and array in record.arrays
        and not record.task.confirmation
    ]
    specs = [record.spec for record in usable]
    for choice in where.choices():
        against = _by_repeat(usable, matching_specs(choice, specs))
        others = without.choices() if without else iter([choice | {"defense": ()}])
        for other in others if against else ():
            free = _by_repeat(usable, matching_specs(other, specs))
            if shared := sorted(against.keys() & free.keys()):
                left, right = (
                    np.stack([side[repeat].arrays[array] for repeat in shared]) for side in (free, against)
                )
                used = [side[repeat] for side in (free, against) for repeat in shared]
                return RecipeResult(against[shared[0]].cell, left, right, _invalidating(used))
    return None


def _invalidating(records: Sequence[Record]) -> tuple[str, ...]:
    flags = {flag for record in records for flag in record.info.flags}
    return tuple(sorted(flag for flag in flags if flag in FLAGS and FLAGS[flag].invalidates))


def _by_repeat(records: Sequence[Record], specs: Sequence[Mapping[str, Any]]) -> dict[int, Record]:
    """Return the records with these specs by repeat; raises UsageError for those of several groups."""
    groups = repeat_groups(specs)
    if len(groups) > 1:
        texts = ", ".join(sorted({f"{group['attack']} on {group['defense']}" for group in groups}))
        raise UsageError(f"a claim's where selects {len(groups)} groups of cells ({texts}); name one")
    wanted = {id(spec) for spec in specs}
    return {record.repeat: record for record in records if id(record.spec) in wanted}


def cause(claim: Claim, here: RecipeResult, controls: Mapping[str, RecipeResult]) -> str:
    """Return in a clause what was measured of a result that differs from the published one.

    A control that gives the published loss is the cause. Else both levels are named.
    ``controls``: results by what was changed.
    """
    published, seeds = claim.published_loss, claim.seeds or 1
    for label, result in controls.items():
        predicted = prediction_interval(result.losses, seeds, OTHER_VICTIM)
        if published is not None and holds(predicted, published):
            return f"{label}, the loss is {number(100 * predicted.value, 1)} pp, which agrees"
    if claim.undefended is None or claim.defended is None:
        return ""
    parts = []
    for words, theirs, table in (
        ("without the defense", claim.undefended, here.undefended),
        ("with it", claim.defended, here.defended),
    ):
        level = prediction_interval([float(row.mean()) for row in table], seeds, OTHER_VICTIM)
        low, high = (number(100 * limit, 1) for limit in (level.low, level.high))
        parts.append(
            f"{words} the surrogate reaches {number(100 * level.value, 1)} % ({low} to {high} in a further "
            f"run), published are {number(theirs, 1)} %"
        )
    return "; ".join(parts)
