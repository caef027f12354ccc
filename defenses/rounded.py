"""Rounded answers: Tramèr et al. 2016 (arXiv 1609.02943), section 7 ("rounding confidences").

The arithmetic is ART's.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from art.defences.postprocessor import Rounded as ArtRounded
from pydantic import Field

from defenses import predicates
from defenses.base import Array, Claims, OutputDefense, Predicate, StrengthRange


class Rounded(OutputDefense, ArtRounded):  # type: ignore[misc]  # ART is untyped
    """Rounds every probability to ``decimals`` places, halves to even."""

    name = "rounded"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 7"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("decimals", 15, 1, whole=True)

    def __init__(self, *, decimals: Annotated[int, Field(ge=1, le=15)] = 3) -> None:
        ArtRounded.__init__(self, decimals=decimals)

    @property
    def claims(self) -> Claims:
        """Rounding can tie the top-1 with a class of lower index, and rows need not sum to 1."""
        return Claims(keeps_label=False, ties=True, distribution=False)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """Multiples of the unit, the nearest ones."""
        decimals = self.decimals

        def expected(before: Array) -> Array:
            nearest: Array = np.round(before, decimals)
            return nearest

        name = "the nearest multiple of 10^-{decimals}"
        return (
            predicates.multiples(decimals),
            predicates.formula(name, expected, predicates.LAST_BIT, decimals=decimals),
        )
