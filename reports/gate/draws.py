"""Runs as the matrix ``ci`` might have given, drawn from a bank of many repeats of every cell.

The bank is taken for the truth: two hundred repeats on the test inputs at hand. A drawn run has twenty
repeats, with replacement, on as many test inputs as there are, with replacement, the same for both sides
of a comparison. So its true effects are known: they are the bank's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.gate.baseline import Baseline
from bench.records import Info, Record
from bench.run_facts import Meta
from bench.tasks import Cell

Hits = NDArray[np.uint8]
Group = tuple[str, str, str]
"""Pool, attack and defense: what the cells of the bank differ in."""

REPEATS = 20
"""Repeats of a drawn run: those of the matrix ``ci``."""
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

    ``hits``: (repeats, inputs). ``told``: what a record says beside it, by repeat.
    """

    hits: Mapping[Group, Hits]
    told: Mapping[Group, Sequence[Info]]
    specs: Mapping[Group, Cell]
    evaluations: Mapping[str, Record]
    meta: Meta

    @classmethod
    def of(cls, run: Baseline) -> Bank:
        """Sort the records of a run; raises ValueError where it is not whole."""
        missing = [*run.planned, *(record for record in run.records if record.status != "ok")]
        if missing:
            raise ValueError(f"the bank lacks {len(missing)} results; moatbench run goes on with it")
        rows: dict[Group, dict[int, Record]] = {}
        specs, evaluations = {}, {}
        for record in run.records:
            task = record.task
            defense = task.defense[0] if task.defense else NONE
            if not isinstance(task, Cell):
                evaluations[defense] = record
                continue
            group = task.threat.pool, task.attack, defense
            specs[group] = task
            rows.setdefault(group, {})[task.repeat] = record
        order = {group: [each[repeat] for repeat in sorted(each)] for group, each in rows.items()}
        hits = {group: np.stack([each.arrays["agreement"] for each in order[group]]) for group in order}
        told = {group: [Info(flags=each.info.flags) for each in order[group]] for group in order}
        return cls(hits, told, specs, evaluations, run.meta)

    @property
    def repeats(self) -> int:
        """Number of repeats of every group."""
        return min(len(table) for table in self.hits.values())

    @property
    def inputs(self) -> int:
        """Number of test inputs."""
        return min(int(table.shape[1]) for table in self.hits.values())

    def cut(self, changes: Mapping[str, str] | None = None) -> Bank:
        """Return the shipped defenses alone; ``changes``: what stands in the place of some of them."""
        of = {defense: (changes or {}).get(defense, defense) for defense in SHIPPED}
        hits, told, specs = {}, {}, {}
        for pool, attack, defense in self.hits:
            if defense in of:
                place, source = (pool, attack, defense), (pool, attack, of[defense])
                hits[place], told[place] = self.hits[source], self.told[source]
                specs[place] = self.specs[place]
        evaluations = {defense: self.evaluations[of[defense]] for defense in SHIPPED}
        return replace(self, hits=hits, told=told, specs=specs, evaluations=evaluations)

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
        evaluations = dict(self.evaluations)
        for defense in defenses:
            evaluation = evaluations[defense]
            metrics, drawn = dict(evaluation.metrics), dict(evaluation.info.drawn)
            for name, way in WORSE.items():
                shift = -way * tolerances * (nats if name == "honest.nll" else share)
                if name in drawn:
                    metrics[name] = float(metrics[name] or 0) + shift
                    uneven = np.random.default_rng(len(name)).permutation(
                        np.linspace(0.5, 1.5, len(drawn[name]))
                    )
                    drawn[name] = list(np.asarray(drawn[name]) + shift * uneven)
            info = evaluation.info.with_values(drawn=drawn)
            evaluations[defense] = replace(evaluation, metrics=metrics, info=info)
        return replace(self, evaluations=evaluations)


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
    """Which repeats and inputs of a bank make a run."""

    repeats: NDArray[np.int64]
    inputs: NDArray[np.int64]

    @classmethod
    def of(cls, bank: Bank, rng: np.random.Generator) -> Draw:
        """Draw both with replacement."""
        return cls(rng.integers(bank.repeats, size=REPEATS), rng.integers(bank.inputs, size=bank.inputs))

    def other_repeats(self, bank: Bank, rng: np.random.Generator) -> Draw:
        """Return another draw on the same inputs: a run whose streams are others."""
        return replace(self, repeats=rng.integers(bank.repeats, size=REPEATS))

    def run(self, bank: Bank) -> Baseline:
        """Return the run that this draw makes of a bank."""
        records = []
        for group, table in bank.hits.items():
            cell = replace(bank.specs[group], repeats=REPEATS)
            rows = table[np.ix_(self.repeats, self.inputs)]
            told = [bank.told[group][repeat] for repeat in self.repeats]
            records += [
                Record("", replace(cell, repeat=place), "ok", {}, {"agreement": row}, said)
                for place, (row, said) in enumerate(zip(rows, told, strict=True))
            ]
        for defense, evaluation in bank.evaluations.items():
            task = replace(evaluation.task, defense=() if defense == NONE else (defense,))
            records.append(self._audited(replace(evaluation, task=task)))
        return Baseline(bank.meta, records, [])

    def _audited(self, evaluation: Record) -> Record:
        """Return an audit of twenty draws of noise; every value moves by as much as the mean of its draws."""
        drawn = {name: np.asarray(values) for name, values in evaluation.info.drawn.items()}
        kept = {name: values[self.repeats] for name, values in drawn.items()}
        metrics = dict(evaluation.metrics)
        for name, values in kept.items():
            metrics[name] = float(metrics[name] or 0) + float(values.mean() - drawn[name].mean())
        told = {name: [float(each) for each in values] for name, values in kept.items()}
        return replace(evaluation, metrics=metrics, info=evaluation.info.with_values(drawn=told))
