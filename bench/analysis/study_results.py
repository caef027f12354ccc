"""The measured values of a replication's rows, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.analysis.claim_rule import OTHER_VICTIM, prediction_interval
from bench.analysis.interval_text import limits
from bench.analysis.study_units import number, scale, with_unit
from bench.errors import nearest
from bench.metrics.definitions import find
from bench.metrics.intervals import Interval, mean_interval, paired_difference, value_interval
from bench.plan.study import COST_PREFIXES, PublishedValue, Study, axis_values, matching_specs, repeat_groups
from bench.records import Record
from bench.tasks import Cell, Task

ARRAYS = {"extraction.fidelity": "agreement", "extraction.accuracy": "correct"}
"""Metrics that are stored input by input, and the arrays that hold them."""
NOTHING = Interval(math.nan, math.nan, math.nan)
NORMAL = float(special.ndtri(0.975))


@dataclass(frozen=True, eq=False)
class Value:
    """What a row shows.

    ``status``: "ok", or in words why there is no value, with ``reason`` where one is known.
    ``interval``: fractions, seconds or plain numbers, its limits NaN where there are none; of
    seconds it is median, minimum and maximum. ``by_repeat``: the value of each repeat; empty for
    defense evaluations. ``planned``: how many repeats there should be. ``note``: which alternative was taken.
    """

    row: PublishedValue
    status: str
    interval: Interval = NOTHING
    by_repeat: Mapping[int, float] = field(default_factory=dict)
    records: Sequence[Record] = ()
    planned: int = 0
    reason: str = ""
    note: str = ""

    @property
    def flags(self) -> Counter[str]:
        """How many of the records carry each flag."""
        return Counter(flag for record in self.records for flag in record.info.flags)

    @property
    def timed(self) -> bool:
        """Whether the value is a median of seconds."""
        return self.row.metric.startswith(COST_PREFIXES)

    @property
    def short(self) -> str:
        """The value with its unit, or why there is none."""
        if self.status != "ok":
            return self.status
        return with_unit(self.row, number(self.row, self.interval.value))

    @property
    def text(self) -> str:
        """The value with its unit and limits: ``88.7 % (88.1–89.3)``, seconds ``4.1 s (3.9 to 4.4)``."""
        if self.status != "ok" or math.isnan(self.interval.low):
            return self.short
        low, high = (number(self.row, limit) for limit in (self.interval.low, self.interval.high))
        return f"{self.short} {limits(low, high, ' to ' if self.timed else '')}"

    @property
    def prediction(self) -> str:
        """Where one further repeat would lie, with 1 pp for another victim: ``53.7 to 89.2``, of a share."""
        found = prediction_interval(list(self.by_repeat.values()), extra=OTHER_VICTIM)
        if math.isnan(found.low):
            return "(too few repeats)"
        return f"{number(self.row, found.low)} to {number(self.row, found.high)}"

    @property
    def beside(self) -> float | None:
        """Measured minus published, in the row's unit (pp for shares); None where one is missing."""
        if self.status != "ok" or self.row.published is None:
            return None
        return scale(self.row) * self.interval.value - self.row.published


def evaluate(
    study: Study, records: Sequence[Record], missing: Sequence[Task] = (), *, whole: bool = True
) -> dict[str, Value]:
    """Return what every row shows, by the rows' names.

    ``missing``: tasks that were planned and have no record. ``whole``: the run left nothing of its
    matrix out, so that a pool without records is one without data. Cells of a confirmation run are left out:
    a row is what the matrix' own repeats say.
    """
    records = [record for record in records if not record.spec.get("confirmation")]
    missing = [task for task in missing if not (isinstance(task, Cell) and task.confirmation)]
    found: dict[str, Value] = {}
    for row in study.rows.values():
        if not row.parts:
            found[row.id] = _measured(study, row, records, missing, whole=whole)
    for row in study.rows.values():
        if row.parts:
            found[row.id] = _derived(row, *(found[name] for name in row.parts))
    return {name: found[name] for name in study.rows}


