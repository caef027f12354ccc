"""Which victims' headline is balanced fidelity, and the weights of test inputs that make it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.threat_models import victim_of
from bench.metrics.balance import (
    commonest_share,
    fidelity_weights,
    is_imbalanced,
    labels_left_out,
)
from bench.records import Record

LABELS = "victim_label"
"""Array of a defense evaluation, or of a live target's cells: the victim's label of every test input."""


def victim_labels(records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return the victim's labels of the test inputs, (inputs,), by victim, as far as records have them."""
    found: dict[str, NDArray[Any]] = {}
    for record in records:
        labels = record.arrays.get(LABELS)
        if record.status == "ok" and labels is not None and labels.size:
            found.setdefault(victim_of(record.task), labels)
    return found


def imbalanced_victims(records: Sequence[Record]) -> list[str]:
    """Return the victims whose labels are imbalanced (:func:`bench.metrics.balance.is_imbalanced`)."""
    classes: dict[str, int] = {}
    for record in records:
        if record.info.confusion:
            classes.setdefault(victim_of(record.task), len(record.info.confusion))
    return [
        victim
        for victim, labels in victim_labels(records).items()
        if is_imbalanced(commonest_share(labels), classes.get(victim, len(np.unique(labels))))
    ]


def label_weights(records: Sequence[Record], victims: Collection[str]) -> dict[str, NDArray[np.float64]]:
    """Return the weights (inputs,) with which the mean agreement of each of ``victims`` is balanced."""
    labels = victim_labels(records)
    return {victim: fidelity_weights(labels[victim].astype(np.int64)) for victim in victims}


def labels_kept(records: Sequence[Record]) -> dict[str, int]:
    """Return over how many labels balanced fidelity is averaged, by victim, as far as records have labels.

    A victim that gives a single label has none: a constant answer equals it, and no number of labels helps.
    """
    counts = {
        victim: len(np.unique(labels)) - len(labels_left_out(labels))
        for victim, labels in victim_labels(records).items()
    }
    return {victim: count for victim, count in counts.items() if count > 1}
