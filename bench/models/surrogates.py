"""Training of surrogates: a pure function of the transfer sets, cached by everything that it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.base import Predictor, TransferSet
from bench import keys
from bench.augmentation import Augmentation
from bench.encoding import Encoding
from bench.errors import NotApplicable
from bench.inputs import InputSpace
from bench.models import networks, training
from bench.models.batched_training import BATCHED, train_batched
from bench.models.determinism import NUMERICAL_RULES, device, torch_seed, versions
from bench.models.gradients import logit_gradients
from bench.models.networks import Network, Shape, require_layout
from bench.models.semi_supervised import (
    TrainingData,
    require_method,
    rows_in_training,
    train_on_views,
)
from bench.models.sklearn_surrogates import ESTIMATORS, fit_estimator
from bench.models.stored_weights import load_weights, save_weights
from bench.models.training import TrainingSchedule, Weights
from bench.models.training_config import PSEUDO_LABELS, parse_training
from bench.sources import code

Images = NDArray[np.float32]
Array = NDArray[np.float64]
MIN_CONFIDENCE = 0.95
"""Probability from which a surrogate's own label of an unqueried input is used as a pseudo-label."""


class TrainedSurrogate(Protocol):
    """A finished surrogate, however it was made."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None where it was not trained by an optimizer."""

    @property
    def shared(self) -> bool:
        """Whether the training was taken from the training cache."""

    @property
    def rows(self) -> int | None:
        """Rows that the network evaluated in these steps; None without steps."""

    @property
    def unlabelled(self) -> int | None:
        """Inputs without an answer that it was trained with; None where the training uses none."""

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities."""

    def probabilities_half(self, x: Images) -> Array | None:
        """Return the probabilities after half of the training; None where there is no such state."""


@dataclass(frozen=True)
class NetworkSurrogate:
    """A trained network: its weights after half of the steps and after all of them.

    ``shared``: whether the training was taken from the training cache. ``encoding``: of its inputs; ``mean``
    and ``std`` then standardise what is encoded. ``rows``, ``unlabelled``: as in :class:`TrainedSurrogate`.
    """

    architecture: str
    encoding: Encoding
    classes: int
    half: Weights
    full: Weights
    steps: int
    shared: bool
    mean: float = 0.0
    std: float = 1.0
    rows: int | None = None
    unlabelled: int | None = None

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities."""
        return self._answer(x, self.full)

    def probabilities_half(self, x: Images) -> Array:
        """Return (n, classes) probabilities after half of the steps."""
        return self._answer(x, self.half)

    def __call__(self, x: Images) -> Array:
        """Return (n, classes) probabilities, as :class:`attacks.base.NetworkPredictor` has it."""
        return self.probabilities(x)

    def features(self, x: Images) -> Sequence[NDArray[np.float32]]:
        """Return each block's output, (n, d) float32, shallow to deep; the logits last."""
        return training.activations(self._network(self.full), self._encoded(x))

    def perturbed(self, scale: float, seed: int) -> Predictor:
        """Return the network with normal noise on its parameters, as a victim's ``perturb`` has it."""
        rng, noisy = np.random.default_rng(seed), dict(self.full)
        for name, _ in self._network(self.full).named_parameters():
            weight = noisy[name].numpy()
            noise = scale * weight.std() * rng.normal(size=weight.shape)
            noisy[name] = torch.from_numpy(weight + noise.astype(weight.dtype))
        return lambda x: self._answer(x, noisy)

    def encoded(self, x: Images) -> Images:
        """Return inputs (n, …) in the network's units; see :class:`attacks.base.DifferentiablePredictor`."""
        if reason := self.encoding.space.without_gradient:
            raise NotApplicable(reason)
        return self.encoding(x)

    def linearised(self, encoded: Images, classes: NDArray[np.intp]) -> tuple[Array, Images]:
        """Return all logits (n, all classes), and gradients by ``encoded`` of those of ``classes`` (n, k)."""
        network, x = self._network(self.full), training.scaled(encoded, self.mean, self.std)
        logits, gradients = logit_gradients(network, x, classes)
        return logits.astype(np.float64), gradients if self.std == 1 else gradients / np.float32(self.std)

    def _network(self, weights: Weights) -> Network:
        network = _blank(self.architecture, self.encoding.shape, self.classes)
        network.load_state_dict(weights)
        return network

    def _encoded(self, x: Images) -> Images:
        return training.scaled(self.encoding(x), self.mean, self.std)

    def _answer(self, x: Images, weights: Weights) -> Array:
        return training.softmax(training.logits(self._network(weights), self._encoded(x)))


