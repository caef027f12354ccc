"""Fidelity reductions that account for choosing: among attacks, and among defenses.

Functions of agreement tables alone. Attacks and defenses are chosen on some repeats; claims on the chosen
ones come from fresh repeats, since the best of several looks better than it is on the repeats that made it
the best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.analysis.verdicts import Reduction
from bench.metrics.intervals import (
    Interval,
    difference_bounds,
    error_parts,
    paired_difference,
)

TAIL = 0.025
"""Each end of an interval is missed with this probability."""
POWER = 0.9
"""The smallest reduction is found with this probability."""


@dataclass(frozen=True, eq=False)
class AttackTable:
    """The agreement of one attack: ``agreement`` (repeats, inputs), a row for each of ``repeats``.

    ``name``: for readers. ``attack``: what tells attacks apart; it may occur under several names.
    ``carried_over``: whether it was run against ``label_only``, and stands here by argument.
    """

    name: str
    attack: str
    repeats: tuple[int, ...]
    agreement: NDArray[Any]
    carried_over: bool = False

    @property
    def mean(self) -> float:
        """The mean agreement, a fraction."""
        return float(self.agreement.mean())


@dataclass(frozen=True)
class Strongest:
    """The attacks that reach most without and with a defense, by the repeats that chose them."""

    undefended: AttackTable
    defended: AttackTable


Tables = Sequence[AttackTable]


def strongest(tables: Tables) -> AttackTable:
    """Return the table with the highest mean; ties: the first name."""
    return max(sorted(tables, key=lambda each: each.name), key=lambda each: each.mean)


def in_both(undefended: Tables, defended: Tables) -> list[AttackTable]:
    """Return the undefended attacks that were run against the defense too.

    As :func:`bench.analysis.attacker_results.in_both`: what is only carried over was not run.
    """
    return [
        each
        for each in undefended
        if any(
            each.attack == other.attack and (each.carried_over is other.carried_over or _equal(each, other))
            for other in defended
        )
    ]


def _equal(a: AttackTable, b: AttackTable) -> bool:
    """Return whether both agree in every repeat that both have; False without any."""
    shared = sorted(set(a.repeats) & set(b.repeats))
    return bool(shared) and np.array_equal(_restricted(a, shared).agreement, _restricted(b, shared).agreement)


def strongest_pair(undefended: Tables, defended: Tables) -> Strongest | None:
    """Return the strongest attack on either side, of those undefended that met the defense; None without."""
    rivals = in_both(undefended, defended)
    return Strongest(strongest(rivals), strongest(defended)) if rivals and defended else None


def reduction(undefended: Tables, defended: Tables) -> Reduction | None:
    """Return the fidelity reduction by the repeats that also choose the strongest attacks u and d*.

    The interval is for one defense on its own, and does not cover the choice: the lower end is the lowest
    over all attacks d against the defense of the lower 95 % limit of u - d, the upper end that of u - d*.
    None without an attack in both, or without a repeat that all tables share.
    """
    sides = _sides(undefended, defended)
    pair = strongest_pair(*sides) if sides else None
    if sides is None or pair is None:
        return None
    return _reduction(pair, [pair.undefended], sides[1], TAIL, TAIL, fresh=False)


def confirmed_reduction(
    undefended: Tables, defended: Tables, chosen: Strongest, compared: int
) -> Reduction | None:
    """Return the fidelity reduction by fresh repeats, with an interval for one of ``compared`` defenses.

    ``chosen``: the attacks u and d* that other repeats chose. With K attacks a without defense, all attacks
    d against it and m defenses compared, the lower end is the lowest over d of the lower limit of u - d,
    missed with probability .025 / m, and the upper end the highest over a of the upper limit of a - d*,
    missed with .025 / (K m). None where u or d* was not run again, or no repeat is shared by all tables.
    """
    sides = _sides(undefended, defended)
    if sides is None:
        return None
    first, target = find(chosen.undefended, sides[0]), find(chosen.defended, sides[1])
    if first is None or target is None:
        return None
    tail = TAIL / max(compared, 1)
    return _reduction(Strongest(first, target), *sides, tail, tail / len(sides[0]), fresh=True)


def _sides(undefended: Tables, defended: Tables) -> tuple[Tables, Tables] | None:
    """Return the undefended attacks that met the defense, and those against it, in repeats that all have."""
    rivals = in_both(undefended, defended)
    if not rivals or len({each.agreement.shape[1] for each in [*rivals, *defended]}) > 1:
        return None
    shared = sorted(set.intersection(*(set(each.repeats) for each in [*rivals, *defended])))
    if not shared:
        return None
    return [_restricted(each, shared) for each in rivals], [_restricted(each, shared) for each in defended]


def _reduction(
    pair: Strongest, rivals: Tables, against: Tables, lower: float, upper: float, *, fresh: bool
) -> Reduction:
    first, target, best = pair.undefended, pair.defended, strongest(against)
    low = min(difference_bounds(first.agreement, each.agreement, lower, lower)[0] for each in against)
    high = max(difference_bounds(each.agreement, target.agreement, upper, upper)[1] for each in rivals)
    value = first.mean - best.mean
    return Reduction(
        undefended=first.mean,
        undefended_attack=first.name,
        defended=best.mean,
        attack=best.name,
        # A difference of shares; with two or three repeats the limits may lie beyond what is possible.
        interval=Interval(value, max(min(low, value), -1.0), min(max(high, value), 1.0)),
        repeats=len(first.repeats),
        attacks=len(against),
        fresh=fresh,
    )


def find(wanted: AttackTable, tables: Tables) -> AttackTable | None:
    """Return the table of the same name, else one of the same attack; None where it was not run again."""
    exact = [each for each in tables if each.name == wanted.name]
    same = [each for each in tables if each.attack == wanted.attack]
    return next(iter(exact + same), None)


def _restricted(table: AttackTable, repeats: Sequence[int]) -> AttackTable:
    if table.repeats == tuple(repeats):
        return table
    rows = [table.repeats.index(repeat) for repeat in repeats]
    return replace(table, repeats=tuple(repeats), agreement=table.agreement[rows])


def paired(a: AttackTable, b: AttackTable) -> Interval | None:
    """Return the mean of ``a`` minus that of ``b`` in the repeats that both have; None without any."""
    shared = sorted(set(a.repeats) & set(b.repeats))
    if not shared or a.agreement.shape[1] != b.agreement.shape[1]:
        return None
    return paired_difference(_restricted(a, shared).agreement, _restricted(b, shared).agreement)


def smallest_reduction(pairs: Iterable[Strongest], repeats: int, compared: int, least: float) -> float | None:
    """Return the smallest true reduction that ``repeats`` repeats would confirm in 90 % of runs, a fraction.

    ``pairs``: the strongest attacks without and with each defense, whose spread is assumed: the median over
    defenses of the variance that repeats add, V_R, and of what inputs add, V_T. A reduction of d changes at
    least a share d of the inputs, so V_T is at least d (1 - d) / T. With the standard error s = √(V_R + V_T),
    d is the larger of ``least`` + z s and h + z s, where h is the distance of the lower end from the estimate
    and z = 1.28 the 90 % quantile of the normal distribution. None without pairs or with a single repeat.
    """
    parts, inputs = [], 0
    for pair in pairs if repeats > 1 else ():
        shared = sorted(set(pair.undefended.repeats) & set(pair.defended.repeats))
        if len(shared) > 1 and pair.undefended.agreement.shape[1] == pair.defended.agreement.shape[1]:
            a, b = (_restricted(each, shared).agreement for each in (pair.undefended, pair.defended))
            parts.append(error_parts(a, b, repeats))
            inputs = a.shape[1]
    if not parts:
        return None
    of_repeats, of_inputs = (statistics.median(each) for each in zip(*parts, strict=True))
    tail, z = TAIL / max(compared, 1), float(special.ndtri(POWER))
    by_repeat = float(special.stdtrit(repeats - 1, 1 - tail)) * math.sqrt(of_repeats)
    by_input = float(special.stdtrit(max(inputs - 1, 1), 1 - tail))
    found = 0.5  # from above: without spread, 0 solves the equation too
    for _ in range(100):
        rest = max(of_inputs, found * (1 - found) / inputs)
        half, error = math.hypot(by_repeat, by_input * math.sqrt(rest)), math.sqrt(of_repeats + rest)
        found = min(max(least, half) + z * error, 1.0)
    return found
