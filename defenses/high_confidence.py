"""Probabilities above a cut-off only.

ART's documentation traces it to Tramèr et al. 2016 (arXiv 1609.02943), whose section 7 discusses
what an API may withhold. The arithmetic is ART's.
"""

from collections.abc import Sequence
from typing import Annotated

from art.defences.postprocessor import HighConfidence as ArtHighConfidence
from pydantic import Field

from defenses import predicates
from defenses.base import Claims, OutputDefense, Predicate, StrengthRange


class HighConfidence(OutputDefense, ArtHighConfidence):  # type: ignore[misc]  # ART is untyped
    """Replaces every probability below ``cutoff`` by zero; rows are not normalised.

    A row without a larger probability becomes all zero, and its first maximum is class 0.
    """

    name = "high_confidence"
    paper = "Tramèr et al. 2016, arXiv 1609.02943, section 7"
    known_by = ("recover", "labels", "auto")
    strength = StrengthRange("cutoff", 1e-6, 1.0)

    def __init__(self, *, cutoff: Annotated[float, Field(gt=0, le=1)] = 0.25) -> None:
        ArtHighConfidence.__init__(self, cutoff=cutoff)

    @property
    def claims(self) -> Claims:
        """All-zero rows lose the label and tie; rows with replaced entries do not sum to 1."""
        return Claims(keeps_label=False, ties=True, distribution=False)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """Entries of at least ``cutoff``, unchanged."""
        return predicates.at_least_or_zero(self.cutoff), predicates.kept_or_zero()
