"""Rows on defense evaluations, which need no training: utility loss and answer statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from bench.gate.decisions import RowTest, note_if_lower, repeats_needed
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.definitions import find, shown_in
from bench.metrics.intervals import Interval
from bench.metrics.pooled_difference import Contrast, Prior, p_value_above, p_value_below
from bench.records import Record

NATS = 0.05
"""Tolerated difference of the mean negative log-likelihood on the test split."""
STATISTIC_CHANGE = 0.01
"""Difference of an answer statistic (a share, nats, a distance) above which it has changed."""
ROUNDING = 1e-12
"""Tolerated rounding error in comparisons with a limit, and between two draws."""


def utility_rows(
    where: str, old: Record, new: Record, tolerance: float, *, paired: bool
) -> Iterator[RowTest]:
    """Yield a row for each measure of utility loss for benign users, on the same test inputs.

    Without noise the difference is exact. Where noise is drawn, it has the error of the draws;
    ``paired``: draw r has the same random seed in both runs.
    """
    for metric in shown_in("gate difference"):
        name, label, way = metric.name, metric.words_for(metric.name), -1 if metric.higher_is_better else 1
        limit, unit = (NATS, "nats") if metric.unit == "nats" else (tolerance, "%")
        before, after = finite(old.metrics.get(name)), finite(new.metrics.get(name))
        row = ComparisonRow(RowKind.honest, where, label, Decision.same, before, after, unit=unit)
        if before is None or after is None:
            if before is not after:
                yield RowTest(replace(row, decision=Decision.missing), settled=True)
            continue
        drawn = [evaluation.info.drawn.get(name, ()) for evaluation in (old, new)]
        spread = None if drawn[0] == drawn[1] else noise_error(*drawn, paired=paired)
        if spread is None:
            worse = way * (after - before)
            row = replace(row, difference=Interval(after - before, math.nan, math.nan))
            if abs(worse) > limit + ROUNDING:
                row = replace(row, decision=Decision.costlier if worse > 0 else Decision.stronger)
            yield RowTest(note_if_lower(row), settled=True)
        else:
            yield _noisy(row, Contrast(way * (after - before), *spread), way, limit)


def finite(value: float | None) -> float | None:
    """Return a metric's value; None, as for one that was not measured, where it is NaN or infinite.

    No difference from NaN exceeds a tolerance, so that any change to it would pass as none.
    """
    return value if value is not None and math.isfinite(value) else None


def noise_error(
    old: Sequence[float], new: Sequence[float], *, paired: bool = False
) -> tuple[float, int, float, float, int] | None:
    """Return the error that noise adds to the difference of two means of draws; None if there is none.

    The values are those of :class:`~bench.metrics.pooled_difference.Contrast` after the first. A side whose
    draws are all equal counts as one draw; one without draws has no noise. ``paired``: where both sides
    vary, draw r of one belongs to draw r of the other.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (old, new)]
    moving = [side for side in sides if len(side) > 1 and np.ptp(side) > 0]
    weight = sum(1 / len(side) if np.ptp(side) > 0 else 1.0 for side in sides if len(side))
    if paired and len(moving) == 2 and len(old) == len(new):
        moving, weight = [moving[1] - moving[0]], 1 / len(old)
        if np.ptp(moving[0]) <= ROUNDING:
            return None
    if not moving:
        return None
    freedom = sum(len(side) - 1 for side in moving)
    spread = sum(float(side.var(ddof=1)) * (len(side) - 1) for side in moving) / freedom
    return spread, freedom, weight, 0.0, min(len(side) for side in moving)


def _noisy(row: ComparisonRow, each: Contrast, way: int, limit: float) -> RowTest:
    error = Prior().error(each)
    half = float(special.stdtrit(error.freedom, 0.975)) * error.size
    value = way * each.value
    return RowTest(
        replace(row, difference=Interval(value, value - half, value + half)),
        p_value_above(each, error, limit),
        p_value_below(each, error, -limit),
        max(p_value_below(each, error, limit), p_value_above(each, error, -limit)),
        lambda alpha: repeats_needed(each, Prior(), limit, alpha),
    )


def answer_rows(where: str, old: Record, new: Record) -> Iterator[ComparisonRow]:
    """Yield a row for each answer statistic that has changed, or one row that none has."""
    facts = [stored_answer_statistics(old), stored_answer_statistics(new)]
    rows = []
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        before, after = facts[0].get(name), facts[1].get(name)
        if before is None and after is None:
            continue
        label = find(name).words_for(name)
        if before is None or after is None:
            rows.append(
                ComparisonRow(RowKind.contract, where, label, Decision.changed, before, after, unit="")
            )
        elif abs(after - before) > (1 if name == "contract.latency" else STATISTIC_CHANGE) + ROUNDING:
            away = Interval(after - before, math.nan, math.nan)
            rows.append(
                ComparisonRow(RowKind.contract, where, label, Decision.changed, before, after, away, "")
            )
    same = ComparisonRow(RowKind.contract, where, "all answer statistics", Decision.same, unit="")
    yield from rows or [same]


def stored_answer_statistics(evaluation: Record) -> dict[str, float | None]:
    """Return the answer statistics of a defense evaluation by metric name; None where one is not finite."""
    facts = shown_in("gate fact")
    found = {fact.name: evaluation.metrics[fact.name] for fact in facts if fact.name in evaluation.metrics}
    shown = evaluation.metrics.items()
    found |= {name: value for name, value in shown if "gate fact" in find(name).tables}
    taken = evaluation.costs.latency_us.get("256")
    if taken is not None and math.isfinite(taken):
        found["contract.latency"] = float(round(math.log10(max(taken, 0.1))))
    return {name: finite(value) for name, value in found.items()}
