"""What honest users pay, and what answers look like: rows that take no training to see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from bench.gate.decisions import Trial, cheaper, needed
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.definitions import find, shown_in
from bench.metrics.intervals import Interval
from bench.metrics.pooled_difference import Contrast, Prior, p_value_above, p_value_below
from bench.store import Record

NATS = 0.05
"""Difference of the mean negative log-likelihood of honest answers that is put up with."""
FACT = 0.01
"""Difference of a fact of answers (a share, nats, a distance) from which the fact has changed."""
ROUNDING = 1e-12
"""What a difference may be beyond a limit, or two draws differ by, for arithmetic alone."""


def honest(where: str, old: Record, new: Record, tolerance: float, *, paired: bool) -> Iterator[Trial]:
    """Give what honest users pay, on the same test inputs.

    Without noise that is a fact of these inputs. Where noise is drawn, it has the error of the draws;
    ``paired``: draw r is from the same stream in both.
    """
    for metric in shown_in("gate difference"):
        name, label, way = metric.name, metric.words_for(metric.name), -1 if metric.higher_is_better else 1
        limit, unit = (NATS, "nats") if metric.unit == "nats" else (tolerance, "%")
        before, after = old.metrics.get(name), new.metrics.get(name)
        row = ComparisonRow(RowKind.honest, where, label, Decision.same, before, after, unit=unit)
        if before is None or after is None:
            if before is not after:
                yield Trial(replace(row, verdict=Decision.missing), settled=True)
            continue
        drawn = [list((evaluation.info.get("drawn") or {}).get(name, ())) for evaluation in (old, new)]
        spread = None if drawn[0] == drawn[1] else draws(*drawn, paired=paired)
        if spread is None:
            worse = way * (after - before)
            row = replace(row, difference=Interval(after - before, math.nan, math.nan))
            if abs(worse) > limit + ROUNDING:
                row = replace(row, verdict=Decision.costlier if worse > 0 else Decision.stronger)
            yield Trial(cheaper(row), settled=True)
        else:
            yield _noisy(row, Contrast(way * (after - before), *spread), way, limit)


def draws(
    old: Sequence[float], new: Sequence[float], *, paired: bool = False
) -> tuple[float, int, float, float, int] | None:
    """Return what noise adds to the difference of two means of draws, as a contrast has it; None if nothing.

    A side whose draws are all equal has drawn once, whatever its number of repeats; one without draws
    has no noise. ``paired``: where both sides vary, draw r of one belongs to draw r of the other.
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


def _noisy(row: ComparisonRow, each: Contrast, way: int, limit: float) -> Trial:
    error = Prior().error(each)
    half = float(special.stdtrit(error.freedom, 0.975)) * error.size
    value = way * each.value
    return Trial(
        replace(row, difference=Interval(value, value - half, value + half)),
        p_value_above(each, error, limit),
        p_value_below(each, error, -limit),
        max(p_value_below(each, error, limit), p_value_above(each, error, -limit)),
        lambda alpha: needed(each, Prior(), limit, alpha),
    )


def answered(where: str, old: Record, new: Record) -> Iterator[ComparisonRow]:
    """Give the facts of answers that have changed, or one row that says that none has."""
    facts = [facts_of(old), facts_of(new)]
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
        elif abs(after - before) > (1 if name == "contract.latency" else FACT) + ROUNDING:
            away = Interval(after - before, math.nan, math.nan)
            rows.append(
                ComparisonRow(RowKind.contract, where, label, Decision.changed, before, after, away, "")
            )
    same = ComparisonRow(RowKind.contract, where, "every fact of its answers", Decision.same, unit="")
    yield from rows or [same]


def facts_of(evaluation: Record) -> dict[str, float | None]:
    """Return the facts of answers that an audit holds, by metric."""
    facts = shown_in("gate fact")
    found = {fact.name: evaluation.metrics[fact.name] for fact in facts if fact.name in evaluation.metrics}
    shown = evaluation.metrics.items()
    found |= {name: value for name, value in shown if "gate fact" in find(name).tables}
    taken = evaluation.info.get("latency_us") or {}
    if "256" in taken:
        found["contract.latency"] = float(round(math.log10(max(float(taken["256"]), 0.1))))
    return found
