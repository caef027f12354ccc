"""Runs as the matrix ``ci`` might have given, drawn from a bank of many repeats of every cell.

The bank is taken for the truth: two hundred repeats on the test inputs at hand. A drawn run has as many
repeats as one of the matrix ``ci``, with replacement, on as many test inputs as there are, with replacement,
the same for both sides of a comparison. So its true effects are known: they are the bank's. Defense
evaluations are drawn from those under many seeds of the noise (``streams.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.gate.baseline import Baseline
from bench.records import Info, PredicateRecord, Record
from bench.run_facts import Meta
from bench.tasks import Cell

Hits = NDArray[np.uint8]
Group = tuple[str, str, str]
"""Pool, attack and defense: what the cells of the bank differ in."""

REPEATS, REPEATS_ELSEWHERE = 40, 120
"""Repeats of a drawn run, those of the matrix ``ci``: for attacks with the victim's data, and without."""
OWN_POOL = "in-distribution"
NONE = "none"
SHIPPED = (
    NONE,
    "label_only",
    "rounded(decimals=1)",
    "gaussian_noise(scale=0.2)",
    "reverse_sigmoid(beta=1.0, gamma=0.5)",
    "mahalanobis(fpr=0.05, action=refuse, layers=all)",
)
"""The defenses of the matrix ``ci``."""
WORSE = {
    "honest.accuracy": -1,
    "honest.top1_kept": -1,
    "honest.ece": 1,
    "honest.nll": 1,
}
"""Measures of utility loss where noise is drawn, and the direction in which each is worse."""


