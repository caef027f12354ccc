"""What the gate says of runs whose true effects are known, and how often its intervals hold them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from draws import NONE, REPEATS, SHIPPED, WORSE, Bank, Draw, Group, Hits
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from scipy import special

from bench.analysis.multiple_tests import ALPHA
from bench.analysis.threat_models import VictimThreatModel, defense_of, victim_of
from bench.data.data_files import data_root
from bench.exit_codes import ExitCode
from bench.gate.command import exit_code
from bench.gate.compare import TOLERANCE, Comparison, compare
from bench.gate.defense_rows import NATS
from bench.gate.rows import ComparisonRow, Decision, Names, RowKind
from bench.metrics.definitions import shown_in
from bench.metrics.intervals import Interval, mean_interval, paired_difference
from bench.metrics.pooled_difference import Contrast, common_prior, contrast
from bench.records import Record
from bench.runner.local_backend import WorkerSettings, worker_context
from bench.runner.noise_checks import noise_independence
from bench.tasks import DefenseEvaluation

ALARMS = (Decision.broken, Decision.weaker, Decision.costlier)
CHANCE = 0.001
"""p-value at which dependence counts as found: Holm asks for .045 over the number of tests, about thirty."""
EFFECTS = (0, 1, 2, 3, 4, 5, 6, 8)
"""True effects in points at which power is measured."""
NOISY = "gaussian_noise(scale=0.2)"
"""The shipped defense whose utility loss is drawn."""
TESTED = (RowKind.strength, RowKind.sentinel, RowKind.honest)
"""Families whose power is always measured; detection rates are a fact where the victim is the same."""
SHIFTED = {metric.words_for(metric.name) for metric in shown_in("gate difference") if metric.name in WORSE}
DETECTOR = SHIPPED[5]
TEMPERED = "tempered"
"""A defense of the bank that the matrix ``ci`` does not have."""
PLANTED = {
    "label-only answers to none at all": {"label_only": NONE},
    "`rounded(decimals=1)` to `rounded(decimals=4)`": {"rounded(decimals=1)": "rounded(decimals=4)"},
    "ReverseSigmoid's β from 1 to .3": {
        "reverse_sigmoid(beta=1.0, gamma=0.5)": "reverse_sigmoid(beta=0.3, gamma=0.5)"
    },
    "Mahalanobis' thresholds doubled": {DETECTOR: DETECTOR.replace("mahalanobis", "mahalanobis_doubled")},
    "Mahalanobis flags a fifth less of synthetic queries": {
        DETECTOR: DETECTOR.replace("mahalanobis", "mahalanobis_lenient")
    },
    "label-only answers read from rounded ones": {"label_only": "label_only_of_rounded"},
    "label-only answers that show the second class by 1e-4": {
        "label_only": "label_only_leaking(size=0.0001)"
    },
    "the same by 1e-6, within the entry of the top-1": {"label_only": "label_only_hiding(size=1e-06)"},
    "a softmax with T = .5 where T = 1 is claimed": {TEMPERED: "tempered_sharper"},
    "noise drawn once an input, not once a query": {NOISY: "gaussian_noise_by_input(scale=0.2)"},
    "noise with one seed for all repeats and clients": {NOISY: "gaussian_noise_one_seed(scale=0.2)"},
    "noise with sixteen seeds": {NOISY: "gaussian_noise_sixteen_seeds(scale=0.2)"},
    "noise, a tenth of which is drawn once an input": {NOISY: "gaussian_noise_mixed(scale=0.2, share=0.1)"},
}
"""Changes of a defense, each by what stands in its place in the bank."""


@dataclass(frozen=True)
class Mode:
    """How candidate and baseline belong together: the same seeds or others; the same victim or retrained."""

    name: str
    paired: bool
    retrained: bool = False


PAIRED = Mode("same seeds", paired=True)
APART = Mode("other seeds", paired=False)
ELSEWHERE = Mode("other seeds, retrained victim", paired=False, retrained=True)
RETRAININGS = 10
"""Retrained victims of the bank's defense evaluations."""


