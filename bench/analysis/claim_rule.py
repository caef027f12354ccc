"""The rule by which a published claim counts as reproduced, not comparable or not reproduced.

Pure functions of numbers and texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from bench.analysis.interval_text import joined, number
from bench.metrics.intervals import Interval, tail_of

ClaimVerdict = Literal[
    "reproduced",
    "not comparable",
    "not reproduced",
    "not run",  # no cells of the recipe, or too few repeats to predict from
    "no number",  # nothing was published, or nothing of it could be read
    "no claim",  # no paper claims anything of this defense, or not at this strength
]
ACCURACY = 0.01
"""By how much the accuracies of two victims may differ for their results to be compared."""
ACCURACY_KEY = "victim's accuracy"
OTHER_VICTIM = 0.01
"""What is added to a prediction interval on each side, since all repeats attack one victim."""


def prediction_interval(
    values: Sequence[float], others: int = 1, extra: float = 0.0, confidence: float = 0.95
) -> Interval:
    """Return where the mean of ``others`` further values lies, with Student's t over ``values``.

    ``extra`` is added to the half-width. The limits are NaN for fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean()) if sample.size else math.nan
    if len(sample) < 2:
        return Interval(mean, math.nan, math.nan)
    quantile = float(special.stdtrit(len(sample) - 1, 1 - tail_of(confidence)))
    half = quantile * float(sample.std(ddof=1)) * math.sqrt(1 / others + 1 / len(sample)) + extra
    return Interval(mean, mean - half, mean + half)


def holds(interval: Interval, value: float) -> bool:
    """Return whether ``value`` lies in the interval; False without limits."""
    return interval.low <= value <= interval.high


def differences(published: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return in words what differs between the recipes of a publication and of cells.

    Both have the keys "data set", "victim", "surrogate", "pool", "budget" and :data:`ACCURACY_KEY`, a
    fraction. What a publication leaves empty (``""`` or None) counts as different: nobody can tell.
    """
    found, unstated = [], []
    for key, theirs in published.items():
        ours = here[key]
        if theirs in ("", None):
            unstated.append(key)
        elif key == ACCURACY_KEY:
            if ours is None or abs(ours - theirs) > ACCURACY + 1e-12:
                found.append(f"{key} {_shown(ours)} instead of {_shown(theirs)}")
        elif ours != theirs:
            found.append(f"{key} {_shown(ours)} instead of {_shown(theirs)}")
    if unstated:
        found.append(f"{joined(unstated)} not stated in what was read")
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{number(100 * value, 1)} %"
    return f"{value:,}" if isinstance(value, int) else str(value)


def verdict(
    loss: float | None,
    predicted: Interval | None,
    apart: Sequence[str],
    cause: str = "",
) -> tuple[ClaimVerdict, str]:
    """Return the verdict on a published loss, and why, in a clause.

    ``loss``: as published, a fraction; None where no number was read. ``predicted``: the prediction interval
    of the same recipe here; None where it was not run. ``apart``: what differs, from :func:`differences`.
    ``cause``: what was measured of the difference.

    A recipe that differs is not comparable whatever it measured: agreement could be chance.
    """
    if loss is None:
        return "no number", "no published number could be read"
    if predicted is None:
        return ("not comparable", "; ".join(apart)) if apart else ("not run", "its cells were not run")
    if math.isnan(predicted.low):
        return "not run", "one repeat predicts no interval"
    inside = holds(predicted, loss)
    where = f"{'inside' if inside else 'outside'} {_span(predicted)}"
    measured = f"he published loss is {where}" + (f": {cause}" if cause else "")
    if apart:
        return "not comparable", f"{'; '.join(apart)}. T{measured}"
    return ("reproduced" if inside else "not reproduced"), f"t{measured}"


def _span(predicted: Interval) -> str:
    low, high = (number(100 * limit, 1) for limit in (predicted.low, predicted.high))
    return f"the prediction interval here, {low} to {high} pp"
