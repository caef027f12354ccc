"""What a thief can train while he buys: surrogates of the cell's architecture, by the cell's own rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attacks.base import Predictor, TransferSet
from bench.models import surrogates
from bench.models.networks import Shape
from bench.models.online_surrogate import OnlineSurrogate
from bench.models.training_config import rule
from bench.seeds import derive

Images = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class InterimSurrogates:
    """A thief's surrogates in one cell: untrained ones that learn step by step, and trained ones.

    ``seed``: that of the cell's training, so that an untrained surrogate here is the one that the copy
    starts from. ``how``: the cell's training rule; ``memo``: folder of trainings that cells share.
    """

    architecture: str
    shape: Shape
    classes: int
    seed: int
    how: str = "rule"
    training_cache: Path | None = None

    def __call__(self) -> OnlineSurrogate:
        """Return an untrained surrogate; raises NotApplicable for a model that has no steps."""
        return surrogates.online(self.architecture, self.shape, self.classes, self.seed, self.how)

    def fit(self, sets: Sequence[tuple[Images, Array]], effort: float = 1.0) -> list[Predictor]:
        """Train a copy on each set of inputs (n, …) and targets (n, classes); see SurrogateFactory.

        All that is handed over together is one stack where the architecture allows it. Unqueried
        inputs, of which a rule may make use at the end, play no part here.
        """
        if not sets:
            return []
        if not 0 < effort <= 1:
            raise ValueError(f"effort={effort} is not in (0, 1]")
        bought = [
            TransferSet(np.ascontiguousarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32))
            for x, y in sets
        ]
        seeds = [derive(self.seed, "apprentice", place) for place in range(len(bought))]
        copies = surrogates.fit(
            bought,
            self.architecture,
            self.classes,
            seeds,
            self.training_cache,
            rule(self.how).supervised(),
            effort=effort,
        )
        return [copy.probabilities for copy in copies]
