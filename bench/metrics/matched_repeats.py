"""Whether repeats of two runs belong together by their number, by a permutation test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np

from bench.metrics.intervals import Agreement, as_table

PERMUTATIONS = 9_999
"""Random permutations of the repeats; where all are fewer, all of them."""
SEED = 1


def chance_of_match(tables: Sequence[tuple[Agreement, Agreement]]) -> float:
    """Return the p-value against: repeat r of one run is as far from repeat r of the other as from any.

    ``tables``: pairs of agreement tables (repeats, inputs), all of the same repeats in the same order. The
    statistic is the covariance over inputs of what repeat r deviates from its run's mean in both runs, summed
    over repeats and tables. It is compared with the same under permutations of the repeats of one run, the
    same permutation in all tables, since one repeat may share random seeds across them. 1 without tables.
    """
    if not tables:
        return 1.0
    repeats = len(tables[0][0])
    likeness = np.zeros((repeats, repeats))
    for pair in tables:
        one, other = (table - table.mean(axis=0) for table in map(as_table, pair))
        likeness += one @ other.T / one.shape[1]
    if math.factorial(min(repeats, 20)) <= PERMUTATIONS:
        orders = np.array([*permutations(range(repeats))])
        more = 0  # the identity is one of them
    else:
        rng = np.random.default_rng(SEED)
        orders = rng.permuted(np.tile(np.arange(repeats), (PERMUTATIONS, 1)), axis=1)
        more = 1
    observed = float(np.trace(likeness))
    sums = likeness[np.arange(repeats), orders].sum(axis=1)
    as_large = int((sums >= observed - 1e-12 * max(1.0, abs(observed))).sum())
    return (as_large + more) / (len(orders) + more)
