"""Nearly uniform random answers, of which only the top-1 class is the victim's.

The defense of the study mnist-mea-mia, step 5, against membership inference. Low confidence for every
answer, with the label kept, is also the output half of Chen, Pattabiraman 2023, "Overconfidence is a
Dangerous Thing" (arXiv 2307.01610).
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from defenses import predicates
from defenses.base import Answers, Array, Claims, NoisyDefense, Predicate, StrengthRange


class SoftmaxFlattening(NoisyDefense):
    """Draws every entry uniformly from [``low``, ``high``], makes the top-1 class the largest, normalises.

    The top-1 class gets the largest drawn entry plus ``bias``, all in units of probability before
    normalisation, so that the label stays, without a tie. The answer contains nothing else of the
    victim's: its argmax carries the same information as ``label_only``.
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
        # A smaller lift would be lost in the rounding of the entries.
        bias: Annotated[float, Field(ge=1e-9, le=1)] = 0.005,
    ) -> None:
        super().__init__()
        if low > high:
            raise ValueError(f"low={low} is above high={high}; low in [0, high] is allowed")
        self.low, self.high, self.bias = low, high, bias

    @property
    def claims(self) -> Claims:
        """The label stays; if ``low`` equals ``high``, nothing is random."""
        return Claims(normalises=True, stochastic=self.low < self.high, continuous=self.low < self.high)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The other entries are as near one another, and the largest leads, as the drawn ones do."""
        low, high, bias = self.low, self.high, self.bias
        shown = {"low": f"{low:g}", "high": f"{high:g}", "bias": f"{bias:g}"}

        def ratio(_: Array, given: Answers) -> Array:
            others = np.sort(given.probabilities, axis=1)[:, :-1]
            # Of drawn entries, scaled alike; so is the bound.
            short: Array = np.maximum(others[:, -1] * low - others[:, 0] * high, 0)
            return short

        def lead(_: Array, given: Answers) -> Array:
            rows = np.sort(given.probabilities, axis=1)
            leads, classes = rows[:, -1] - rows[:, -2], rows.shape[1]
            # More than the bias where the top-1 class had drawn the largest entry itself.
            least, most = bias / (classes * high + bias), (bias + high - low) / (classes * low + bias)
            outside: Array = np.maximum(np.maximum(least - leads, leads - most), 0)
            return outside

        return (
            Predicate("other entries within {low} to {high}", ratio, predicates.ROUNDING, shown),
            Predicate("top-1 leads by {bias} before scaling", lead, predicates.ROUNDING, shown),
        )

    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return drawn entries (classes,), the one at the first maximum of ``row`` above all others."""
        entries = rng.uniform(self.low, self.high, len(row))
        entries[row.argmax()] = entries.max() + self.bias
        return entries