def seeded(*what: Any) -> np.random.Generator:
    """Return a generator that depends on all of ``what`` and on nothing else."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big"))


def compared(before: Bank, after: Bank, mode: Mode, *what: Any) -> Comparison:
    """Draw a run from each of two banks and compare them."""
    rng = seeded(mode.name, *what)
    draw = Draw.of(before, rng)
    other = draw if mode.paired else draw.other_repeats(after, rng)
    if mode.retrained:
        after = after.retrained(int(rng.integers(RETRAININGS)))
    return compare(draw.run(before), other.run(after))


def many(
    before: Bank, after: Bank, mode: Mode, runs: int, look: Callable[[Comparison], Any], *what: Any
) -> list[Any]:
    """Return what ``look`` sees in so many comparisons."""

    def some(numbers: Sequence[int]) -> list[Any]:
        return [look(compared(before, after, mode, *what, number)) for number in numbers]

    return _spread(some, runs)


def _spread(some: Callable[[Sequence[int]], list[Any]], runs: int) -> list[Any]:
    """Return what ``some`` gives for the numbers of all runs, in order, on all cores."""
    parts = [list(part) for part in np.array_split(np.arange(runs), cpu_count()) if len(part)]
    told = Parallel(n_jobs=-1)(delayed(some)([int(number) for number in part]) for part in parts)
    return list(chain.from_iterable(told))


def verdicts(comparison: Comparison) -> Counter[tuple[RowKind, Decision]]:
    """Count the rows by family and verdict."""
    return Counter((row.kind, row.decision) for row in comparison.rows)


def changeable(bank: Bank, mode: Mode) -> set[Group]:
    """Return the groups that a change may touch: with the same seeds, undefended surrogates stay."""
    return {group for group in bank.hits if not (mode.paired and group[2] == NONE)}


@dataclass(frozen=True)
class Outcome:
    """The verdicts of one comparison by family, and its exit codes by default and with ``--strict``."""

    verdicts: Counter[tuple[RowKind, Decision]]
    default: ExitCode
    strict: ExitCode

    @classmethod
    def of(cls, comparison: Comparison) -> Outcome:
        """Return the outcome of a comparison."""
        default, strict = (ExitCode(exit_code(comparison, strict=strict)) for strict in (False, True))
        return cls(verdicts(comparison), default, strict)


def at_tolerance(bank: Bank, mode: Mode, tolerances: float, runs: int) -> list[Outcome]:
    """Return the outcomes of runs in which every row's true effect is so many tolerances."""
    before = bank
    if tolerances:
        before = bank.lowered(tolerances * TOLERANCE, changeable(bank, mode), seeded("lowered", tolerances))
        before = before.cheaper(tolerances, NATS, TOLERANCE, {NOISY})
    return many(before, bank, mode, runs, Outcome.of, "tolerance", tolerances)


def largest(bank: Bank, draws: int) -> tuple[float, float, int]:
    """Return what the largest statistic of all attackers exceeds in 5 % of runs at the tolerance.

    That is what a bootstrap of it would ask for; then what Bonferroni's (and Holm's first) step asks for,
    and the number of attackers.
    """
    before = bank.lowered(TOLERANCE, set(bank.hits), seeded("lowered", 1))

    def some(numbers: Sequence[int]) -> list[tuple[float, float]]:
        found = []
        for number in numbers:
            rng = seeded("largest", number)
            draw = Draw.of(bank, rng)
            other = draw.other_repeats(bank, rng)
            each = [
                contrast(
                    bank.hits[group][np.ix_(other.repeats, other.inputs)],
                    before.hits[group][np.ix_(draw.repeats, draw.inputs)],
                    paired=False,
                )
                for group in bank.hits
            ]
            errors = [common_prior(each).error(one) for one in each]
            top = max((one.value - TOLERANCE) / error.size for one, error in zip(each, errors, strict=True))
            found.append((top, float(special.stdtrit(errors[0].freedom, 1 - ALPHA / len(each)))))
        return found

    told = np.array(_spread(some, draws))
    return float(np.quantile(told[:, 0], 1 - ALPHA)), float(np.median(told[:, 1])), len(bank.hits)


