"""An AUROC compares what a detector finds unusual, whatever threshold it uses; for every detector."""

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from bench.errors import PluginError
from bench.metrics.membership import auc
from bench.plugins import defenses
from bench.runner.defense_evaluation import DetectorScores, Measurements
from defenses.base import Answers, Batch, Calibration, DefenseStack, ScoredDetector, ScreenDefense

SHAPE, CLASSES = (1, 5, 5), 3
CENTRES = np.random.default_rng(0).uniform(0.3, 0.7, (CLASSES, *SHAPE))
DETECTORS = [name for name in defenses.names() if issubclass(defenses.get(name), ScreenDefense)]


class Blobs:
    """A victim of three classes, whose training and calibration data hold a share of noise."""

    def __init__(self, noise=0.0):
        self.train, self.held_out = self.benign(600, 1, noise), self.benign(300, 2, noise)

    def benign(self, n, seed, noise=0.0):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, CLASSES, n)
        x = (CENTRES[labels] + rng.normal(0, 0.08, (n, *SHAPE))).clip(0, 1)
        x[: int(noise * n)] = rng.random((int(noise * n), *SHAPE))
        return x.astype(np.float32), labels

    def strange(self, n, seed):
        return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)

    def probabilities(self, x):
        distances = ((x[:, None] - CENTRES) ** 2).sum(axis=(2, 3, 4))
        weights = np.exp(-20 * (distances - distances.min(axis=1, keepdims=True)))
        return weights / weights.sum(axis=1, keepdims=True)

    def features(self, x):
        return [x.reshape(len(x), -1)[:, ::2], np.log(self.probabilities(x) + 1e-9).astype(np.float32)]

    def reader(self, *, cached):
        return self.features

    @property
    def calibration(self):
        probabilities = self.probabilities(self.held_out[0])
        return Calibration(*self.train, *self.held_out, probabilities, self.features, seed=3)

    def positions(self, *detectors):
        """What is stored as AUROC: that of noise against benign inputs, and the positions of both."""
        calibration = self.calibration
        stack = DefenseStack(detectors)
        stack.fit(calibration)
        scores = DetectorScores.of(stack, calibration)
        benign = scores.positions(self, self.benign(200, 5)[0])
        return benign, scores.positions(self, self.strange(200, 6))


def auroc(benign, strange):
    measured = Measurements()
    measured.add_auroc("noise", benign, strange)
    return measured.values["detection.noise.auroc"]


def variants(name):
    """Every combination of a detector's choices, the parameter of its strength left out."""
    cls = defenses.get(name)
    choices = {
        key: get_args(parameter.annotation)
        for key, parameter in cls.parameters().items()
        if get_origin(parameter.annotation) is Literal
    }
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


@pytest.mark.parametrize(("name", "variant"), [(name, each) for name in DETECTORS for each in variants(name)])
def test_the_auroc_of_every_detector_is_the_same_at_every_threshold(name, variant):
    victim, cls = Blobs(), defenses.get(name)
    if cls.strength is None:
        pytest.skip(f"{name} has no parameter that moves its threshold")
    weakest, strongest = cls.strength.weakest, cls.strength.strongest
    found, thresholds = set(), set()
    for value in np.geomspace(weakest, strongest, 7):
        detector = cls(**variant | {cls.strength.parameter: float(value)})
        found.add(auroc(*victim.positions(detector)))
        thresholds.add(detector.thresholds_.tobytes())
    assert len(thresholds) > 2
    assert len(found) == 1
    # On this victim noise is far from everything.
    assert found.pop() > 0.99


def test_a_negative_threshold_does_not_turn_the_order_round():
    """A tenth of the benign data is noise: half of the benign distances lie below their mean."""
    detector = defenses.build("mahalanobis(fpr=0.45, layers=input)")
    benign, strange = Blobs(noise=0.1).positions(detector)
    assert detector.thresholds_[0] < 0
    assert auroc(benign, strange) > 0.99
    assert np.isfinite(benign).all()
    assert np.isfinite(strange).all()


@dataclass
class Shifted(ScreenDefense):
    """A detector of somebody else: the mean pixel's distance from a half, its zero anywhere."""

    zero: float = 0.0
    limit: float = 0.1
    columns: int = 1
    name = "shifted"

    def fit(self, calibration):
        self.thresholds_ = np.array([self.limit + self.zero, np.inf])[: self.columns]

    def scores(self, batch: Batch):
        far = np.abs(batch.inputs - 0.5).mean(axis=(1, 2, 3)) + self.zero
        return np.stack([far, np.arange(len(far))], axis=1)[:, : self.columns]

    def judge(self, batch):
        return (self.scores(batch) > self.thresholds_).any(axis=1)

    def answer(self, batch):
        return Answers.of(batch.probabilities.copy())


@pytest.mark.parametrize("zero", [-5.0, -0.1, 0.0, 5.0])
@pytest.mark.parametrize("columns", [1, 2])
def test_any_detector_has_the_auroc_of_its_scores_wherever_its_zero_lies(zero, columns):
    """With zero at -.1 its threshold is 0, with -5 it is negative; a test without limit is not used."""
    victim, detector = Blobs(), Shifted(zero, columns=columns)
    assert isinstance(Shifted(), ScreenDefense)
    assert not isinstance(Shifted(), ScoredDetector)  # not fitted
    benign, strange = victim.positions(detector)
    plain = Shifted(0.0)
    inputs = victim.benign(200, 5)[0], victim.strange(200, 6)
    known = np.repeat([False, True], 200)
    scores = np.concatenate([plain.scores(Batch(x, x, x))[:, 0] for x in inputs])
    assert auroc(benign, strange) == pytest.approx(auc(known, scores), abs=1e-3)


def test_detectors_of_a_stack_are_compared_by_their_positions():
    victim, detector = Blobs(), defenses.build("mahalanobis(layers=input)")
    alone = victim.positions(defenses.build("mahalanobis(layers=input)"))
    assert auroc(*victim.positions(detector, Shifted(-3))) > auroc(*alone) - 0.02
    assert victim.positions(Shifted(-3)) is not None


def test_a_stack_without_scores_has_no_auroc():
    assert Blobs().positions(defenses.build("label_only")) == (None, None)
    assert Blobs().positions(Shifted(limit=np.inf)) == (None, None)
    measured = Measurements()
    measured.add_auroc("noise", None, None)
    assert not measured.values


def test_scores_of_another_shape_are_named():
    detector = Shifted(columns=2)
    calibration = Blobs().calibration
    detector.fit(calibration)
    detector.thresholds_ = np.zeros(3)
    with pytest.raises(PluginError, match=r"scores of shape \(300, 2\) for 300 queries and 3 thresholds"):
        DetectorScores.of(DefenseStack((detector,)), calibration)
