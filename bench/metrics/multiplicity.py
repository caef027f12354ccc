"""Predictive multiplicity: how far the surrogates of several repeats disagree. Functions of arrays alone.

Two surrogates of equal fidelity need not be equal. ``labels`` is always (repeats, inputs): row r holds the
top-1 of the surrogate of repeat r on the test inputs, as non-negative integers.

Source: Marx, Calmon, Ustun 2020, "Predictive Multiplicity in Classification", ICML (arXiv 1909.06677). There
the competing models are all that perform almost as well as a baseline; here they are the surrogates of the
repeats, however they perform.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from numpy.typing import NDArray

from bench.metrics.intervals import Interval, share_interval

NONE = Interval(math.nan, math.nan, math.nan)


def ambiguity(labels: NDArray[Any]) -> Interval:
    """Return the share of inputs to which some repeat's surrogate gives another label than some other one.

    Marx et al. compare with a baseline; whichever repeat that is, an input counts if and only if the repeats
    are not unanimous. The interval is that of Clopper and Pearson over inputs, for these surrogates: the
    share grows with their number. NaN for fewer than two repeats, or no inputs.
    """
    repeats, inputs = labels.shape
    if repeats < 2 or not inputs:
        return NONE
    return share_interval(int((labels != labels[0]).any(axis=0).sum()), inputs)


def discrepancy(labels: NDArray[Any], confidence: float = 0.95) -> Interval:
    """Return the largest share of inputs on which the surrogates of two repeats differ.

    The largest over baselines of the discrepancy of Marx et al. The interval covers inputs, for these
    surrogates: of K pairs, the lower limit is the largest of limits missed with probability alpha / 2K, the
    upper limit the largest of those missed with alpha / 2, as for the best of K attacks. NaN for fewer than
    two repeats, or no inputs.
    """
    repeats, inputs = labels.shape
    if repeats < 2 or not inputs:
        return NONE
    differ = [int((labels[one] != labels[two]).sum()) for one, two in combinations(range(repeats), 2)]
    alpha = 1 - confidence
    # Limits rise with the share, so that the largest of them are those of the largest share.
    most = max(differ)
    low = share_interval(most, inputs, 1 - alpha / len(differ)).low
    return Interval(most / inputs, low, share_interval(most, inputs, confidence).high)
