"""Top-k answers, as image classification APIs give them.

Orekondy, Schiele, Fritz 2019, "Knockoff Nets" (arXiv 1812.02766), the experiments on truncated
posteriors; withholding confidences in general: Tramèr et al. 2016 (arXiv 1609.02943), section 7.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from defenses import predicates
from defenses.base import Claims, OutputDefense, Predicate, StrengthRange


class TopK(OutputDefense):
    """Keeps the ``k`` largest probabilities and replaces the others by zero.

    Rows are not normalised, as in APIs: they sum to at most 1. In a tie the lowest index is kept, and
    exactly ``k`` entries stay (all of them where ``k`` is at least the number of classes).
    """

    name = "top_k"
    paper = "Orekondy et al. 2019, arXiv 1812.02766 (truncated posteriors)"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("k", 1000, 1, whole=True)
    params: ClassVar[list[str]] = ["k"]

    def __init__(self, *, k: Annotated[int, Field(ge=1)] = 3) -> None:
        super().__init__()
        self.k = k

    @property
    def claims(self) -> Claims:
        """The label stays; rows sum to less than 1."""
        return Claims(distribution=False)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """At most ``k`` entries, the largest ones, unchanged."""
        return predicates.at_most(self.k), predicates.kept_or_zero(), predicates.largest_kept()

    def __call__(self, preds: Any) -> Any:
        """Return rows (n, classes) with at most ``k`` entries of ``preds`` (n, classes)."""
        largest = np.argsort(-preds, axis=1, kind="stable")[:, : self.k]
        kept = np.zeros_like(preds)
        np.put_along_axis(kept, largest, np.take_along_axis(preds, largest, axis=1), axis=1)
        return kept
