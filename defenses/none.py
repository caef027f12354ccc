"""No defense: the victim's answers, with which all defenses are compared."""

from typing import Any

from defenses.base import OutputDefense


class NoDefense(OutputDefense):
    """Leaves the answers unchanged."""

    name = "none"

    def __call__(self, preds: Any) -> Any:
        """Return a copy of the answers (n, classes)."""
        return preds.copy()
