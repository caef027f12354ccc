"""An OOD detector by Mahalanobis distance in feature space, combined with a probability threshold.

It combines:

- Lee, Lee, Lee, Shin 2018 (arXiv 1807.03888), section 2: class-conditional Gaussians with one tied
  covariance in the feature space of the victim, at several depths; the score is the distance to the
  nearest class mean. Their input perturbation is left out (a callable victim has no gradient), and
  so is their logistic regression over depths, which needs examples of OOD inputs. Instead the
  distance at each depth is standardised on held-out benign data, and the largest one is used. The
  pixels are the shallowest depth: the features of a small victim alone do not detect noise, since
  ReLUs that are inactive in training stay inactive.
- Ledoit, Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices":
  shrinkage, so that constant pixels and dead features neither break the inverse nor are ignored.
- Hendrycks, Gimpel 2017 (arXiv 1610.02136): the victim's largest probability, low on unfamiliar
  inputs, is the second test; it may use a fifth of the allowed false positives.
- Weinberger et al. 2009 (arXiv 0902.2206): layers wider than 1,024 are reduced by a seeded signed
  sketch. Unlike leading principal components it keeps the directions in which benign data do not
  vary, and in which outliers show.
- Vovk, Gammerman, Shafer 2005 (split conformal prediction): both thresholds are order statistics of
  the calibration split, so the false-positive rate needs no assumption on the scores.

The inputs are encoded first (:class:`bench.encoding.Encoding`): columns of a table have units that do not
compare, and categories no order. Images in [0, 1] stay as they are.

On MNIST the pixels alone detect as much as all depths together; on 8x8 digits the depths add much;
the penultimate layer alone misses most on both. The controls ``layers="input"`` and
``layers="penultimate"`` measure that on any victim.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.exceptions import NotFittedError

from bench.encoding import Encoding
from bench.errors import VictimError
from bench.inputs import InputSpace
from defenses import predicates
from defenses.base import (
    Answers,
    Array,
    Batch,
    Calibration,
    Claims,
    Defense,
    Images,
    Mask,
    Predicate,
    ScreenDefense,
    StrengthRange,
)

Reader = Callable[[Images], Sequence[NDArray[np.float32]]]

AIM = 0.9
"""Share of ``fpr`` that is the target for the calibration split."""
CONFIDENCE_SHARE = 0.2
"""Share of the calibration split's false positives that the probability threshold may use."""
FIT_ROWS = 10_000
"""Largest number of training rows that the Gaussians are fitted to."""
WIDEST = 1024
"""Largest number of features of a depth that are kept; wider depths are reduced to it by a sketch."""
CHUNK = 256
"""Rows whose features are in memory at once."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Gaussians:
    """One depth: class means (classes, d) in coordinates whitened by the tied covariance."""

    origin: Array
    whiten: Array
    means: Array

    @classmethod
    def fit(cls, features: Array, labels: NDArray[np.int64]) -> _Gaussians:
        """Fit (n, d) features, which are overwritten, with (n,) labels."""
        classes, rows = np.unique(labels, return_inverse=True)
        means = np.stack([features[labels == label].mean(axis=0) for label in classes])
        covariance = np.eye(features.shape[1])
        features -= means[rows]
        if features.any():  # a depth that never varies keeps its Euclidean distance
            covariance = np.atleast_2d(ledoit_wolf(features, assume_centered=True)[0])
            # Shrinkage is 0 in rare cases; this keeps the factor positive definite.
            covariance[np.diag_indices_from(covariance)] += 1e-9 * np.trace(covariance) / len(covariance)
        lower = np.linalg.cholesky(covariance)
        whiten = solve_triangular(lower, np.eye(len(lower)), lower=True).T
        origin = means.mean(axis=0)
        return cls(origin, whiten, (means - origin) @ whiten)

    def distances(self, features: Array) -> Array:
        """Return (n,) Mahalanobis distances to the nearest class mean."""
        return np.asarray(cdist((features - self.origin) @ self.whiten, self.means).min(axis=1))


@lru_cache(maxsize=8)
def _sketch(width: int, seed: int) -> csr_array:
    """Return a (width, WIDEST) matrix with one entry a row, 1 or -1, spread evenly over the columns."""
    rng = np.random.default_rng((seed, width))
    columns = rng.permutation(width) % WIDEST
    signs = rng.choice((-1.0, 1.0), width)
    return csr_array((signs, (np.arange(width), columns)), shape=(width, WIDEST))


def _digest(inputs: Images) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(inputs).data).digest()


class Mahalanobis(ScreenDefense):
    """Flags queries far from the training data in the victim's features, and those with low confidence.

    ``fpr``: share of benign queries that may be flagged, a fraction in (0, .5]; the thresholds are set to
    .9 of it. ``action``: the answer to a flagged query: "noise" (a random distribution, Dirichlet(1),
    new for every query), "label_only" (the top-1 class alone) or "refuse" (rejected). ``layers``: "all"
    is the detector; "input" (distance in pixel space alone) and "penultimate" (the textbook version,
    one layer) are controls that use that one distance, without the probability threshold.

    Fitted: ``thresholds_`` (distance in standard deviations of benign data, 1 - largest probability);
    ``flagged_`` (share of the calibration split that is flagged); ``fallback_`` (True where the victim
    offers no features, and only its inputs are used: pixels, or encoded columns of a table).
    """

    name = "mahalanobis"
    paper = "Lee et al. 2018, arXiv 1807.03888; Hendrycks, Gimpel 2017, arXiv 1610.02136"
    known_by = ("evade",)
    strength = StrengthRange("fpr", 1e-3, 0.5)

    thresholds_: Array
    flagged_: float
    fallback_: bool

    def __init__(
        self,
        *,
        fpr: Annotated[float, Field(gt=0, le=0.5)] = 0.05,
        action: Literal["noise", "label_only", "refuse"] = "noise",
        layers: Literal["all", "input", "penultimate"] = "all",
    ) -> None:
        self.fpr = fpr
        self.action = action
        self.layers = layers

    @property
    def claims(self) -> Claims:
        """Answers that are not flagged are unchanged; ``action`` decides on the others."""
        return Claims(
            keeps_label=self.action != "noise",
            stochastic=self.action == "noise",
            may_refuse=self.action == "refuse",
            may_flag=True,
        )

    @property
    def judges_inputs_alone(self) -> bool:
        """True for ``layers="input"``."""
        return self.layers == "input"

    @property
    def predicates(self) -> Sequence[Predicate]:
        """What is not flagged is unchanged; what is flagged is answered by ``action``."""
        acted = {
            "refuse": [predicates.rejected_if_flagged()],
            "label_only": [predicates.one_hot(flagged=True)],
            "noise": [],
        }
        return predicates.unchanged_unless_flagged(), *acted[self.action]

    def fit(self, calibration: Calibration) -> None:
        """Fit the Gaussians on the training split, z-scores and thresholds on the calibration split."""
        read = calibration.read_features
        self.fallback_ = read is None and self.layers != "input"
        if self.fallback_:
            judged = "pixel space" if calibration.inputs.ndim == 4 else "the space of encoded inputs"
            logger.warning("mahalanobis: the victim offers no features; judging by distance in %s", judged)
        self._seed = calibration.seed
        space = calibration.space or InputSpace(calibration.train_inputs.shape[1:])
        self._encode = Encoding.fit(space, calibration.train_inputs)
        rng = np.random.default_rng(calibration.seed)
        rows = np.sort(rng.permutation(len(calibration.train_inputs))[:FIT_ROWS])
        # One depth at a time in double precision: all of them together are most of a worker's memory.
        depths = list(zip(*self._chunks(calibration.train_inputs[rows], read), strict=True))
        labels = calibration.train_labels[rows]
        self._gaussians = []
        while depths:
            self._gaussians.append(_Gaussians.fit(self._wide(np.concatenate(depths.pop(0))), labels))
        distances = self._distances(calibration.inputs, read)
        spread = distances.std(axis=0)
        self._centre, self._scale = distances.mean(axis=0), np.where(spread > 0, spread, 1.0)
        # Not the inputs themselves: a detector would keep as many as the data set has.
        self._calibrated = calibration.probabilities, _digest(calibration.inputs)
        self._calibration_scores = self._scores(distances, calibration.probabilities)
        held_out = len(distances)
        if self._allowed(held_out) < 0:
            logger.warning(
                "mahalanobis: %d calibration rows are too few for fpr=%g; expect about %.2g",
                *(held_out, self.fpr, self._tests / (held_out + 1)),
            )
        self._calibrate(self._calibration_scores)

    def at(self, value: float, calibration: Calibration) -> Defense:
        """Return this detector at another ``fpr``: only the thresholds are fitted anew."""
        other = copy.copy(self)
        other.fpr = value
        other._calibrate(self._calibration_scores)  # noqa: SLF001  # same class
        return other

    @property
    def _tests(self) -> int:
        return 2 if self.layers == "all" else 1

    def _allowed(self, rows: int) -> int:
        # Of n + 1 exchangeable rows, k + 1 lie at or above the (k + 1)-th largest: every test costs one.
        return int(AIM * self.fpr * (rows + 1)) - self._tests

    def _calibrate(self, scores: Array) -> None:
        allowed = max(self._allowed(len(scores)), 0)
        distance, doubt = scores.T
        unsure = np.inf
        if self.layers == "all":
            unsure = np.sort(doubt)[-1 - int(CONFIDENCE_SHARE * allowed)]
        clear = distance[doubt <= unsure]
        far = np.sort(clear)[-1 - (allowed - (len(scores) - len(clear)))]
        self.thresholds_ = np.array([far, unsure])
        self.flagged_ = float((scores > self.thresholds_).any(axis=1).mean())

    def scores(self, batch: Batch) -> Array:
        """Return (n, 2): distance in standard deviations of benign data, and 1 - largest probability.

        A query is flagged where one of them exceeds its entry of ``thresholds_``. The distance is the
        largest over the depths. Raises NotFittedError before ``fit``.
        """
        if not hasattr(self, "thresholds_"):
            raise NotFittedError("call fit with a calibration split before mahalanobis judges a query")
        probabilities, digest = self._calibrated
        if np.array_equal(batch.raw, probabilities) and _digest(batch.inputs) == digest:
            return self._calibration_scores  # queried repeatedly while a strength is searched
        return self._scores(self._distances(batch.inputs, batch.read_features), batch.raw)

    def _scores(self, distances: Array, probabilities: Array) -> Array:
        far = ((distances - self._centre) / self._scale).max(axis=1)
        return np.stack([far, 1 - probabilities.max(axis=1)], axis=1)

    def _distances(self, inputs: Images, read: Reader | None) -> Array:
        """Return (n, depths) distances, not standardised."""
        rows = [
            np.stack(
                [d.distances(self._wide(part)) for d, part in zip(self._gaussians, chunk, strict=True)], 1
            )
            for chunk in self._chunks(inputs, read)
        ]
        return np.concatenate(rows) if rows else np.empty((0, len(self._gaussians)))

    def _wide(self, depth: NDArray[np.float32]) -> Array:
        """Return (n, d) in double precision, sketched where it is wide."""
        wide = depth.astype(np.float64)
        return wide @ _sketch(wide.shape[1], self._seed) if wide.shape[1] > WIDEST else wide

    def _chunks(self, inputs: Images, read: Reader | None) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for CHUNK rows at a time, the features (rows, d) at each depth."""
        if read is None and not self.fallback_ and self.layers != "input":
            raise VictimError("mahalanobis was fitted on the victim's features; the batch offers none")
        for start in range(0, len(inputs), CHUNK):
            part = inputs[start : start + CHUNK]
            depths: list[NDArray[np.float32]] = [self._encode(part).reshape(len(part), -1)]
            if read is not None and self.layers != "input" and not self.fallback_:
                features = read(part)
                depths = [*depths, *features] if self.layers == "all" else [features[-2:][0]]
            yield depths

    def judge(self, batch: Batch) -> Mask:
        """Return (n,) True where a query is flagged; NaN scores are flagged."""
        return np.asarray(~(self.scores(batch) <= self.thresholds_).all(axis=1))

    def answer(self, batch: Batch) -> Answers:
        """Return the answers, unchanged where the query is in-distribution, by ``action`` elsewhere."""
        flagged = self.judge(batch)
        answers = batch.probabilities.copy()
        rows = np.flatnonzero(flagged)
        if self.action == "noise":
            for row in rows:
                rng = np.random.default_rng(batch.row_seed(int(row)))
                answers[row] = rng.dirichlet(np.ones(answers.shape[1]))
        elif self.action == "label_only":
            labels = answers[rows].argmax(axis=1)
            answers[rows] = 0
            answers[rows, labels] = 1
        else:
            answers[rows] = np.nan
        refused = flagged if self.action == "refuse" else np.zeros_like(flagged)
        return Answers(answers, refused.copy(), flagged)
