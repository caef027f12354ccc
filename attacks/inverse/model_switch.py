"""The inverse of the defense ``model_switch``."""

from __future__ import annotations

import numpy as np

from attacks.base import Array
from attacks.inverse.base import Inverse, Mask, StackPosition


class ModelSwitchInverse(Inverse):
    """Drops the answers of the decision tree: they contain exact zeros, which a softmax does not."""

    def invert(self, answers: Array, estimate: Array | None, position: StackPosition) -> tuple[Array, Mask]:
        """Return the answers (n, classes), NaN where the tree gave them."""
        from_tree = (answers == 0).any(axis=1)
        return np.where(from_tree[:, None], np.nan, answers), ~from_tree
