"""Inputs of benign users, on which a guard fits detectors that need nothing of the model behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.sent_rows import from_the_wire, on_the_wire
from bench.data.user_data import UserData
from bench.data.user_splits import row_groups
from bench.errors import UsageError
from defenses.base import Batch, Calibration, Defense, DefenseStack, ScreenDefense

Array = NDArray[np.float32]
CALIBRATION = 1 / 3
"""Share of the benign inputs on which thresholds are set; on the others, what is usual is learned."""


@dataclass(frozen=True)
class BenignInputs:
    """Inputs that benign users send, and how those of clients are compared with them.

    ``data``: of :func:`bench.data.user_data.load_data`, its columns in the order of the guard's.
    """

    data: UserData

    @classmethod
    def of(cls, data: UserData, *, shape: tuple[int, ...], columns: Sequence[str], file: str) -> BenignInputs:
        """Return the inputs; raises UsageError where clients of the guard send others.

        ``shape``: of one input as clients send it; ``columns``: of a table, else empty. ``file``: in errors.
        """
        if columns and not data.table:
            raise UsageError(f"{file} holds no table, and --columns names columns of one")
        if columns:
            data = data.select(columns)
        rows = on_the_wire(data, data.x[:1]).rows
        found = (len(data.names),) if data.table else np.asarray(rows).shape[1:]
        if tuple(found) != tuple(shape):
            axes = ",".join(map(str, found))
            raise UsageError(f"one input of {file} has the shape {axes}, and --shape states another")
        return cls(data)

    def encoded(self, rows: NDArray[Any] | Sequence[Sequence[Any]]) -> Array:
        """Return inputs (n, …) as clients send them, as float32 (n, …) of the space of the data."""
        return from_the_wire(self.data, rows)

    def calibration(self, classes: int, seed: int = 0) -> Calibration:
        """Return what a detector is fitted on: seeded halves of the data, with no answers of a model.

        Equal inputs are on one side. ``probabilities`` are uniform over ``classes``: nothing is known of the
        model. Labels are those of the file, 0 for all where it has none.
        """
        x, y = self.data.x, self.data.y
        labels = np.zeros(len(x), np.int64) if y is None else y
        groups = np.unique(row_groups(x), return_inverse=True)[1]
        order = np.random.default_rng(seed).permutation(groups.max() + 1)
        held_out = order[groups] < CALIBRATION * len(order)
        if not held_out.any() or held_out.all():
            raise UsageError("the benign inputs are all equal; give inputs as your users send them")
        return Calibration(
            train_inputs=x[~held_out],
            train_labels=labels[~held_out],
            inputs=x[held_out],
            labels=labels[held_out],
            probabilities=np.full((int(held_out.sum()), classes), 1 / classes),
            seed=seed,
            space=self.data.space,
        )


def fit_to_inputs(stack: DefenseStack, benign: BenignInputs | None, classes: int) -> float | None:
    """Fit the detectors of a stack on benign inputs; return the share of these that it flags, None for none.

    The share is of the inputs on which thresholds were set. Raises UsageError for a defense that has to be
    fitted on more than inputs, for a detector without ``benign``, and for ``benign`` without a detector.
    """
    detectors = [each for each in stack.defenses if type(each).fit is not Defense.fit]
    for defense in detectors:
        if not (isinstance(defense, ScreenDefense) and defense.judges_inputs_alone):
            raise UsageError(
                f"defense {defense!r} needs the model and its data, which a guard does not have; leave it "
                "out, serve the model by moatbench serve, or use a detector that judges inputs "
                "alone, as README shows"
            )
        if benign is None:
            raise UsageError(
                f"defense {defense!r} learns from inputs of benign users; name a file of them by --benign"
            )
    if benign is None:
        return None
    if not detectors:
        raise UsageError("--benign is for a detector of inputs; add one by --defense, as README shows")
    calibration = benign.calibration(classes)
    flagged = np.zeros(len(calibration.inputs), dtype=bool)
    for defense in detectors:
        defense.fit(calibration)
        if isinstance(defense, ScreenDefense):
            given = calibration.probabilities
            flagged |= defense.judge(Batch(inputs=calibration.inputs, raw=given, probabilities=given))
    return float(flagged.mean())