@dataclass(frozen=True)
class Bank:
    """A run's cells by group and its audits by defense.

    ``hits``: (repeats, inputs). ``told``: what a record says beside it, by repeat. ``cells``: those of
    a drawn run, by repeat; to make them once is a fifth of the time. ``streams``: evaluations
    under other seeds of the noise, of defenses that have noise; else there is one evaluation.
    """

    hits: Mapping[Group, Hits]
    told: Mapping[Group, Sequence[Info]]
    cells: Mapping[Group, Sequence[Cell]]
    evaluations: Mapping[str, Record]
    streams: Mapping[str, Sequence[Record]]
    meta: Meta

    @classmethod
    def of(cls, run: Baseline, streams: Sequence[Record] = ()) -> Bank:
        """Sort the records of a run; raises ValueError where it is not whole."""
        missing = [*run.planned, *(each for each in (*run.records, *streams) if each.status != "ok")]
        if missing:
            raise ValueError(f"the bank lacks {len(missing)} results; moatbench run goes on with it")
        rows: dict[Group, dict[int, Record]] = {}
        cells: dict[Group, list[Cell]] = {}
        evaluations = {}
        for record in run.records:
            task = record.task
            defense = defense_name(record)
            if not isinstance(task, Cell):
                evaluations[defense] = record
                continue
            group = task.threat.pool, task.attack, defense
            cells.setdefault(group, _cells(task))
            rows.setdefault(group, {})[task.repeat] = record
        order = {group: [each[repeat] for repeat in sorted(each)] for group, each in rows.items()}
        hits = {group: np.stack([each.arrays["agreement"] for each in order[group]]) for group in order}
        told = {group: [Info(flags=each.info.flags) for each in order[group]] for group in order}
        noisy: dict[str, list[Record]] = {}
        for record in streams:
            noisy.setdefault(defense_name(record), []).append(record)
        return cls(hits, told, cells, evaluations, noisy, run.meta)

    @property
    def repeats(self) -> int:
        """Number of repeats of every group."""
        return min(len(table) for table in self.hits.values())

    @property
    def inputs(self) -> int:
        """Number of test inputs."""
        return min(int(table.shape[1]) for table in self.hits.values())

    def cut(self, changes: Mapping[str, str] | None = None, beside: Sequence[str] = ()) -> Bank:
        """Return the shipped defenses alone, and those named by ``beside``.

        ``changes``: what stands in the place of some of them, under their names.
        """
        kept = (*SHIPPED, *beside)
        of = {defense: (changes or {}).get(defense, defense) for defense in kept}
        hits, told, cells = {}, {}, {}
        for pool, attack, defense in self.hits:
            if defense in of:
                place, source = (pool, attack, defense), (pool, attack, of[defense])
                hits[place], told[place] = self.hits[source], self.told[source]
                cells[place] = self.cells[place]
        evaluations = {
            defense: as_of(self.evaluations[of[defense]], of[defense], defense) for defense in kept
        }
        streams = {
            defense: [as_of(each, of[defense], defense) for each in self.streams[of[defense]]]
            for defense in kept
            if of[defense] in self.streams
        }
        return replace(self, hits=hits, told=told, cells=cells, evaluations=evaluations, streams=streams)

    def lowered(self, points: float, where: set[Group], rng: np.random.Generator) -> Bank:
        """Return the bank with the means of some groups ``points`` lower, to within one hit.

        A baseline that is lower by as much makes the candidate exactly so much easier to extract. Half of
        the hits that go are all those of a few inputs, the other half scattered: a change that touches
        some inputs and one that touches some copies differ in what they add to the error.
        """
        hits = {
            group: lower(table, points, rng) if group in where else table
            for group, table in self.hits.items()
        }
        return replace(self, hits=hits)

    def cheaper(self, tolerances: float, nats: float, share: float, defenses: set[str]) -> Bank:
        """Return the bank with the utility loss lowered by so many tolerances, where noise is drawn.

        From draw to draw by between half and one and a half times as much.
        """
        evaluations, streams = dict(self.evaluations), dict(self.streams)
        for defense in defenses:
            evaluations[defense] = _cheaper(evaluations[defense], tolerances, nats, share)
            streams[defense] = [_cheaper(each, tolerances, nats, share) for each in streams.get(defense, ())]
        return replace(self, evaluations=evaluations, streams=streams)

    def detecting(self, points: float, defense: str) -> Bank:
        """Return the bank with a detector that flags so many ``points`` (a share) more of every pool."""
        evaluation = self.evaluations[defense]
        metrics = {
            name: value + points if value is not None and is_rate(name) else value
            for name, value in evaluation.metrics.items()
        }
        changed = replace(evaluation, metrics=metrics, arrays={})
        return replace(self, evaluations=dict(self.evaluations) | {defense: changed})

    def retrained(self, number: int) -> Bank:
        """Return the bank with the evaluations of a victim that was trained anew, the first being 0.

        Which inputs it flags is not kept, nor what its surrogates learn: these are drawn anew instead.
        """
        evaluations = {name: _retrained(each, number) for name, each in self.evaluations.items()}
        streams = {name: [_retrained(each, number) for each in own] for name, own in self.streams.items()}
        victims = [
            each.with_values(fingerprint=f"retrained {number}", answers=None) for each in self.meta.victims
        ]
        meta = self.meta.with_values(victims=[each.values() for each in victims])
        return replace(self, evaluations=evaluations, streams=streams, meta=meta)


def _cells(cell: Cell) -> list[Cell]:
    """Return the cells of a drawn run that differ from ``cell`` in their repeat alone."""
    repeats = REPEATS if cell.threat.pool == OWN_POOL else REPEATS_ELSEWHERE
    return [replace(cell, repeats=repeats, repeat=repeat) for repeat in range(repeats)]


def defense_name(record: Record) -> str:
    """Return the defense of a record, or "none"."""
    return record.task.defense[0] if record.task.defense else NONE


def is_rate(name: str) -> bool:
    """Return whether a metric is the share of a pool that a detector flags or rejects."""
    flagged = name.startswith("detection.") and name.count(".") == 1 and name != "detection.test"
    return flagged or name.startswith("contract.refused.")