@dataclass(frozen=True)
class Power:
    """Of the rows of one family that have a true effect: shares by verdict, and the least power of a row."""

    alarm: float
    unsure: float
    same: float
    least: float
    where: str
    rows: int


def power(bank: Bank, mode: Mode, effect: float, runs: int) -> dict[RowKind, Power]:
    """Return the power against a true effect (points) at one place at a time, all else unchanged.

    The utility loss is changed where noise is drawn: shares by as many points, likelihood in proportion
    to its own tolerance.
    """
    names = Names(records(bank))
    found: dict[RowKind, dict[str, Counter[Decision]]] = defaultdict(lambda: defaultdict(Counter))

    def count(before: Bank, place: str, *what: Any) -> None:
        def rows(comparison: Comparison) -> list[ComparisonRow]:
            # The best attack under a condition, and a tracked attack under it; the utility loss of a defense.
            return [row for row in comparison.rows if row.condition == place and row.kind in TESTED]

        for row in chain.from_iterable(many(before, bank, mode, runs, rows, "power", effect, place, *what)):
            if row.kind is not RowKind.honest or row.what in SHIFTED:
                found[row.kind][f"{row.what}, {row.condition}"][row.decision] += 1

    for pool, defense in sorted({(group[0], group[2]) for group in changeable(bank, mode)}):
        where = {group for group in bank.hits if (group[0], group[2]) == (pool, defense)}
        cell = bank.cells[min(where)][0]
        before = bank.lowered(effect / 100, where, seeded("lowered", effect, pool, defense))
        count(before, names.condition((VictimThreatModel.of(cell), defense_of(cell), cell.budget)))
    before = bank.cheaper(effect / (100 * TOLERANCE), NATS, TOLERANCE, {NOISY})
    victim = victim_of(bank.evaluations[NOISY].task)
    count(before, ", ".join([victim, names.stack((NOISY,))]))
    return {family: _power(rows) for family, rows in found.items()}


def detection_power(bank: Bank, effect: float, runs: int) -> Power:
    """Return the power against a detector that flags ``effect`` points less, with a retrained victim."""
    place = ", ".join([victim_of(bank.evaluations[DETECTOR].task), Names(records(bank)).stack((DETECTOR,))])

    def rates(comparison: Comparison) -> list[ComparisonRow]:
        return [row for row in comparison.rows if row.kind is RowKind.detection and row.condition == place]

    found: dict[str, Counter[Decision]] = defaultdict(Counter)
    before = bank.detecting(effect / 100, DETECTOR)
    for row in chain.from_iterable(many(before, bank, ELSEWHERE, runs, rates, "detecting", effect)):
        found[row.what][row.decision] += 1
    return _power(found)


