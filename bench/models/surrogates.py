"""Training the copy: a pure function of what was bought, remembered by everything it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from attacks.base import TransferSet
from bench.files import write_atomically
from bench.models import networks as architectures
from bench.models import training
from bench.models.batched_training import STACKED, train_stacked
from bench.models.determinism import RULE, device, torch_seed, versions
from bench.models.networks import Network, Shape
from bench.models.sklearn_surrogates import ESTIMATORS, fit_estimator
from bench.models.training import TrainingSchedule, Weights
from bench.models.training_config import rule

Images = NDArray[np.float32]
Array = NDArray[np.float64]
CONFIDENT = 0.95
"""Probability from which a copy's own label of an input that was not asked about counts as known."""


class TrainedSurrogate(Protocol):
    """A copy of the victim, however it was made."""

    @property
    def steps(self) -> int | None:
        """Optimiser steps; None where it was not trained by any."""

    @property
    def shared(self) -> bool:
        """Whether the training was taken from the memo."""

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities of the copy."""

    def probabilities_half(self, x: Images) -> Array | None:
        """Return what the copy said after half of its training; None where there is no such thing."""


@dataclass(frozen=True)
class NetworkSurrogate:
    """A trained network: its weights after half of the steps and after all of them."""

    architecture: str
    shape: Shape
    classes: int
    half: Weights
    full: Weights
    steps: int
    shared: bool
    """True where the training was taken from the memo."""
    mean: float = 0.0
    std: float = 1.0

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities of the copy."""
        return self._answer(x, self.full)

    def probabilities_half(self, x: Images) -> Array:
        """Return (n, classes) probabilities of the copy at half of its training."""
        return self._answer(x, self.half)

    def _answer(self, x: Images, weights: Weights) -> Array:
        network = _blank(self.architecture, self.shape, self.classes)
        network.load_state_dict(weights)
        return training.softmax(training.logits(network, training.scaled(x, self.mean, self.std)))


@dataclass(frozen=True)
class SolvedSurrogate:
    """A copy that no steps led to: solved for, or fitted by a library.

    ``answer``: from inputs (n, …) to (n, classes) probabilities.
    """

    answer: Callable[[Images], Array]
    steps: int | None = None
    shared: bool = False

    def probabilities(self, x: Images) -> Array:
        """Return (n, classes) probabilities of the copy."""
        return np.asarray(self.answer(x), dtype=np.float64)

    def probabilities_half(self, x: Images) -> None:
        """Return None: it was never half done."""


def fit(
    bought: Sequence[TransferSet],
    architecture: str,
    classes: int,
    seeds: Sequence[int],
    training_cache: Path | None = None,
    how: str = "rule",
    *,
    rest: Sequence[Images] | None = None,
    effort: float = 1.0,
) -> list[TrainedSurrogate]:
    """Train one copy on each transfer set, or take them from the folder ``memo`` if they are there.

    The sets are those of all repeats of a cell; small architectures are trained as one stacked
    model, so all of them belong to the call. ``seeds`` draw initialisation and batches, one a set.
    ``how``: a :class:`bench.models.training_config.TrainingConfig` as text.
    ``rest``: inputs (m, …) beside each set that were not asked about, for a rule that learns from
    them too. ``effort``: share of the rule's steps to take.
    An empty transfer set gives the untrained network. scikit-learn's models have recipes of their own.
    """
    changed = rule(how)
    if changed.semi_supervised:
        alone = changed.supervised()
        teachers = fit(bought, architecture, classes, seeds, training_cache, alone, effort=effort)
        bought = [
            pseudo_labelled(each, teacher, left)
            for each, teacher, left in zip(
                bought, teachers, rest or [each.x[:0] for each in bought], strict=True
            )
        ]
        return fit(bought, architecture, classes, seeds, training_cache, alone, effort=effort)
    if architecture in ESTIMATORS:
        return [
            SolvedSurrogate(fit_estimator(architecture, each, classes, seed))
            for each, seed in zip(bought, seeds, strict=True)
        ]
    channels, height, width = bought[0].x.shape[1:]
    shape = (channels, height, width)
    if architecture not in STACKED and len(bought) > 1:
        one_by_one = (
            fit([each], architecture, classes, [seed], training_cache, how, effort=effort)
            for each, seed in zip(bought, seeds, strict=True)
        )
        return [copy for copies in one_by_one for copy in copies]
    recipe = changed.recipe(architecture, shape, max(len(each.x) for each in bought))
    recipe = replace(recipe, steps=max(1, round(effort * recipe.steps)))
    scale = (changed.mean, changed.std)
    path = (
        training_cache / f"{_key(bought, architecture, recipe, scale, seeds)}.safetensors"
        if training_cache
        else None
    )
    weights = _recall(path, len(bought))
    shared = weights is not None
    if weights is None:
        xs = [training.scaled(each.x, *scale) for each in bought]
        weights = _train(xs, [each.y for each in bought], architecture, classes, recipe, seeds)
        _remember(path, weights)
    return [
        NetworkSurrogate(architecture, shape, classes, half, full, recipe.steps, shared, *scale)
        for half, full in weights
    ]


