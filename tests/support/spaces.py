"""Victims on inputs of each layout, which record every input that reaches their model."""

from __future__ import annotations

import numpy as np

from bench.data.datasets import Labelled, Splits
from bench.inputs import Column, InputSpace
from bench.models.victims import Victim
from bench.tasks import VictimSpec

SPACES = {
    "table": InputSpace.of_columns(
        [
            Column("age", "integer", 17, 90, missing=True),
            Column("gain", "number", -1_500, 100_000),
            Column("member", "boolean", 0, 1),
            Column.of_categories("colour", ["red", "green", "blue", "grey"], missing=True),
            Column("ratio", "number", 0, 0.001),
            Column("constant", "integer", 7, 7),
        ]
    ),
    "bytes": InputSpace((3, 4, 4), (0.0,), (255.0,)),
    "sequences": InputSpace((6, 3), (-1.0, 0.0, 5.0), (1.0, 100.0, 9.0)),
}
"""Spaces that no shipped victim has, by name."""
SIZES = (200, 120, 400, 150)


class Recording:
    """A model: softmax of random weights on inputs scaled to [0, 1]. ``seen``: every input that it got."""

    def __init__(self, space: InputSpace, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.seen = space, []
        self.weights = rng.normal(0, 12 / np.sqrt(space.size), (space.size, classes))

    def __call__(self, x):
        self.seen.append(np.array(x))
        low, high = self.space.limits
        share = np.where(np.isnan(x), 0.5, (x - low) / np.maximum(high - low, 1e-9))
        scores = (share.reshape(len(x), -1) - 0.5) @ self.weights
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def drawn(space: InputSpace, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return inputs of a space that are not uniform: near a few centres, some values missing."""
    centres = space.uniform(4, np.random.default_rng(4))
    low, high = space.limits
    noise = rng.normal(0, 0.15, (number, *space.shape)) * (high - low)
    x = space.project(centres[rng.integers(4, size=number)] + noise)
    if space.columns:
        x = np.where(space.missing & (rng.random(x.shape) < 0.15), np.float32(np.nan), x)
    return x


def victim_of(space: InputSpace, classes: int = 3, seed: int = 0, sizes=SIZES, **brought) -> Victim:
    """Return a checked victim of a space; its labels are its own answers. ``brought``: sizes by name."""
    rng, model = np.random.default_rng(seed), Recording(space, classes, seed)

    def part(number: int) -> Labelled:
        x = drawn(space, number, rng)
        return Labelled(x, model(x).argmax(axis=1))

    splits = Splits(*map(part, sizes), classes, space, **{name: part(n) for name, n in brought.items()})
    victim = Victim(model, splits, name="own")
    victim.check()
    return victim


def spec_of(name: str) -> VictimSpec:
    """Return how a cell names the victim."""
    return VictimSpec(f"own:{name}", "")
