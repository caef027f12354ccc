"""Normalisation of the answers of other defenses.

"Response normalisation" is among the stacked controls of the study owasp-digits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from defenses import predicates
from defenses.base import Array, Claims, OutputDefense, Predicate, as_distributions


class Normalise(OutputDefense):
    """Clips negative entries and divides every row by its sum; an all-zero row becomes uniform.

    Alone it changes nothing but rounding errors; after rounding, truncation or noise it makes the
    answer a probability distribution again. The order of the entries stays, and so does the label
    where the row has one.
    """

    name = "normalise"
    paper = "OWASP Machine Learning Security Top 10, ML05:2023; study owasp-digits"
    known_by = ("recover", "auto")

    @property
    def claims(self) -> Claims:
        """Only rows that are tied already, all-zero ones, have ties."""
        return Claims(normalises=True)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """Positive entries, divided by their sum."""

        def expected(before: Array) -> Array:
            positive = np.maximum(before, 0)
            sums = positive.sum(axis=1, keepdims=True)
            return np.where(sums > 0, positive / np.where(sums > 0, sums, 1), 1 / before.shape[1])

        return (predicates.formula("entries before, divided by their sum", expected),)

    def __call__(self, preds: Any) -> Any:
        """Return rows (n, classes) float64 that are non-negative and sum to 1."""
        return as_distributions(np.clip(np.asarray(preds, dtype=np.float64), 0, None))