@dataclass(frozen=True)
class SolvedSurrogate:
    """A surrogate without optimizer steps: solved for by the attack, or fitted by a library.

    ``answer``: from inputs (n, …) to (n, classes) probabilities.
    """

    answer: Callable[[Images], Array]
    steps: int | None = None
    shared: bool = False
    rows: int | None = None
    unlabelled: int | None = None

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities."""
        return np.asarray(self.answer(x), dtype=np.float64)

    def probabilities_half(self, x: Images) -> None:
        """Return None: there is no state at half of a training."""


def fit(
    transfer_sets: Sequence[TransferSet],
    architecture: str,
    classes: int,
    seeds: Sequence[int],
    training_cache: Path | None = None,
    training_text: str = "rule",
    *,
    inputs: InputSpace | None = None,
    unqueried: Sequence[Images] | None = None,
    step_fraction: float = 1.0,
    schedule_rows: int | None = None,
) -> list[TrainedSurrogate]:
    """Train one surrogate on each transfer set, or load them from the folder ``training_cache``.

    The sets are those of all repeats of a cell. Small architectures are trained as batched networks, so one
    call gets all of them. ``seeds``: seed of initialisation and batches, one a set. ``training_text``: a
    :class:`bench.models.training_config.TrainingConfig` as text. ``inputs``: what inputs may be; None for
    images in [0, 1]. Others are encoded, as their own transfer set implies. ``unqueried``: inputs (m, …) for
    each set that were not queried, for a semi-supervised training configuration. Trainings on views are done
    one by one, whatever the architecture. ``step_fraction``: fraction of the configured steps to take.
    ``schedule_rows``: answers that set the schedule; None for those of the largest set. An empty transfer set
    gives the untrained network. scikit-learn's models are trained with the library's own hyperparameters.
    Raises NotApplicable for an architecture that needs images where inputs are none, and for a configuration
    that cannot train it.
    """
    inputs = inputs or InputSpace(transfer_sets[0].x.shape[1:])
    require_layout(architecture, inputs)
    config = parse_training(training_text)
    rest = unqueried if config.semi_supervised and unqueried else [each.x[:0] for each in transfer_sets]
    if config.unlabelled == PSEUDO_LABELS:
        return _fit_to_pseudo_labels(
            transfer_sets,
            architecture,
            classes,
            seeds,
            training_cache,
            config.supervised(),
            inputs,
            rest,
            step_fraction,
        )
    if architecture in ESTIMATORS:
        if config.method:
            raise NotApplicable(f"{training_text} trains networks, and {architecture} is none")
        return [
            SolvedSurrogate(fit_estimator(architecture, each, classes, seed, inputs))
            for each, seed in zip(transfer_sets, seeds, strict=True)
        ]
    if config.method:
        require_method(config.method, architecture, inputs.shape)
    largest = max(len(each.x) for each in transfer_sets)
    if (config.method or architecture not in BATCHED) and len(transfer_sets) > 1:
        # As many steps as batched networks take: the plain schedule is that of the largest set of all.
        alone = partial(
            fit,
            architecture=architecture,
            classes=classes,
            training_cache=training_cache,
            training_text=training_text,
            inputs=inputs,
            step_fraction=step_fraction,
            schedule_rows=largest if architecture in BATCHED else None,
        )
        every = zip(transfer_sets, seeds, rest, strict=True)
        return [alone([each], seeds=[seed], unqueried=[others])[0] for each, seed, others in every]
    schedule = config.schedule(architecture, inputs.shape, schedule_rows or largest)
    schedule = replace(schedule, steps=max(1, round(step_fraction * schedule.steps)))
    scale = (config.mean, config.std)
    path = None
    if training_cache:
        key = _key(transfer_sets, architecture, schedule, scale, seeds, inputs, config.method, rest)
        path = training_cache / f"{key}.safetensors"
    weights = load_weights(path, len(transfer_sets))
    shared = weights is not None
    encodings = [Encoding.fit(inputs, each.x) for each in transfer_sets]
    if weights is None:
        encoded = [encode(each.x) for encode, each in zip(encodings, transfer_sets, strict=True)]
        ys = [each.y for each in transfer_sets]
        if config.method:
            (encode,), (x,), (y,), (others,) = encodings, encoded, ys, rest
            augmentation = Augmentation(inputs.layout, x, encode.widths if inputs.layout == "table" else ())
            data = TrainingData(x, y, encode(others), augmentation, scale)
            weights = [_train_on_views(data, architecture, classes, config.method, schedule, seeds[0])]
        else:
            xs = [training.scaled(x, *scale) for x in encoded]
            weights = _train(xs, ys, architecture, classes, schedule, seeds)
        save_weights(path, weights)
    return [
        NetworkSurrogate(
            architecture,
            encoding,
            classes,
            half,
            full,
            schedule.steps,
            shared,
            *scale,
            rows=rows_in_training(config.method, schedule, len(each.x), len(others)),
            unlabelled=len(others) if config.semi_supervised else None,
        )
        for encoding, (half, full), each, others in zip(encodings, weights, transfer_sets, rest, strict=True)
    ]


def _fit_to_pseudo_labels(
    transfer_sets: Sequence[TransferSet],
    architecture: str,
    classes: int,
    seeds: Sequence[int],
    training_cache: Path | None,
    supervised: str,
    inputs: InputSpace,
    rest: Sequence[Images],
    step_fraction: float,
) -> list[TrainedSurrogate]:
    """Return surrogates of the transfer sets and of the first surrogates' confident labels of the ``rest``.

    ``supervised``: the training configuration of both, as text.
    """
    train = partial(fit, inputs=inputs, step_fraction=step_fraction)
    teachers = train(transfer_sets, architecture, classes, seeds, training_cache, supervised)
    extended = [
        with_pseudo_labels(each, teacher, others)
        for each, teacher, others in zip(transfer_sets, teachers, rest, strict=True)
    ]
    students = train(extended, architecture, classes, seeds, training_cache, supervised)
    every = zip(students, teachers, map(len, rest), strict=True)
    return [_with_first_training(student, teacher, unlabelled) for student, teacher, unlabelled in every]


def _with_first_training(
    surrogate: TrainedSurrogate, teacher: TrainedSurrogate, unlabelled: int
) -> TrainedSurrogate:
    """Return a surrogate that tells of ``unlabelled`` inputs and counts the rows of both trainings."""
    if not isinstance(surrogate, NetworkSurrogate | SolvedSurrogate):
        return surrogate
    rows = None if surrogate.rows is None else surrogate.rows + (teacher.rows or 0)
    return replace(surrogate, rows=rows, unlabelled=unlabelled)


def with_pseudo_labels(
    transfer_set: TransferSet, teacher: TrainedSurrogate, unqueried: Images
) -> TransferSet:
    """Return the transfer set with those of ``unqueried`` (m, …) that the teacher labels confidently.

    Lee 2013, "Pseudo-Label": the top-1 of a model trained on the labelled inputs is used as a label, here
    where its probability is at least :data:`MIN_CONFIDENCE`. An empty transfer set is returned as it is.
    """
    if not len(transfer_set.x) or not len(unqueried):
        return transfer_set
    probabilities = teacher.probabilities(unqueried)
    confident = probabilities.max(axis=1) >= MIN_CONFIDENCE
    labels = np.eye(probabilities.shape[1], dtype=np.float32)[probabilities[confident].argmax(axis=1)]
    return TransferSet(
        np.concatenate([transfer_set.x, unqueried[confident]]), np.concatenate([transfer_set.y, labels])
    )


def _train(
    xs: Sequence[Images],
    ys: Sequence[NDArray[np.float32]],
    architecture: str,
    classes: int,
    schedule: TrainingSchedule,
    seeds: Sequence[int],
) -> list[tuple[Weights, Weights]]:
    untrained = [initial_network(architecture, xs[0].shape[1:], classes, seed) for seed in seeds]
    if architecture in BATCHED:
        return train_batched(untrained, xs, ys, schedule, seeds)
    (network,), (x,), (y,), (seed,) = untrained, xs, ys, seeds
    if not len(x):
        return [(training.snapshot(network), training.snapshot(network))]
    with torch_seed(seed):
        return [training.train(network, x, y, schedule, seed)]


def _train_on_views(
    data: TrainingData, architecture: str, classes: int, method: str, schedule: TrainingSchedule, seed: int
) -> tuple[Weights, Weights]:
    network = initial_network(architecture, data.x.shape[1:], classes, seed)
    if not len(data.x):
        return training.snapshot(network), training.snapshot(network)
    with torch_seed(seed):
        return train_on_views(network, data, method, schedule, seed)


@lru_cache(maxsize=32)
def _blank(architecture: str, shape: Shape, classes: int) -> Network:
    """Return a network in evaluation mode to load weights into; building one costs as much as a query."""
    return initial_network(architecture, shape, classes, 0).eval()


def initial_network(architecture: str, shape: Shape, classes: int, seed: int) -> Network:
    """Return an untrained network whose initial weights are drawn from ``seed``."""
    with torch_seed(seed):
        return networks.build(architecture, shape, classes)


def _key(
    transfer_sets: Sequence[TransferSet],
    architecture: str,
    schedule: TrainingSchedule,
    scale: tuple[float, float],
    seeds: Sequence[int],
    inputs: InputSpace,
    method: str,
    unqueried: Sequence[Images],
) -> str:
    ingredients = {
        "transfer sets": [each.digest() for each in transfer_sets],
        "architecture": architecture,
        "schedule": repr(schedule),  # as text it is rounded
        # Of images in [0, 1] nothing more, so that older trainings keep their keys.
        "scale": scale if inputs.unit and inputs.layout == "images" else [*scale, inputs.values()],
        "seeds": list(seeds),
        "method": method,
        "unlabelled": [_digest(each) for each in unqueried] if method else [],
        "device": device(),
        "code": _code(),
        "numerical rules": NUMERICAL_RULES,
        **keys.versions_of(versions()),
    }
    return keys.compose("training", ingredients)


def _digest(x: Images) -> str:
    """Return a hash of the bytes of inputs (n, …), in order."""
    found = hashlib.sha256(repr(x.shape).encode())
    found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


@cache
def _code() -> str:
    """Return a digest of the code that trains surrogates; their data are an ingredient of their own."""
    return code(__name__, without=("bench.data",)).digest()
