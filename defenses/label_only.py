"""Labels instead of probabilities.

Tramèr et al. 2016 (arXiv 1609.02943), section 6 (extraction given class labels only) and section 7
(omitting confidence values as a countermeasure).

ART's ``ClassLabels`` is the same idea, but in a batch it sets the top-1 column of any row in all rows;
this one sets one column in each row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from defenses import predicates
from defenses.base import Claims, OutputDefense, Predicate


class LabelOnly(OutputDefense):
    """Answers with the one-hot row of the top-1 class; in a tie, of the lowest index."""

    name = "label_only"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, sections 6 and 7"
    known_by = ("labels", "auto")

    @property
    def claims(self) -> Claims:
        """The label stays, and nothing else."""
        return Claims(one_hot=True)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """One-hot rows, of which there are as many as classes."""
        return predicates.one_hot(), predicates.distinct()

    def __call__(self, preds: Any) -> Any:
        """Return one-hot rows (n, classes) in the dtype of ``preds`` (n, classes)."""
        labels = np.zeros_like(preds)
        labels[np.arange(len(preds)), np.argmax(preds, axis=1)] = 1
        return labels
