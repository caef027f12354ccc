"""An attack against the best of several others, where other repeats choose which of them that is.

Functions of agreement tables alone. The best of several looks better than it is on the repeats that made it
the best. So one half of the repeats chooses the rival, and the other half compares, for many balanced splits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.metrics.intervals import Interval, difference_bounds, error_parts

Floats = NDArray[np.float64]

TAIL = 0.025
"""Each end of an interval is missed with this probability."""
ALL_SPLITS = 252
"""Up to so many halves, all are used; that is the number for 10 repeats."""
ORDERS = 12
"""Of more repeats, the halves are the stretches of so many orders of them, drawn once."""
LEAST_CHANCE = 1e-12
"""Smallest p-value that is told apart from 0."""


@lru_cache(maxsize=64)
def halves(repeats: int) -> NDArray[np.bool_]:
    """Return which repeats choose, (splits, repeats); the others of a split compare.

    Every repeat compares with the same total weight. With an odd number one half is larger by one, and each
    split occurs both ways. Raises ValueError for fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"halves need at least 2 repeats, got {repeats}.")
    size = repeats // 2
    if math.comb(repeats, size) <= ALL_SPLITS:
        rows = [
            np.isin(np.arange(repeats), chosen) for chosen in itertools.combinations(range(repeats), size)
        ]
    else:
        generator = np.random.default_rng(repeats)  # the same halves in every run
        rows = [
            np.isin(np.arange(repeats), np.roll(order, start)[:size])
            for order in (generator.permutation(repeats) for _ in range(ORDERS))
            for start in range(repeats)
        ]
    table = np.array(rows)
    return np.concatenate([table, ~table]) if repeats % 2 else table


def weights(means: Floats) -> Floats:
    """Return the weight of each rival in each repeat, (rivals, repeats); over all entries they sum to R.

    ``means``: agreement of each rival in each repeat, (rivals, repeats). In each split the rival with the
    highest mean in the choosing half gets the comparing half, 1 / its size each; ties: the first rival.
    """
    rivals, repeats = means.shape
    choosing = halves(repeats)
    best = np.argmax(means @ (choosing / choosing.sum(axis=1, keepdims=True)).T, axis=0)
    comparing = ~choosing * (repeats / (~choosing).sum(axis=1, keepdims=True))
    found = np.zeros((rivals, repeats))
    np.add.at(found, best, comparing)
    return found / len(choosing)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """An attack and the rivals that halves of the repeats chose, under one condition.

    ``own``: agreement of the attack, (repeats, inputs). ``rival``: the mean over splits of that of the rival
    which a half without this repeat chose, of the same shape; its rows are weighted so that the mean over
    the table is the mean over splits. ``deleted``: the shortfall by all repeats but one, (repeats,), NaN
    where that leaves too few to halve. ``chosen``: the share of splits that chose each rival.
    """

    own: NDArray[Any]
    rival: Floats
    deleted: Floats
    chosen: Mapping[str, float]

    @classmethod
    def of(cls, own: NDArray[Any], rivals: Mapping[str, NDArray[Any]]) -> HeldOut:
        """Return the comparison of tables of one shape; raises ValueError without a rival or two repeats."""
        if not rivals or any(table.shape != own.shape for table in rivals.values()):
            raise ValueError("there must be a rival, and all tables must have one shape.")
        names = sorted(rivals)
        tables = [rivals[name] for name in names]
        means = np.array([table.mean(axis=1, dtype=np.float64) for table in tables])
        own_means = own.mean(axis=1, dtype=np.float64)
        share = weights(means)
        rival = np.zeros(own.shape)
        for row, table in zip(share, tables, strict=True):
            if row.any():
                rival += row[:, None] * table
        repeats = len(own)
        deleted = np.full(repeats, math.nan)
        if repeats > 2:
            for left_out in range(repeats):
                kept, mine = np.delete(means, left_out, axis=1), np.delete(own_means, left_out)
                deleted[left_out] = float((weights(kept) * kept).sum()) / (repeats - 1) - float(mine.mean())
        totals = share.sum(axis=1) / repeats
        chosen = {name: float(total) for name, total in zip(names, totals, strict=True) if total}
        return cls(own, rival, deleted, chosen)

    @property
    def repeats(self) -> int:
        """The number of repeats."""
        return len(self.own)

    @cached_property
    def shortfall(self) -> float:
        """Agreement of the chosen rivals minus that of the attack, a fraction."""
        return float(self.rival.mean() - self.own.mean())

    @property
    def favourite(self) -> str:
        """The rival that most splits chose; ties: the first name."""
        return min(self.chosen, key=lambda name: (-self.chosen[name], name))

    def bounds(self, tail: float) -> tuple[float, float]:
        """Return limits of the shortfall, each missed with probability ``tail``.

        As :func:`bench.metrics.intervals.paired_difference`, over repeats and inputs. One repeat decides
        which rival others meet, so that repeats are not independent: where leaving out a repeat at a time
        (the jackknife) shows a larger variance between repeats, that is taken.
        """
        low, high = difference_bounds(self.rival, self.own, tail, tail)
        half = self._half_width(tail)
        return min(low, self.shortfall - half), max(high, self.shortfall + half)

    @cached_property
    def interval(self) -> Interval:
        """The shortfall with its 95 % interval."""
        return Interval(self.shortfall, *self.bounds(TAIL))

    def chance_of_at_most(self, limit: float) -> float:
        """Return the one-sided p-value of the hypothesis that the shortfall is at most ``limit``.

        It is the smallest ``tail`` whose lower limit is above ``limit``; 1 where the estimate is not above.
        """
        if self.shortfall <= limit:
            return 1.0
        low, high = math.log(LEAST_CHANCE), math.log(0.5)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.bounds(math.exp(middle))[0] > limit else (middle, high)
        return math.exp(high)

    def _half_width(self, tail: float) -> float:
        of_repeats, of_inputs = self._parts
        repeats, inputs = self.own.shape
        return math.hypot(
            float(special.stdtrit(repeats - 1, 1 - tail)) * math.sqrt(of_repeats) if of_repeats else 0.0,
            float(special.stdtrit(max(inputs - 1, 1), 1 - tail)) * math.sqrt(of_inputs),
        )

    @cached_property
    def _parts(self) -> tuple[float, float]:
        """The variance of the shortfall: what repeats add, and the rest."""
        of_repeats, rest = error_parts(self.rival, self.own, self.repeats)
        if not np.isnan(self.deleted).any():
            spread = float(np.square(self.deleted - self.deleted.mean()).sum())
            jackknife = (self.repeats - 1) / self.repeats * spread
            # Both hold the noise of single answers; the other part of the interval has it already.
            table = self.rival - self.own
            by_repeat = float(table.mean(axis=1).var(ddof=1)) / self.repeats
            of_repeats = max(of_repeats, jackknife - max(by_repeat - of_repeats, 0.0), 0.0)
        return of_repeats, rest


