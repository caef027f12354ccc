"""Answers flattened to noise in a narrow band: of what the victim said, the top-1 class alone is left.

The defense of the study mnist-mea-mia, step 5, against membership inference. Low confidence for every
answer, with the label kept, is also the output half of Chen, Pattabiraman 2023, "Overconfidence is a
Dangerous Thing" (arXiv 2307.01610).
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from defenses.base import Array, Claims, NoisyDefense, StrengthRange


class SoftmaxFlattening(NoisyDefense):
    """Draw every entry uniformly from [``low``, ``high``], lift the top-1 class above all, normalise.

    The top-1 class gets the largest drawn entry plus ``bias``, all in units of probability before
    normalisation, so that the label stays, without a tie. The answer holds nothing else of the
    victim's: whoever takes its argmax knows what ``label_only`` shows, and as much.
    """

    name = "softmax_flattening"
    paper = "study mnist-mea-mia, step 5; Chen, Pattabiraman 2023, arXiv 2307.01610 (output modification)"
    known_by = ("labels", "auto")
    strength = StrengthRange("bias", 1.0, 1e-9)

    def __init__(
        self,
        *,
        low: Annotated[float, Field(ge=0, le=1)] = 0.09,
        high: Annotated[float, Field(ge=0, le=1)] = 0.10,
        # A smaller lift would drown in the rounding of the entries.
        bias: Annotated[float, Field(ge=1e-9, le=1)] = 0.005,
    ) -> None:
        super().__init__()
        if low > high:
            raise ValueError(f"low={low} is above high={high}; low in [0, high] is allowed")
        self.low, self.high, self.bias = low, high, bias

    @property
    def claims(self) -> Claims:
        """The label stays, and nothing else; a band without width is not random."""
        return Claims(normalises=True, stochastic=self.low < self.high)

    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return drawn entries (classes,) with the first maximum of ``row`` lifted above all others."""
        entries = rng.uniform(self.low, self.high, len(row))
        entries[row.argmax()] = entries.max() + self.bias
        return entries
