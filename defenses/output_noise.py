"""Noise on the confidence values, with or without the label, fresh or the same whenever asked again.

Proposed in the studies owasp-digits and fashion-noise. Perturbing the answer while keeping its top-1
label is what Orekondy, Schiele, Fritz 2020, "Prediction Poisoning" (arXiv 1906.10908), ask of a
useful defense; their perturbation is optimised, this one is plain.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from defenses.base import Array, Claims, NoisyDefense, StrengthRange


class OutputNoise(NoisyDefense):
    """Add normal noise of standard deviation ``scale``, in units of probability; clip at zero, normalise.

    ``keep_label``: where noise puts another class on top, the two entries are swapped, so that the
    first maximum stays the victim's. ``consistent``: noise is keyed by the input, so that asking
    again brings the same answer and averaging repeats brings nothing; another client, or the same
    input changed by one bit, draws anew.

    A row whose every entry is clipped away is answered with its label alone, or uniformly where the
    label is not kept.

    ``gaussian_noise`` is ART's: it keeps no label, is always fresh, draws from NumPy's legacy
    generator, and neither clips nor normalises a row that is no distribution. With both switches off
    and on a distribution, this one is the same in law.
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
        """Rows clipped away tie, unless the label is kept."""
        return Claims(
            keeps_label=self.keep_label,
            ties=not self.keep_label,
            normalises=True,
            stochastic=True,
            consistent_noise=self.consistent,
        )

    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return ``row`` (classes,) with noise, clipped at zero."""
        noisy = row + rng.normal(0, self.scale, len(row))
        if self.keep_label:
            label, top = row.argmax(), noisy.argmax()
            noisy[[label, top]] = noisy[[top, label]]
            if noisy[label] <= 0:
                noisy[label] = 1.0  # everything is clipped away; the label is what is left
        return np.clip(noisy, 0, None)