def pseudo_labelled(bought: TransferSet, teacher: TrainedSurrogate, rest: Images) -> TransferSet:
    """Return what was bought with the confident part of ``rest`` (m, …), labelled by the teacher.

    Lee 2013, "Pseudo-Label": the top-1 of a model trained on what is labelled is taken for the truth,
    where its probability is at least :data:`CONFIDENT`. Whoever learnt nothing has nothing to tell.
    """
    if not len(bought.x) or not len(rest):
        return bought
    told = teacher.probabilities(rest)
    sure = told.max(axis=1) >= CONFIDENT
    labels = np.eye(told.shape[1], dtype=np.float32)[told[sure].argmax(axis=1)]
    return TransferSet(np.concatenate([bought.x, rest[sure]]), np.concatenate([bought.y, labels]))


def _train(
    xs: Sequence[Images],
    ys: Sequence[NDArray[np.float32]],
    architecture: str,
    classes: int,
    recipe: TrainingSchedule,
    seeds: Sequence[int],
) -> list[tuple[Weights, Weights]]:
    channels, height, width = xs[0].shape[1:]
    networks = [initial_network(architecture, (channels, height, width), classes, seed) for seed in seeds]
    if architecture in STACKED:
        return train_stacked(networks, xs, ys, recipe, seeds)
    (network,), (x,), (y,), (seed,) = networks, xs, ys, seeds
    if not len(x):
        return [(training.snapshot(network), training.snapshot(network))]
    with torch_seed(seed):
        return [training.train(network, x, y, recipe, seed)]


@lru_cache(maxsize=32)
def _blank(architecture: str, shape: Shape, classes: int) -> Network:
    """Return a network in evaluation mode to put weights into: making one takes as long as asking it."""
    return initial_network(architecture, shape, classes, 0).eval()


def initial_network(architecture: str, shape: Shape, classes: int, seed: int) -> Network:
    """Return an untrained network whose initial weights are drawn from ``seed``."""
    with torch_seed(seed):
        return architectures.build(architecture, shape, classes)


def _key(
    bought: Sequence[TransferSet],
    architecture: str,
    recipe: TrainingSchedule,
    scale: tuple[float, float],
    seeds: Sequence[int],
) -> str:
    digests = [each.digest() for each in bought]
    parts = [digests, architecture, str(recipe), scale, list(seeds), device(), RULE, versions()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _recall(path: Path | None, members: int) -> list[tuple[Weights, Weights]] | None:
    if path is None or not path.exists():
        return None
    try:
        kept = safetensors.torch.load(path.read_bytes())
    except SafetensorError:
        # Half a file, from a machine that lost power: train again and overwrite it.
        return None

    def part(prefix: str) -> Weights:
        return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}

    return [(part(f"{number}.half."), part(f"{number}.full.")) for number in range(members)]


def _remember(path: Path | None, weights: Sequence[tuple[Weights, Weights]]) -> None:
    if path is None:
        return
    flat = {
        f"{number}.{when}.{name}": value
        for number, both in enumerate(weights)
        for when, member in zip(("half", "full"), both, strict=True)
        for name, value in member.items()
    }
    write_atomically(path, safetensors.torch.save(flat))
