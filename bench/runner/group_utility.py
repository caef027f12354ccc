"""What a defense does to the answers of two classes for groups of benign users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.metrics import intervals, utility
from bench.metrics.groups import groups_of, more_lost
from bench.metrics.intervals import Interval
from bench.metrics.two_classes import area_under_roc, average_precision, log_odds
from bench.models.victims import Victim

Array = NDArray[np.float64]


def group_losses(
    victim: Victim, answers: Sequence[Array], raw: Array, thresholds: Sequence[float]
) -> dict[str, Interval | float]:
    """Return what each declared group of benign users loses, by name; nothing but for two classes.

    Values, or where there are limits, intervals.

    ``answers``: those to the test split in each repeat, (n, 2), NaN where rejected. ``raw``: the victim's.
    Accuracies are over all queries (a rejected one is wrong), the rest over the inputs that are answered in
    every repeat; AUROC and average precision have no intervals. ``thresholds``: confidences at which users
    decide.
    """
    test = victim.splits.test
    groups = groups_of(test.x, victim.inputs, victim.splits.groups) if raw.shape[1] == 2 else {}
    given = np.stack([~np.isnan(each).any(axis=1) for each in answers])
    shown = np.stack([np.nan_to_num(each).argmax(axis=1) for each in answers])
    right = ((shown == test.y) & given).astype(np.float64)
    before = np.tile((raw.argmax(axis=1) == test.y).astype(np.float64), (len(answers), 1))
    found: dict[str, Interval | float] = {}
    for name, inside in groups.items():
        part = f"honest.group.{name}"
        found[f"{part}.accuracy_lost"] = intervals.paired_difference(before[:, inside], right[:, inside])
        found[f"{part}.accuracy_lost_more"] = more_lost(before, right, inside, len(groups))
        lost = _balanced_accuracy(before[:, inside], test.y[inside])
        lost -= _balanced_accuracy(right[:, inside], test.y[inside])
        found[f"{part}.balanced_accuracy_lost"] = lost
    answered = given.all(axis=0)
    if not answered.any():
        return found
    served = np.stack(answers)[:, answered]
    own, truth = raw[answered], test.y[answered]
    crossed = np.any(
        [(served.max(axis=2) >= at) != (own.max(axis=1) >= at) for at in thresholds],
        axis=0,
    ).astype(np.float64)
    unchanged = np.zeros_like(crossed)
    for name, inside in groups.items():
        part, rows = f"honest.group.{name}", inside[answered]
        if not 0 < rows.sum() < len(rows):
            continue
        if len(thresholds):
            found[f"{part}.changed"] = intervals.mean_interval(crossed[:, rows])
            found[f"{part}.changed_more"] = more_lost(crossed, unchanged, rows, len(groups))
        found |= _scores(part, served[:, rows], own[rows], truth[rows])
    return found


def _scores(part: str, served: Array, own: Array, truth: NDArray[np.int64]) -> dict[str, float]:
    """Return what the answers (repeats, n, 2) of a group lose as scores, against the victim's (n, 2)."""
    added = np.mean([utility.brier_score(each, truth) for each in served])
    added -= utility.brier_score(own, truth).mean()
    found = {f"{part}.brier_added": float(added)}
    for name, measure in (("auroc", area_under_roc), ("average_precision", average_precision)):
        without, after = measure(truth, log_odds(own)), [measure(truth, log_odds(each)) for each in served]
        if without is not None:
            lost = without - float(np.mean([each for each in after if each is not None]))
            found[f"{part}.{name}_lost"] = lost
    return found


def _balanced_accuracy(right: Array, truth: NDArray[np.int64]) -> float:
    """Return the mean over the true classes of the share of ``right`` (repeats, inputs)."""
    return float((right * utility.balanced_weights(truth)).mean())