def averaged(several: Sequence[HeldOut]) -> HeldOut:
    """Return the mean of comparisons that share repeats and inputs, entry by entry.

    Its interval moves all of them together: a repeat and an input are drawn once for all. Raises ValueError
    where shapes differ.
    """
    if len({each.own.shape for each in several}) != 1:
        raise ValueError("comparisons that are averaged must share their repeats and inputs.")
    total = {name: 0.0 for each in several for name in each.chosen}
    for each in several:
        for name, share in each.chosen.items():
            total[name] += share / len(several)
    own, rival, deleted = (
        np.mean([getattr(each, part) for each in several], axis=0) for part in ("own", "rival", "deleted")
    )
    return HeldOut(own, rival, deleted, total)


def mean_interval(groups: Sequence[tuple[str, HeldOut, int]]) -> Interval:
    """Return the mean shortfall of groups with its 95 % interval; NaN without any.

    Each group: the data set, the average of its comparisons, and how many these are, which is its weight.
    Data sets are independent: half-widths add in squares. Groups of one data set share test inputs or seeds,
    by an unknown amount: their half-widths add up, which is right if they move together, else too wide.
    """
    every = sum(count for _, _, count in groups)
    if not every:
        return Interval(math.nan, math.nan, math.nan)
    value = sum(count * each.shortfall for _, each, count in groups) / every
    lower: dict[str, float] = {}
    upper: dict[str, float] = {}
    for data, each, count in groups:
        interval = each.interval
        lower[data] = lower.get(data, 0.0) + count / every * (interval.value - interval.low)
        upper[data] = upper.get(data, 0.0) + count / every * (interval.high - interval.value)
    return Interval(value, value - math.hypot(*lower.values()), value + math.hypot(*upper.values()))
