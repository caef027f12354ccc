"""Defenses with a mistake in them, as one might slip into a change: what a gate is there to notice."""

from typing import Any

import numpy as np
from art.defences.postprocessor import ClassLabels as ArtClassLabels

from bench.seeds import legacy_numpy
from defenses.base import Answers, Batch
from defenses.gaussian_noise import GaussianNoise
from defenses.label_only import LabelOnly
from defenses.mahalanobis import Mahalanobis


class ClassLabels(LabelOnly):
    """Label-only answers as ART has them: a column that wins in one row of a batch is marked in all."""

    name = "class_labels"

    def __call__(self, preds: Any) -> Any:
        """Return (n, classes), ones in every column that wins somewhere."""
        return ArtClassLabels()(np.asarray(preds))


class GaussianNoiseByInput(GaussianNoise):
    """Noise that is drawn once an input, and not once a query."""

    name = "gaussian_noise_by_input"

    def answer(self, batch: Batch) -> Answers:
        """Draw every row's noise from a seed of its input."""
        answers = np.clip(batch.probabilities, None, 1)
        for row in range(len(batch)):
            with legacy_numpy(batch.input_seed(row)):
                answers[row] = self(answers[row : row + 1])[0]
        return Answers.of(answers)


class MahalanobisDoubled(Mahalanobis):
    """A gate that lets pass what is up to twice as far, and twice as doubtful, as it was meant to."""

    name = "mahalanobis_doubled"

    def _calibrate(self, scores: Any) -> None:
        super()._calibrate(scores)
        self.thresholds_ = 2 * self.thresholds_