def as_of(evaluation: Record, defense: str, place: str) -> Record:
    """Return an evaluation of ``defense`` as it would be if a change had made it of ``place``."""
    old, new = (text.partition("(")[0] for text in (defense, place))
    predicates: dict[str, PredicateRecord] = {}
    for name, each in evaluation.info.predicates.items():
        member, colon, rest = name.partition(": ")
        predicates[f"{new}: {rest}" if colon and member == old else name] = each
    values = {name: each.values() for name, each in predicates.items()}
    info = evaluation.info.with_values(predicates=values) if values else evaluation.info
    return replace(evaluation, info=info)


def _cheaper(evaluation: Record, tolerances: float, nats: float, share: float) -> Record:
    metrics, drawn = dict(evaluation.metrics), dict(evaluation.info.drawn)
    for name, way in WORSE.items():
        shift = -way * tolerances * (nats if name == "honest.nll" else share)
        if name in drawn:
            metrics[name] = float(metrics[name] or 0) + shift
            uneven = np.random.default_rng(len(name)).permutation(np.linspace(0.5, 1.5, len(drawn[name])))
            drawn[name] = list(np.asarray(drawn[name]) + shift * uneven)
    return replace(evaluation, metrics=metrics, info=evaluation.info.with_values(drawn=drawn))


def _retrained(evaluation: Record, number: int) -> Record:
    metrics, drawn = dict(evaluation.metrics), dict(evaluation.info.drawn)
    for name, values in evaluation.info.retrained.items():
        if name in metrics and metrics[name] is not None and number < len(values):
            shift = values[number] - float(metrics[name] or 0)
            metrics[name] = values[number]
            if name in drawn:
                drawn[name] = [each + shift for each in drawn[name]]
    return replace(evaluation, metrics=metrics, arrays={}, info=evaluation.info.with_values(drawn=drawn))


def lower(table: Hits, points: float, rng: np.random.Generator) -> Hits:
    """Return ``table`` (repeats, inputs) with its mean lower by ``points`` (a share), to within one hit."""
    count = round(points * table.size)
    if count > table.sum():
        raise ValueError(f"a mean of {table.mean():.3f} cannot be lowered by {points}")
    found = table.copy()
    for column in rng.permutation(table.shape[1]):
        if 2 * int(table.sum() - found.sum()) + int(found[:, column].sum()) > count:
            break
        found[:, column] = 0
    left = np.flatnonzero(found)
    found.flat[rng.choice(left, count - int(table.sum() - found.sum()), replace=False)] = 0
    return found


@dataclass(frozen=True)
class Draw:
    """Which repeats and inputs of a bank make a run, and the number of the noise's seed."""

    repeats: NDArray[np.int64]
    inputs: NDArray[np.int64]
    stream: int

    @classmethod
    def of(cls, bank: Bank, rng: np.random.Generator) -> Draw:
        """Draw both with replacement."""
        repeats = rng.integers(bank.repeats, size=REPEATS_ELSEWHERE)
        return cls(repeats, rng.integers(bank.inputs, size=bank.inputs), int(rng.integers(2**31)))

    def other_repeats(self, bank: Bank, rng: np.random.Generator) -> Draw:
        """Return another draw on the same inputs: a run whose streams are others."""
        repeats = rng.integers(bank.repeats, size=REPEATS_ELSEWHERE)
        return replace(self, repeats=repeats, stream=int(rng.integers(2**31)))

    def run(self, bank: Bank) -> Baseline:
        """Return the run that this draw makes of a bank."""
        records = []
        for group, table in bank.hits.items():
            cells = bank.cells[group]
            repeats = self.repeats[: len(cells)]
            rows = table[np.ix_(repeats, self.inputs)]
            told = [bank.told[group][repeat] for repeat in repeats]
            records += [
                Record("", cell, "ok", {}, {"agreement": row}, said)
                for cell, row, said in zip(cells, rows, told, strict=True)
            ]
        for defense, evaluation in bank.evaluations.items():
            task = replace(evaluation.task, defense=() if defense == NONE else (defense,))
            streams = bank.streams.get(defense, ())
            chosen = streams[self.stream % len(streams)] if streams else evaluation
            records.append(replace(chosen, task=task))
        return Baseline(bank.meta, records, [])
