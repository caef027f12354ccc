"""Rows on defense evaluations, which need no training: utility loss, detection rates, answer statistics.

Where nothing random differs between the two runs, a difference is a fact and is compared with its limit.
Noise, and a victim that differs by more than rounding, make a test of it (:mod:`bench.gate.spread`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from bench.gate.decisions import RowTest, note_if_lower, repeats_needed
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.gate.spread import (
    ROUNDING,
    Difference,
    Sides,
    as_contrast,
    difference,
    finite,
    two_sided,
)
from bench.metrics.definitions import find, matching, shown_in
from bench.metrics.pooled_difference import Prior, p_value_above, p_value_below
from bench.records import Record

NATS = 0.05
"""Tolerated difference of the mean negative log-likelihood on the test split."""
STATISTIC_CHANGE = 0.01
"""Difference of an answer statistic (a share, nats, a distance) above which it has changed."""
LATENCY_CHANGE = 1
"""The same of the latency, in powers of ten."""
LATENCY = "contract.latency"
OF_THE_DEFENSE = {"contract.alone", "contract.again"}
"""Answer statistics that depend on the defense and its noise alone, whatever the victim."""
ALL_STATISTICS = "all answer statistics"
FLAGGED, REJECTED = "detection.*", "contract.refused.*"
"""Metrics of what a detector does to a pool; ``detection.test`` is the false alarms, a utility loss."""


def utility_rows(where: str, old: Record, new: Record, tolerance: float, sides: Sides) -> Iterator[RowTest]:
    """Yield a row for each measure of utility loss for benign users, on the same test inputs."""
    for metric in shown_in("gate difference"):
        name, way = metric.name, -1 if metric.higher_is_better else 1
        limit, unit = (NATS, "nats") if metric.unit == "nats" else (tolerance, "%")
        before, after = finite(old.metrics.get(name)), finite(new.metrics.get(name))
        label = metric.words_for(name)
        row = ComparisonRow(RowKind.honest, where, label, Decision.same, before, after, unit=unit)
        bits = "flagged.test" if name in _flagged_metrics(old, new) else ""
        each = difference(name, old, new, sides, bits)
        if each is not None:
            yield _tested(row, each, way, limit)
        elif before is not after:
            yield RowTest(replace(row, decision=Decision.missing), settled=True)


def _flagged_metrics(old: Record, new: Record) -> tuple[str, ...]:
    """Return the metrics that are means of ``flagged.test``: rejections too, where they are the flagged."""
    names = "honest.flagged", "honest.refused"
    same = all(each.metrics.get(names[0]) == each.metrics.get(names[1]) for each in (old, new))
    return names if same else names[:1]


def detection_rows(where: str, old: Record, new: Record, tolerance: float, sides: Sides) -> Iterator[RowTest]:
    """Yield a row for each pool's share of flagged queries, and of rejected ones where that is another.

    A stack that cannot flag, by its claims, flags nothing. False alarms are a utility loss.
    """
    flagged = _rates(old, new, FLAGGED)
    rejected = _rates(old, new, REJECTED)
    for pool, values in flagged.items():
        yield from _rate(where, f"detection.{pool}", pool, (old, new), values, tolerance, sides)
    for pool, values in rejected.items():
        if values != flagged.get(pool):
            yield from _rate(where, f"contract.refused.{pool}", "", (old, new), values, tolerance, sides)


def _rates(old: Record, new: Record, metric: str) -> dict[str, tuple[float | None, float | None]]:
    """Return the rates of both sides by pool, without the test split."""
    found: dict[str, tuple[float | None, float | None]] = {}
    start = metric.removesuffix("*")
    for name in dict.fromkeys([*old.metrics, *new.metrics]):
        if any(each.name == metric for each in matching(name)) and name != "detection.test":
            before, after = (_rate_of(name, each) for each in (old, new))
            if before is not None or after is not None:
                found[name.removeprefix(start)] = before, after
    return found


def _rate_of(name: str, evaluation: Record) -> float | None:
    """Return a rate; 0 where the stack claims that it cannot flag or reject, so that none was measured."""
    known = "claims" in evaluation.info.model_fields_set
    claims = evaluation.info.claims
    can = claims.may_flag if name.startswith("detection.") else claims.may_refuse
    if known and not can and name not in evaluation.metrics:
        return 0.0
    return finite(evaluation.metrics.get(name))


def _rate(
    where: str,
    name: str,
    pool: str,
    evaluations: tuple[Record, Record],
    values: tuple[float | None, float | None],
    tolerance: float,
    sides: Sides,
) -> Iterator[RowTest]:
    before, after = values
    label = find(name).words_for(name)
    row = ComparisonRow(RowKind.detection, where, label, Decision.same, before, after)
    if before is None:
        note = "the baseline does not have it"
        yield RowTest(replace(row, decision=Decision.cannot_tell, note=note), settled=True)
    elif after is None:
        yield RowTest(replace(row, decision=Decision.missing), settled=True)
    else:
        old, new = (
            replace(each, metrics=each.metrics | {name: value})
            for each, value in zip(evaluations, (before, after), strict=True)
        )
        each = difference(name, old, new, sides, f"flagged.{pool}" if pool else "")
        if each is not None:
            yield _tested(row, each, -1, tolerance)


def _tested(row: ComparisonRow, each: Difference, way: int, limit: float) -> RowTest:
    """Return the test of a difference against ``limit``; ``way``: 1 if a higher value is worse, else -1."""
    worse = way * each.value
    row = replace(row, before=each.before, after=each.after, difference=each.interval)
    beyond = abs(worse) > limit + ROUNDING
    if each.unknown:
        if beyond:
            row = replace(row, decision=Decision.cannot_tell, note=each.unknown)
        return RowTest(row, settled=True)
    if each.error is None or each.error.size == 0:
        if beyond:
            higher = Decision.costlier if row.kind is RowKind.honest else Decision.weaker
            row = replace(row, decision=higher if worse > 0 else Decision.stronger)
        return RowTest(note_if_lower(row), settled=True)
    contrast, error = as_contrast(each, way)
    return RowTest(
        row,
        p_value_above(contrast, error, limit),
        p_value_below(contrast, error, -limit),
        max(p_value_below(contrast, error, limit), p_value_above(contrast, error, -limit)),
        lambda alpha: _needed(row, each, limit, alpha),
    )


def _needed(row: ComparisonRow, each: Difference, limit: float, alpha: float) -> str:
    """Return what a decision would need, as text."""
    if each.noise is not None:
        return repeats_needed(each.noise, Prior(), limit, alpha)
    size = each.error.size if each.error else math.nan
    error = f"{100 * size:.1f} pp" if row.unit == "%" else f"{size:.2g} {row.unit}".strip()
    return f"the standard error is {error}, most of it from a victim that was trained anew"


def answer_rows(where: str, old: Record, new: Record, sides: Sides) -> Iterator[RowTest]:
    """Yield a row for each answer statistic, tested in both directions; see :func:`without_same`."""
    facts = [answer_statistics(old), answer_statistics(new)]
    yield RowTest(
        ComparisonRow(RowKind.contract, where, ALL_STATISTICS, Decision.same, unit=""), settled=True
    )
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        before, after = facts[0].get(name), facts[1].get(name)
        row = ComparisonRow(
            RowKind.contract, where, find(name).words_for(name), Decision.same, before, after, unit=""
        )
        if before is None and after is None:
            continue
        if before is None or after is None:
            yield RowTest(replace(row, decision=Decision.changed), settled=True)
        elif name == LATENCY:
            if abs(after - before) > LATENCY_CHANGE + ROUNDING:
                row = replace(row, decision=Decision.changed, difference=Difference(before, after).interval)
            yield RowTest(row, settled=True)
        else:
            own = replace(sides, equal=sides.equal or name in OF_THE_DEFENSE)
            if (each := difference(name, old, new, own)) is not None:
                yield _statistic(row, each)


def _statistic(row: ComparisonRow, each: Difference) -> RowTest:
    row = replace(row, before=each.before, after=each.after, difference=each.interval)
    beyond, limit = abs(each.value) > STATISTIC_CHANGE + ROUNDING, STATISTIC_CHANGE
    if each.unknown:
        if beyond:
            row = replace(row, decision=Decision.cannot_tell, note=each.unknown)
        return RowTest(row, settled=True)
    if each.error is None or each.error.size == 0:
        return RowTest(replace(row, decision=Decision.changed if beyond else Decision.same), settled=True)
    contrast, error = as_contrast(each)
    return RowTest(
        row,
        two_sided(each, limit),
        apart=max(p_value_below(contrast, error, limit), p_value_above(contrast, error, -limit)),
        still=lambda alpha: _needed(row, each, limit, alpha / 2),
    )


def without_same(rows: Iterable[ComparisonRow]) -> Iterator[ComparisonRow]:
    """Yield the rows, but of answer statistics that are the same one for all where no other is left."""
    kept = list(rows)
    told = {
        row.condition for row in kept if row.kind is RowKind.contract and row.decision is not Decision.same
    }
    for row in kept:
        same = row.kind is RowKind.contract and row.decision is Decision.same
        if not same or (row.what == ALL_STATISTICS and row.condition not in told):
            yield row


def answer_statistics(evaluation: Record) -> dict[str, float | None]:
    """Return the answer statistics of a defense evaluation by metric name; None where one is not finite."""
    facts = shown_in("gate fact")
    found = {fact.name: evaluation.metrics[fact.name] for fact in facts if fact.name in evaluation.metrics}
    shown = evaluation.metrics.items()
    found |= {
        name: value
        for name, value in shown
        if "gate fact" in find(name).tables and find(name).name not in (FLAGGED, REJECTED)
    }
    taken = evaluation.costs.latency_us.get("256")
    if taken is not None and math.isfinite(taken):
        found[LATENCY] = float(round(math.log10(max(taken, 0.1))))
    return {name: finite(value) for name, value in found.items()}
