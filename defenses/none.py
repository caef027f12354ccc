"""No defense: the victim's answers, with which all defenses are compared."""

from collections.abc import Sequence
from typing import Any

from defenses import predicates
from defenses.base import OutputDefense, Predicate


class NoDefense(OutputDefense):
    """Leaves the answers unchanged."""

    name = "none"

    @property
    def predicates(self) -> Sequence[Predicate]:
        """Nothing is changed."""
        return (predicates.unchanged_unless_rejected(),)

    def __call__(self, preds: Any) -> Any:
        """Return a copy of the answers (n, classes)."""
        return preds.copy()
