"""Training the copy: a pure function of what was bought, remembered by everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from attacks.base import TransferSet
from bench import architectures, training
from bench.architectures import Shape
from bench.numerics import RULE, torch_seed, versions
from bench.training import OnlineSurrogate, Recipe, Weights

RATES = {"logistic": 1e-2}
"""Learning rates that differ from the recipe's; a linear model needs larger steps to arrive."""


def recipe(architecture: str, shape: Shape, n: int) -> Recipe:
    """Return the one training rule of a data set: a fixed number of optimiser steps.

    1,000 for images smaller than 20×20; else the larger of 2,500 and 20 passes over the ``n``
    bought answers. Never a number of passes alone, which would starve small budgets.
    """
    rate = RATES.get(architecture, Recipe.learning_rate)
    if min(shape[1:]) < 20:
        return Recipe(1_000, learning_rate=rate)
    return Recipe(max(2_500, training.epochs(n, Recipe.batch_size, 20)), learning_rate=rate)


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
        with torch_seed(0):
            network = architectures.build(self.architecture, self.shape, self.classes)
        network.load_state_dict(self.half if half else self.full)
        network.eval()
        return training.softmax(training.logits(network, x))


def fit(bought: TransferSet, architecture: str, classes: int, seed: int, memo: Path | None = None) -> Surrogate:
    """Train a copy on the transfer set, or take it from the folder ``memo`` if it is there.

    ``seed`` draws initialisation and batches. An empty transfer set gives the untrained network.
    """
    channels, height, width = bought.x.shape[1:]
    shape = (channels, height, width)
    rule = recipe(architecture, shape, len(bought.x)) if len(bought.x) else Recipe(0)
    path = memo / f"{_key(bought, architecture, rule, seed)}.safetensors" if memo else None
    kept = _recall(path)
    if kept is not None:
        return Surrogate(architecture, shape, classes, *kept, steps=rule.steps, shared=True)
    with torch_seed(seed):
        network = architectures.build(architecture, shape, classes)
        half, full = training.train(network, bought.x, bought.y, rule, seed)
    if path is not None:
        _remember(path, half, full)
    return Surrogate(architecture, shape, classes, half, full, steps=rule.steps, shared=False)


def online(architecture: str, shape: Shape, classes: int, seed: int) -> OnlineSurrogate:
    """Return an untrained copy that learns step by step, for attacks that train while they buy."""
    with torch_seed(seed):
        network = architectures.build(architecture, shape, classes)
    return OnlineSurrogate(network, RATES.get(architecture, Recipe.learning_rate))


def _key(bought: TransferSet, architecture: str, rule: Recipe, seed: int) -> str:
    parts = [bought.digest(), architecture, str(rule), seed, "cpu", RULE, versions()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _recall(path: Path | None) -> tuple[Weights, Weights] | None:
    if path is None or not path.exists():
        return None
    try:
        weights = safetensors.torch.load(path.read_bytes())
    except SafetensorError:
        # Half a file, from a machine that lost power: train again and overwrite it.
        return None
    half = {name.removeprefix("half."): value for name, value in weights.items() if name.startswith("half.")}
    full = {name.removeprefix("full."): value for name, value in weights.items() if name.startswith("full.")}
    return half, full


def _remember(path: Path, half: Weights, full: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"half.{name}": value for name, value in half.items()}
    weights |= {f"full.{name}": value for name, value in full.items()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(safetensors.torch.save(weights))
    part.replace(path)
