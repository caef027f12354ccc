"""The interface of an inverse: how an attacker who knows a defense estimates what the victim answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks.base import Array
from attacks.inverse.numerics import intervals

Mask = NDArray[np.bool_]
Parameters = Mapping[str, Any]
Estimator = Callable[[], Array]
"""Trains surrogates on the labels of the answers; returns (n, classes), estimates of the victim's rows."""


@dataclass(frozen=True)
class StackPosition:
    """What is known of the rows that a defense receives, from its position in a stack.

    ``sums_to_one``: the rows sum to 1. ``exact``: inverting the defenses after this one lost nothing.
    ``resolution``: the entries of the rows are multiples of this number; None where they need not be.
    """

    sums_to_one: bool = True
    exact: bool = True
    resolution: float | None = None


class Inverse:
    """The inverse of a defense with given ``parameters``; this base class is the inverse of no change.

    A subclass in a module that has the defense's name is its inverse. ``parameters`` are those of the
    defense, by name; an instance without them can only ``fit`` them. ``fitted`` says that the parameters
    were estimated from answers, so that they are approximate.
    """

    uses_estimate: ClassVar[bool] = False
    """Whether ``invert`` makes use of an estimate of the victim's rows."""
    sums_to_one: ClassVar[bool] = True
    """Whether the defense's answers sum to 1."""
    exact: ClassVar[bool] = True
    """Whether inversion loses nothing."""
    has_forward: ClassVar[bool] = True
    """Whether ``forward`` simulates the defense."""

    def __init__(self, parameters: Parameters | None = None, *, fitted: bool = False) -> None:
        self.parameters: Parameters = parameters or {}
        self.fitted = fitted

    @property
    def resolution(self) -> float | None:
        """The number of which entries of the defense's answers are multiples; None where they need not be."""
        return None

    def fit(self, answers: Array, estimator: Estimator) -> Parameters:
        """Return the parameters of the defense, estimated from its answers (n, classes)."""
        return {}

    def forward(self, rows: Array) -> Array:
        """Return the defense's answers to rows (n, classes); their mean where the defense is random."""
        return rows

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return rows (n, classes) from before the defense, and (n,) which of them explain their answers.

        A row is NaN where the answer says nothing about the victim. ``estimate``: (n, classes),
        approximately what the rows were, or None.
        """
        return answers, np.ones(len(answers), dtype=bool)

    def relabelled(self, labels: Array) -> Array | None:
        """Return the victim's labels (n, classes) behind answers that are nothing but labels, one-hot rows.

        None where labels are the best guess of them, as for most defenses.
        """
        return None


class IntervalInverse(Inverse, ABC):
    """The inverse of a defense that leaves an interval for each entry: the most likely row within it."""

    uses_estimate, sums_to_one, exact = True, False, False

    @abstractmethod
    def bounds(self, answers: Array) -> tuple[Array, Array]:
        """Return the smallest and the largest values (n, classes) that the entries may have had."""

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the rows nearest to the estimate, else to the midpoints; in KL where rows sum to 1.

        A midpoint is further from a confident victim's row than the answer is, but a better start:
        surrogates that started from the answer agreed less with the victim.
        """
        low, high = self.bounds(answers)
        near = (low + high) / 2 if estimate is None else estimate
        rows = intervals.project(near, low, high) if position.sums_to_one else np.clip(near, low, high)
        return rows, np.ones(len(answers), dtype=bool)
