"""Defenses with a mistake in them, as one might slip into a change: what a gate is there to notice."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from defenses import predicates
from defenses.base import Answers, Array, Batch, Claims, OutputDefense, Predicate
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


class MahalanobisDoubled(Mahalanobis):
    """A gate that lets pass what is up to twice as far, and twice as doubtful, as it was meant to."""

    name = "mahalanobis_doubled"

    def _calibrate(self, scores: Any) -> None:
        super()._calibrate(scores)
        self.thresholds_ = 2 * self.thresholds_


class MahalanobisLenient(Mahalanobis):
    """A detector whose thresholds have moved, so that it flags a fifth less of synthetic queries."""

    name = "mahalanobis_lenient"

    def _calibrate(self, scores: Any) -> None:
        super()._calibrate(scores)
        self.thresholds_ = LENIENT * self.thresholds_


LENIENT = 1.4
"""Factor of the thresholds at which about a fifth less is flagged."""


class LabelOnlyLeaking(LabelOnly):
    """Labels that show the second class too: its entry is ``size``, and the top-1's as much less than 1."""

    name = "label_only_leaking"

    def __init__(self, *, size: Annotated[float, Field(gt=0, lt=0.5)] = 1e-4) -> None:
        super().__init__()
        self.size = size

    @property
    def claims(self) -> Claims:
        """Whoever made this change has noticed that answers are not one-hot any more."""
        return Claims()

    @property
    def predicates(self) -> Sequence[Predicate]:
        """What is left to claim."""
        return ()

    def __call__(self, preds: Any) -> Any:
        """Return rows (n, classes) of two entries."""
        labels, rows = super().__call__(preds), np.arange(len(preds))
        second = np.where(labels == 1, -1, preds).argmax(axis=1)
        labels[rows, second] = self.size
        labels[rows, np.argmax(preds, axis=1)] = 1 - self.size
        return labels


class LabelOnlyHiding(LabelOnly):
    """Labels whose one entry tells the second class: it is less than 1 by up to ``size``."""

    name = "label_only_hiding"

    def __init__(self, *, size: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6) -> None:
        super().__init__()
        self.size = size

    @property
    def claims(self) -> Claims:
        """Rows sum to 1 but for a rounding error."""
        return Claims()

    def __call__(self, preds: Any) -> Any:
        """Return rows (n, classes) of one entry."""
        labels = super().__call__(preds)
        second = np.where(labels == 1, -1, preds).argmax(axis=1)
        labels[np.arange(len(preds)), np.argmax(preds, axis=1)] -= self.size * second / preds.shape[1]
        return labels


class Tempered(OutputDefense):
    """A softmax of temperature 1: the victim's own probabilities."""

    name = "tempered"
    paper = "Hinton et al. 2015, arXiv 1503.02531, section 2 (temperature)"
    temperature = 1.0

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The log-odds are the victim's."""
        return (predicates.log_odds(1.0),)

    def __call__(self, preds: Any) -> Any:
        """Return rows (n, classes) of a softmax of log-odds, divided by the temperature."""
        powers = np.asarray(preds, dtype=np.float64) ** (1 / self.temperature)
        rows: Array = powers / powers.sum(axis=1, keepdims=True)
        return rows


class TemperedSharper(Tempered):
    """The same with another temperature than is claimed."""

    name = "tempered_sharper"
    temperature = 0.5


class _Seeded(GaussianNoise):
    """Gaussian noise whose seeds are chosen by :meth:`seed_of`."""

    def seed_of(self, batch: Batch, row: int) -> int:
        """Return the seed of a row's noise."""
        return batch.row_seed(row)

    def noise(self, batch: Batch) -> Array:
        """Return normal noise (n, classes) of standard deviation ``scale``."""
        classes = batch.probabilities.shape[1]
        draws = [
            np.random.default_rng(self.seed_of(batch, row)).normal(size=classes) for row in range(len(batch))
        ]
        noise: Array = self.scale * np.array(draws).reshape(batch.probabilities.shape)
        return noise

    def answer(self, batch: Batch) -> Answers:
        """Return answers with noise, clipped at zero and normalised; all zero becomes uniform."""
        rows = np.clip(batch.probabilities + self.noise(batch), 0, None)
        total = rows.sum(axis=1, keepdims=True)
        uniform = np.full_like(rows, 1 / rows.shape[1])
        return Answers.of(np.divide(rows, total, out=uniform, where=total != 0))


class GaussianNoiseByInput(_Seeded):
    """Noise that is drawn once an input, and not once a query."""

    name = "gaussian_noise_by_input"

    def seed_of(self, batch: Batch, row: int) -> int:
        """Return a seed of the input."""
        return batch.input_seed(row)


class GaussianNoiseOneSeed(_Seeded):
    """Noise that is the same in all repeats and for all clients: its seed is the running number alone."""

    name = "gaussian_noise_one_seed"

    def seed_of(self, batch: Batch, row: int) -> int:
        """Return the running number of the query."""
        return batch.number + row


class GaussianNoiseSixteenSeeds(_Seeded):
    """Noise with sixteen seeds."""

    name = "gaussian_noise_sixteen_seeds"

    def seed_of(self, batch: Batch, row: int) -> int:
        """Return the number of one of sixteen seeds for each client."""
        return batch.seed + (batch.number + row) % 16


class GaussianNoiseMixed(_Seeded):
    """Noise of which a ``share`` of the standard deviation's square is drawn once an input."""

    name = "gaussian_noise_mixed"

    def __init__(
        self,
        *,
        scale: Annotated[float, Field(gt=0, le=10)] = 0.2,
        share: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(scale=scale)
        self.share = share

    def noise(self, batch: Batch) -> Array:
        """Return noise of which a part is keyed by the input, whatever seed, client and number."""
        keyed = replace(batch, seed=0)
        classes = batch.probabilities.shape[1]
        same = np.array(
            [np.random.default_rng(keyed.input_seed(row)).normal(size=classes) for row in range(len(batch))]
        ).reshape(batch.probabilities.shape)
        mixed: Array = (
            np.sqrt(1 - self.share) * super().noise(batch) + self.scale * np.sqrt(self.share) * same
        )
        return mixed
