"""Seeded, disjoint splits of data that users bring: rows that are equal never lie in two of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Array
from bench.seeds import derive

MOST_ROWS = 30_000
"""Most rows that are used: more would say nothing more, and every one is asked."""
SHARES = {"test": 0.35, "calibration": 0.15, "train": 0.15}
"""Share of the rows that goes to each split; the rest is the attacker's pool."""
MOST = {"test": 5_000, "calibration": 2_000, "train": 2_000}
"""Most rows of each split."""
FEWEST = 20
"""Fewest rows that a split is of use with."""
ENOUGH = 50
"""Test inputs of a class from which its agreement says something."""
MOST_TEST = 0.5
"""Largest share of the rows that goes to the test split so that rare classes have enough."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RowSplits:
    """Rows by split. ``equal``: how many rows are equal to an earlier one in all features."""

    train: Rows
    calibration: Rows
    pool: Rows
    test: Rows
    equal: int


def row_groups(x: Array) -> Rows:
    """Return for each row (n, …) the number of the first row that is equal to it; NaN equals NaN."""
    first: dict[bytes, int] = {}
    found = np.empty(len(x), dtype=np.int64)
    for place, row in enumerate(np.ascontiguousarray(x.reshape(len(x), -1)) + np.float32(0)):  # -0 becomes 0
        found[place] = first.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), place)
    return found


def equal_to_any(x: Array, others: Array) -> NDArray[np.bool_]:
    """Return which rows of ``x`` (n, …) are equal to any of ``others`` (m, …), (n,)."""
    if not len(others):
        return np.zeros(len(x), dtype=bool)
    groups = row_groups(np.concatenate([others, x]))
    return groups[len(others) :] < len(others)


def split_rows(x: Array, y: NDArray[np.int64] | None, seed: int, *, trained: bool) -> RowSplits:
    """Return the splits of rows ``x`` (n, …) with labels ``y`` (n,); equal rows go to one split together.

    ``trained``: whether the model's training data are known, so that no split "train" is taken.
    """
    groups = row_groups(x)
    firsts, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(derive("own splits", seed)).permutation(len(firsts))
    members = np.argsort(np.searchsorted(firsts, groups), kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    wanted = {name: min(MOST[name], max(FEWEST, round(share * len(x)))) for name, share in SHARES.items()}
    wanted["test"] = _test_rows(wanted["test"], y, len(x))
    if trained:
        wanted["train"] = 0
    found: dict[str, list[Rows]] = {name: [] for name in (*SHARES, "pool")}
    counts = dict.fromkeys(wanted, 0)
    for group in order:
        rows = members[starts[group] : starts[group + 1]]
        # Splits fill up alternately, so that a large group of equal rows starves none of them.
        open_ones = [name for name in wanted if counts[name] < wanted[name]]
        name = min(open_ones, key=lambda each: counts[each] / wanted[each]) if open_ones else "pool"
        found[name].append(rows)
        if name in counts:
            counts[name] += len(rows)
    joined = {
        name: np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64) for name, rows in found.items()
    }
    return RowSplits(**joined, equal=int(len(x) - len(firsts)))


def _test_rows(usual: int, y: NDArray[np.int64] | None, n: int) -> int:
    """Return the size of the test split: larger where a rare class would have too few there."""
    if y is None:
        return usual
    counts = np.bincount(y)
    able = counts[counts >= ENOUGH / MOST_TEST]
    if not len(able):
        return usual
    needed = int(np.ceil(1.2 * ENOUGH / able.min() * n))
    return max(usual, min(needed, round(MOST_TEST * n), MOST["test"]))
