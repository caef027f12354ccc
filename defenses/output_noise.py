"""Noise on the probabilities, which may keep the label and may be the same for repeated queries.

Proposed in the studies owasp-digits and fashion-noise. Perturbing the answer while keeping its top-1
label is what Orekondy, Schiele, Fritz 2020, "Prediction Poisoning" (arXiv 1906.10908), require of a
useful defense; their perturbation is optimised, this one is random.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from defenses.base import Array, Claims, NoisyDefense, StrengthRange


class OutputNoise(NoisyDefense):
    """Adds normal noise of standard deviation ``scale`` to the probabilities; can keep the label.

    Rows are clipped at zero and normalised. ``keep_label``: where noise makes another class the top-1,
    the two entries are swapped, so that the first maximum stays the victim's. ``consistent``: noise is
    keyed by the input, so that repeated queries get the same answer and cannot be averaged; another
    client, or the same input changed by one bit, gets other noise.

    A row in which every entry is clipped to zero is answered with its label alone, or uniformly where
    the label is not kept.

    ``gaussian_noise`` is ART's: it keeps no label, is never consistent, draws from NumPy's legacy
    generator, and neither clips nor normalises a row that is no distribution. With both options off
    and on a distribution, this one has the same distribution.
    """

    name = "output_noise"
    paper = "studies owasp-digits, fashion-noise; Orekondy et al. 2020, arXiv 1906.10908 (label kept)"
    known_by = ("average", "recover", "auto")
    strength = StrengthRange("scale", 1e-5, 10.0)

    def __init__(
        self,
        *,
        scale: Annotated[float, Field(gt=0, le=10)] = 0.1,
        keep_label: bool = True,
        consistent: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.keep_label, self.consistent = scale, keep_label, consistent

    @property
    def claims(self) -> Claims:
        """Rows clipped to zero tie, unless the label is kept."""
        return Claims(
            keeps_label=self.keep_label,
            ties=not self.keep_label,
            normalises=True,
            stochastic=True,
            consistent_noise=self.consistent,
            continuous=True,
        )

    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return ``row`` (classes,) with noise, clipped at zero."""
        noisy = row + rng.normal(0, self.scale, len(row))
        if self.keep_label:
            label, top = row.argmax(), noisy.argmax()
            noisy[[label, top]] = noisy[[top, label]]
            if noisy[label] <= 0:
                noisy[label] = 1.0  # every entry is clipped to zero; only the label is left
        return np.clip(noisy, 0, None)