def dependence(evaluation: DefenseEvaluation, shares: Sequence[float], seeds: int) -> dict[float, float]:
    """Return in what share of evaluations noise is found that is drawn once an input, by its share.

    ``shares``: correlations between the noise of two queries of one input. It is found where a p-value of
    the tests of its independence is at most :data:`CHANCE`.
    """

    def some(numbers: Sequence[int]) -> list[bool]:
        settings = WorkerSettings(data_root(), None, (Path(__file__).with_name("planted.py"),))
        context, found = worker_context(settings), []
        for number in numbers:
            share, seed = shares[number // seeds], number % seeds
            text = f"gaussian_noise_mixed(scale=0.2, share={share})"
            task = replace(evaluation, defense=(text,), seed=seed)
            tests = noise_independence(task, context)
            found.append(min(test.chance for test in tests.values()) <= CHANCE)
        return found

    told = _spread(some, len(shares) * seeds)
    return {
        share: sum(told[place * seeds : (place + 1) * seeds]) / seeds for place, share in enumerate(shares)
    }


def records(bank: Bank) -> Sequence[Record]:
    """Return the records of one run that is drawn from a bank."""
    return Draw.of(bank, seeded("names")).run(bank).records


def everywhere(bank: Bank, mode: Mode, effect: float, runs: int) -> dict[RowKind, float]:
    """Return the share of runs in which a family speaks, if all of its rows have a true effect (points)."""
    before = bank.lowered(effect / 100, changeable(bank, mode), seeded("lowered", effect))
    before = before.cheaper(effect / (100 * TOLERANCE), NATS, TOLERANCE, {NOISY})
    told = many(before, bank, mode, runs, verdicts, "everywhere", effect)
    return {
        family: sum(any(each[family, verdict] for verdict in ALARMS) for each in told) / runs
        for family in TESTED
    }


def _power(rows: Mapping[str, Counter[Decision]]) -> Power:
    whole: Counter[Decision] = sum(rows.values(), Counter())
    alarm = {name: sum(told[verdict] for verdict in ALARMS) / told.total() for name, told in rows.items()}
    least = min(alarm, key=lambda name: alarm[name])
    return Power(
        sum(whole[verdict] for verdict in ALARMS) / whole.total(),
        whole[Decision.cannot_tell] / whole.total(),
        whole[Decision.same] / whole.total(),
        alarm[least],
        least,
        whole.total(),
    )


@dataclass(frozen=True)
class Caught:
    """A change of defenses, or of nothing but seeds: its true effects in points, and what the gate says.

    ``by``: the share of runs in which each family spoke. ``default``, ``strict``: of runs with exit code 1.
    """

    strength: float
    sentinel: float
    by: dict[RowKind, float]
    default: float
    strict: float
    facts: dict[str, int]


def caught(whole: Bank, changes: Mapping[str, str], mode: Mode, runs: int) -> Caught:
    """Return what the gate says of a change; ``whole`` has the changed defenses too.

    No changes: a run in which only seeds, or a retrained victim, are others.
    """
    beside = [name for name in changes if name not in SHIPPED]
    bank, after = whole.cut(beside=beside), whole.cut(changes, beside)
    moved = [group for group in bank.hits if group[2] in changes]
    gains = {group: float(after.hits[group].mean() - bank.hits[group].mean()) for group in moved}
    best = {
        pool: max(float(after.hits[group].mean()) for group in moved if group[0] == pool)
        - max(float(bank.hits[group].mean()) for group in moved if group[0] == pool)
        for pool in {group[0] for group in moved}
    }
    spoken = {*ALARMS, Decision.changed}

    def loud(comparison: Comparison) -> tuple[set[RowKind], set[str], bool, bool]:
        rows = [row for row in comparison.rows if row.decision in spoken]
        default, strict = (exit_code(comparison, strict=strict) == 1 for strict in (False, True))
        return {row.kind for row in rows}, {f"{row.decision}: {row.what}" for row in rows}, default, strict

    seen = many(bank, after, mode, runs, loud, "planted", sorted(changes.items()))
    facts = Counter(chain.from_iterable(each[1] for each in seen))
    told = [gain for group, gain in gains.items() if group[1].startswith("copycat")]
    return Caught(
        100 * max(best.values(), default=0.0),
        100 * max(told, default=0.0),
        {family: sum(family in each[0] for each in seen) / runs for family in RowKind},
        sum(each[2] for each in seen) / runs,
        sum(each[3] for each in seen) / runs,
        dict(sorted(facts.items(), key=lambda fact: (-fact[1], fact[0]))),
    )


@dataclass(frozen=True)
class Coverage:
    """How often a nominal 95 % interval held the truth: over all, and over the worst and best of the rows."""

    mean: float
    low: float
    high: float
    width: float
    rows: int


def coverage(bank: Bank, whole: Bank, draws: int) -> dict[tuple[str, str], Coverage]:
    """Return the coverage of the gate's intervals and of a report's, by what was drawn.

    Rows are the shipped defenses beside the changed ones, in pairs and not; the truth is the bank's.
    """
    couples = [
        (before, after)
        for changes in PLANTED.values()
        for group, after in whole.cut(changes).hits.items()
        # Of copies that are the same whatever is drawn, any interval holds the truth.
        if group[2] in changes and (before := bank.hits[group]).tobytes() != after.tobytes()
    ]
    alone = list(bank.hits.values())
    found: dict[tuple[str, str], Coverage] = {}
    for paired in (True, False):
        name = "gate, in pairs" if paired else "gate, not in pairs"
        told = _spread(partial(_all, partial(_differences, couples, paired=paired)), draws)
        truth = [float(after.mean() - before.mean()) for before, after in couples]
        found |= _coverage(name, told, truth)
    for repeats in (REPEATS, 5):
        told = _spread(partial(_all, partial(_means, alone, repeats)), draws)
        name = f"fidelity in reports, {repeats} repeats"
        found |= _coverage(name, told, [float(each.mean()) for each in alone])
        told = _spread(partial(_all, partial(_lost, couples, repeats)), draws)
        name = f"paired difference in reports, {repeats} repeats"
        found |= _coverage(name, told, [float(before.mean() - after.mean()) for before, after in couples])
    return found


Drawn = dict[str, list[Interval]]


def _all(one: Callable[[int], Drawn], numbers: Sequence[int]) -> list[Drawn]:
    return [one(number) for number in numbers]


def _differences(couples: Sequence[tuple[Hits, Hits]], run: int, *, paired: bool) -> Drawn:
    """Return intervals of each couple's difference: repeats drawn anew, inputs drawn anew, and both."""
    rng = seeded("coverage", paired, run)
    whole, inputs = couples[0][0].shape
    ours = rng.integers(whole, size=REPEATS)
    theirs = ours if paired else rng.integers(whole, size=REPEATS)
    columns = rng.integers(inputs, size=inputs)
    found: Drawn = {"repeats": [], **({"inputs": []} if paired else {}), "both": []}
    both = []
    for before, after in couples:
        each = contrast(after[theirs], before[ours], paired=paired)
        found["repeats"].append(_around(each, math.sqrt(each.weight * each.spread), each.freedom))
        if paired:  # inputs add the same either way
            each = contrast(after[:, columns], before[:, columns], paired=True)
            found["inputs"].append(_around(each, math.sqrt(each.inputs), math.inf))
        both.append(contrast(after[np.ix_(theirs, columns)], before[np.ix_(ours, columns)], paired=paired))
    prior = common_prior(both)
    for each in both:
        error = prior.error(each)
        found["both"].append(_around(each, error.size, error.freedom))
    return found


def _around(each: Contrast, error: float, freedom: float) -> Interval:
    half = (float(special.stdtrit(freedom, 0.975)) if math.isfinite(freedom) else 1.959964) * error
    return Interval(each.value, each.value - half, each.value + half)


def _means(tables: Sequence[Hits], repeats: int, run: int) -> Drawn:
    rng = seeded("means", repeats, run)
    rows, columns = _both(tables[0], repeats, rng)
    return {"both": [mean_interval(table[np.ix_(rows, columns)]) for table in tables]}


def _lost(couples: Sequence[tuple[Hits, Hits]], repeats: int, run: int) -> Drawn:
    rng = seeded("lost", repeats, run)
    place = np.ix_(*_both(couples[0][0], repeats, rng))
    return {"both": [paired_difference(before[place], after[place]) for before, after in couples]}


def _both(table: Hits, repeats: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.asarray(rng.integers(len(table), size=repeats))
    columns = np.asarray(rng.integers(table.shape[1], size=table.shape[1]))
    return rows, columns


def _coverage(name: str, told: Sequence[Drawn], truth: Sequence[float]) -> dict[tuple[str, str], Coverage]:
    found = {}
    for component in told[0]:
        limits = np.array([[(each.low, each.high) for each in run[component]] for run in told])
        held = ((limits[..., 0] <= truth) & (truth <= limits[..., 1])).mean(axis=0)
        width = float((limits[..., 1] - limits[..., 0]).mean())
        found[name, component] = Coverage(
            float(held.mean()), float(held.min()), float(held.max()), width, len(truth)
        )
    return found
