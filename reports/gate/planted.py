"""Defenses with a mistake in them, as one might slip into a change: what a gate is there to notice."""

from typing import Any

import numpy as np

from bench.seeds import legacy_numpy
from defenses.base import Answers, Batch, Claims
from defenses.gaussian_noise import GaussianNoise
from defenses.label_only import LabelOnly
from defenses.mahalanobis import Mahalanobis


class LabelOnlyOfRounded(LabelOnly):
    """Labels of answers that were rounded to whole numbers: where no class has half of the mass, class 0."""

    name = "label_only_of_rounded"

    @property
    def claims(self) -> Claims:
        """One-hot answers, some of another class than the victim's."""
        return Claims(one_hot=True, keeps_label=False)

    def __call__(self, preds: Any) -> Any:
        """Return one-hot rows (n, classes)."""
        return super().__call__(np.round(preds))


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
