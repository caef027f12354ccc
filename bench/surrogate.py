"""Training the copy: a pure function of what was bought, remembered by everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from attacks.base import TransferSet
from bench import architectures, training
from bench.architectures import Network, Shape
from bench.numerics import RULE, torch_seed, versions
from bench.stacking import STACKED, train_stacked
from bench.training import OnlineSurrogate, Recipe, Weights

RATES = {"logistic": 1e-2}
"""Learning rates that differ from the recipe's; a linear model needs larger steps to arrive."""


def recipe(architecture: str, shape: Shape, n: int) -> Recipe:
    """Return the one training rule of a data set: a fixed number of optimiser steps.

    1,000 for images smaller than 20×20; else the larger of 2,500 and 20 passes over the ``n``
    bought answers. Never a number of passes alone, which would starve small budgets.
    """
    small = min(shape[1:]) < 20
    steps = 1_000 if small else max(2_500, training.epochs(n, Recipe.batch_size, 20))
    return Recipe(steps, learning_rate=RATES.get(architecture, 3e-3))


@dataclass(frozen=True)
class Surrogate:
    """A trained copy: its weights after half of the steps and after all of them."""

    architecture: str
    shape: Shape
    classes: int
    half: Weights
    full: Weights
    steps: int
    shared: bool
    """True where the training was taken from the memo."""

    def probabilities(self, x: NDArray[np.float32], *, half: bool = False) -> NDArray[np.float64]:
        """Return (n, classes) probabilities of the copy, or of the copy at half of its training."""
        network = _initial(self.architecture, self.shape, self.classes, 0)
        network.load_state_dict(self.half if half else self.full)
        network.eval()
        return training.softmax(training.logits(network, x))


def fit(
    bought: Sequence[TransferSet],
    architecture: str,
    classes: int,
    seeds: Sequence[int],
    memo: Path | None = None,
) -> list[Surrogate]:
    """Train one copy on each transfer set, or take them from the folder ``memo`` if they are there.

    The sets are those of all repeats of a cell; small architectures are trained as one stacked
    model, so all of them belong to the call. ``seeds`` draw initialisation and batches, one a set.
    An empty transfer set gives the untrained network.
    """
    channels, height, width = bought[0].x.shape[1:]
    shape = (channels, height, width)
    if architecture not in STACKED and len(bought) > 1:
        alone = (
            fit([each], architecture, classes, [seed], memo) for each, seed in zip(bought, seeds, strict=True)
        )
        return [copy for copies in alone for copy in copies]
    rule = recipe(architecture, shape, max(len(each.x) for each in bought))
    path = memo / f"{_key(bought, architecture, rule, seeds)}.safetensors" if memo else None
    weights = _recall(path, len(bought))
    shared = weights is not None
    if weights is None:
        weights = _train(bought, architecture, shape, classes, rule, seeds)
        _remember(path, weights)
    return [Surrogate(architecture, shape, classes, half, full, rule.steps, shared) for half, full in weights]


def _train(
    bought: Sequence[TransferSet],
    architecture: str,
    shape: Shape,
    classes: int,
    rule: Recipe,
    seeds: Sequence[int],
) -> list[tuple[Weights, Weights]]:
    networks = [_initial(architecture, shape, classes, seed) for seed in seeds]
    if architecture in STACKED:
        return train_stacked(networks, [each.x for each in bought], [each.y for each in bought], rule, seeds)
    (network,), (only,), (seed,) = networks, bought, seeds
    if not len(only.x):
        return [(training.snapshot(network), training.snapshot(network))]
    with torch_seed(seed):
        return [training.train(network, only.x, only.y, rule, seed)]


def online(architecture: str, shape: Shape, classes: int, seed: int) -> OnlineSurrogate:
    """Return an untrained copy that learns step by step, for attacks that train while they buy."""
    rule = recipe(architecture, shape, 1)
    return OnlineSurrogate(_initial(architecture, shape, classes, seed), rule.learning_rate)


def _initial(architecture: str, shape: Shape, classes: int, seed: int) -> Network:
    with torch_seed(seed):
        return architectures.build(architecture, shape, classes)


def _key(bought: Sequence[TransferSet], architecture: str, rule: Recipe, seeds: Sequence[int]) -> str:
    digests = [each.digest() for each in bought]
    parts = [digests, architecture, str(rule), list(seeds), "cpu", RULE, versions()]
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
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        f"{number}.{when}.{name}": value
        for number, both in enumerate(weights)
        for when, member in zip(("half", "full"), both, strict=True)
        for name, value in member.items()
    }
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(safetensors.torch.save(flat))
    part.replace(path)