def _measured(
    study: Study,
    row: PublishedValue,
    records: Sequence[Record],
    missing: Sequence[Task],
    *,
    whole: bool,
) -> Value:
    kind = "audit" if row.audited else "cell"
    having = [record for record in records if record.kind == kind]
    specs = [record.spec for record in having]
    specs += [task.spec() for task in missing if task.kind == kind]
    choices = list(row.where.choices()) if row.where else []
    for choice in choices:
        taken = matching_specs(choice, specs)
        if not taken:
            continue
        if len(repeat_groups(taken)) > 1:
            study.complain(row, "where leaves several groups of cells; name what tells them apart")
        own = [record for record in having if record.spec in taken]
        planned = int(taken[0]["repeats"])
        note = _instead(choices[0], choice, specs, whole=whole)
        return _of_group(row, own, planned, note)
    lacking = str(choices[0].get("pool", "")) if choices else ""
    away = whole and lacking and lacking not in {axis_values(spec).get("pool") for spec in specs}
    return Value(row, "not run", reason=f"{lacking} is not on this machine" if away else "")


def _instead(
    first: Mapping[str, Any], taken: Mapping[str, Any], specs: Sequence[dict[str, Any]], *, whole: bool
) -> str:
    """Return in words what stands in place of the first alternative."""
    there = [axis_values(spec) for spec in specs]
    parts = []
    for axis, value in taken.items():
        if value != first[axis]:
            away = whole and axis == "pool" and first[axis] not in {fact.get(axis) for fact in there}
            parts.append(
                f"{value}, since {first[axis]} {'is not on this machine' if away else 'was not run'}"
            )
    return "; ".join(parts)


def _of_group(row: PublishedValue, records: Sequence[Record], planned: int, note: str) -> Value:
    good = sorted((r for r in records if r.status == "ok"), key=lambda r: r.repeat)
    if not good:
        bad = next((r for r in records if r.status == "failed"), next(iter(records), None))
        if bad is None:
            return Value(row, "not run", planned=planned, note=note)
        status = bad.status.replace("_", " ")
        return Value(row, status, reason=_first_line(bad.error), planned=planned, note=note)
    pairs = [(r, value) for r in good if (value := _single(row, r)) is not None]
    if not pairs:
        return Value(row, "not measured", reason=_absent(row, good), records=good, planned=planned, note=note)
    own, values = [r for r, _ in pairs], [value for _, value in pairs]
    by_repeat = {} if row.audited else {r.repeat: value for r, value in pairs}
    return Value(row, "ok", _interval(row, own, values), by_repeat, own, planned, note=note)


def _single(row: PublishedValue, record: Record) -> float | None:
    """Return one record's value; None without one, or where its training came from the cache."""
    start, _, name = row.metric.partition(".")
    if f"{start}." in COST_PREFIXES:
        if name == "train" and record.costs.shared:
            return None
        taken = record.costs.seconds if start == "seconds" else record.costs.cpu_seconds
        return taken.get(name)
    if ARRAYS.get(row.metric) in record.arrays:
        return float(record.arrays[ARRAYS[row.metric]].mean())
    return record.metrics.get(row.metric)


def _absent(row: PublishedValue, records: Sequence[Record]) -> str:
    if row.metric.startswith(COST_PREFIXES):
        shared = all(record.costs.shared for record in records)
        return "every training came from the training cache" if shared else "no such time was taken"
    known = {name for record in records for name in record.metrics}
    return "" if row.metric in known else f"no metric {row.metric}; {nearest(row.metric, known)}"


def _first_line(text: str | None) -> str:
    return next(iter((text or "").splitlines()), "")


