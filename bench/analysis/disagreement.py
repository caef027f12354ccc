"""How far the surrogates of a cell's repeats disagree, from the labels that its records hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.metrics.intervals import Interval
from bench.metrics.multiplicity import ambiguity, discrepancy
from bench.records import SURROGATE_LABEL, Record
from bench.tasks import Cell

MEASURES = {"extraction.ambiguity": ambiguity, "extraction.discrepancy": discrepancy}
"""By the name of the metric."""


def disagreement(records: Sequence[Record]) -> dict[str, Interval]:
    """Return ambiguity and discrepancy of the repeats of one cell, by metric.

    Empty for fewer than two repeats, and where a record has no labels: older ones, and those of victims of
    more than 256 classes.
    """
    labels = _labels(records)
    return {} if labels is None else {name: measure(labels) for name, measure in MEASURES.items()}


def disagreement_by_record(records: Sequence[Record]) -> dict[str, dict[str, Interval]]:
    """Return the disagreement of each record's cell, by the record's key: the same for all its repeats."""
    cells: dict[Cell, list[Record]] = defaultdict(list)
    for record in records:
        if isinstance(record.task, Cell) and record.status == "ok":
            cells[replace(record.task, repeat=0)].append(record)
    return {
        record.key: found
        for repeats in cells.values()
        if (found := disagreement(repeats))
        for record in repeats
    }


def _labels(records: Sequence[Record]) -> NDArray[np.uint8] | None:
    stored = [record.arrays[SURROGATE_LABEL] for record in records if SURROGATE_LABEL in record.arrays]
    if len(stored) < max(2, len(records)) or len({len(each) for each in stored}) > 1 or not len(stored[0]):
        return None
    return np.stack(stored)