def _interval(row: PublishedValue, records: Sequence[Record], values: Sequence[float]) -> Interval:
    """Return mean and limits, by what the metric is made of; no limits with fewer than two repeats."""
    if row.audited:
        low, high = records[0].info.intervals.get(row.metric) or (math.nan, math.nan)
        return Interval(values[0], low, high)
    if row.metric.startswith(COST_PREFIXES):
        several = len(values) > 1
        low, high = (min(values), max(values)) if several else (math.nan, math.nan)
        return Interval(float(np.median(values)), low, high)
    return over_repeats(row.metric, records, values, percent=row.unit == "%")


def over_repeats(
    metric: str, records: Sequence[Record], values: Sequence[float], *, percent: bool = True
) -> Interval:
    """Return a cell metric's mean over repeats with limits; NaN limits for fewer than two repeats.

    ``values``: that of each record. ``percent``: the metric is a share.
    """
    if len(values) < 2:
        return Interval(values[0], math.nan, math.nan)
    hits = _hits(metric, records)
    if hits is not None:
        return mean_interval(hits)
    found = value_interval(values)
    if metric.startswith("membership."):
        found = _over_judged(found, records, metric)
    if find(metric).signed:
        return found
    # Student's t knows no bounds; a share, a loss and a distance do.
    most = 1.0 if percent else find(metric).largest
    return Interval(found.value, max(found.low, min(0.0, *values)), min(found.high, most))


def _hits(metric: str, records: Sequence[Record]) -> NDArray[np.uint8] | None:
    name = ARRAYS.get(metric, "")
    if any(name not in record.arrays for record in records):
        return None
    return np.stack([record.arrays[name] for record in records])


def _over_judged(interval: Interval, records: Sequence[Record], metric: str) -> Interval:
    """Widen an interval over repeats by what other judged records would have changed.

    ``info.errors`` holds each repeat's standard error over its records; repeats may judge the
    same ones, so that their mean is taken, not its share. The half-widths add in squares.
    """
    known = [e for r in records if (e := r.info.errors.get(metric)) is not None]
    judged = NORMAL * float(np.mean(known)) if known else 0.0
    half = math.hypot(interval.high - interval.value, judged)
    return Interval(interval.value, interval.value - half, interval.value + half)


def _derived(row: PublishedValue, a: Value, b: Value) -> Value:
    for part in (a, b):
        if part.status != "ok":
            return Value(row, part.status, reason=f"it needs {part.row.label}", planned=part.planned)
    records = [*a.records, *b.records]
    if not a.by_repeat:
        value = _apply(row, a.interval.value, b.interval.value)
        return Value(row, "ok", Interval(value, math.nan, math.nan), records=records)
    shared = sorted(a.by_repeat.keys() & b.by_repeat.keys())
    by_repeat = {repeat: _apply(row, a.by_repeat[repeat], b.by_repeat[repeat]) for repeat in shared}
    if not shared:
        return Value(row, "not run", reason=f"{a.row.label} and {b.row.label} have no repeat in common")
    if any(math.isnan(value) for value in by_repeat.values()):
        return Value(row, "not measured", reason=f"{a.row.label} is not above 0", records=records)
    interval = value_interval(list(by_repeat.values()))
    if row.difference and len(shared) > 1:
        interval = _paired(a, b, shared) or interval
    return Value(row, "ok", interval, by_repeat, records, max(a.planned, b.planned))


def _paired(a: Value, b: Value, shared: Sequence[int]) -> Interval | None:
    """Return the difference over repeats and test inputs, where both rows were judged on the same ones."""
    kept = [[r for r in part.records if r.repeat in shared] for part in (a, b)]
    left, right = (_hits(part.row.metric, own) for part, own in zip((a, b), kept, strict=True))
    tests = {(r.task.victim.data, r.task.victim.splits) for own in kept for r in own}
    if left is None or right is None or len(tests) > 1 or left.shape != right.shape:
        return None
    return paired_difference(left, right)


def _apply(row: PublishedValue, a: float, b: float) -> float:
    if row.difference:
        return a - b
    return (a - b) / a if a > 0 else math.nan  # of a negative value, a share would have the wrong sign
