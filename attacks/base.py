"""What an attack is: it buys answers through the API and hands over what it bought."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.registry import Plugin

Images = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Inputs that the attacker can send.

    ``x``: (n, channels, height, width) float32 in [0, 1], shaped for the victim. ``y``: (n,) int64,
    the pool's own class labels (seeded k-means clusters where it has none). ``access``: what it
    gives the thief: "in-distribution", "near", "far" or "none" (no real data). ``same_classes``: its
    labels mean what the victim's do.
    """

    name: str
    x: Images
    y: NDArray[np.int64]
    access: str
    same_classes: bool


@dataclass(frozen=True)
class TransferSet:
    """What an attack has bought: inputs (n, …) float32 and answers (n, classes) float32, in order."""

    x: Images
    y: NDArray[np.float32]

    def digest(self) -> str:
        """Return a hash of bytes and order: equal for attackers who learnt exactly the same."""
        h = hashlib.sha256(repr((self.x.shape, self.y.shape)).encode())
        h.update(np.ascontiguousarray(self.x).tobytes())
        h.update(np.ascontiguousarray(self.y).tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class Streams:
    """Seeds of the attack's random streams: ``order`` draws queries, ``choices`` decides (a bandit)."""

    order: int
    choices: int


class Api(Protocol):
    """The defended victim as a client sees it; an ART classifier."""

    nb_classes: int
    budget: int

    def predict(self, x: Images, batch_size: int = 256) -> Array:
        """Answer queries: (n, classes); NaN rows are refusals. Raises when the budget is overspent."""


class Learner(Protocol):
    """A surrogate that learns while the attack buys, as adaptive attacks need."""

    def step(self, x: Images, y: Array) -> None:
        """Take one optimiser step on a batch: inputs (n, …), targets (n, classes)."""

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Return (n, classes) logits."""


class LearnerFactory(Protocol):
    """Makes a freshly initialised online surrogate of the thief's architecture."""

    def __call__(self) -> Learner:
        """Return the surrogate."""
        ...


class Attack(Plugin):
    """Buys a transfer set. Parameters in ``__init__`` (keyword-only), data in ``acquire``."""

    family: ClassVar[str] = "extraction"
    queries: ClassVar[bool] = True
    """False for a thief who sends nothing; its only budget is 0."""
    knowledge: ClassVar[tuple[str, ...]] = ("none",)
    """What the attack can make use of: "none", "family", "full"."""

    def applicable(self, pool: Pool) -> str:
        """Return why the attack makes no sense on this pool, or an empty string."""
        return ""

    def supply(self, size: int) -> int | None:
        """Return the largest budget a pool of ``size`` inputs supplies; None: the attack sends repeats."""
        return size

    @abstractmethod
    def acquire(self, api: Api, pool: Pool, learner: LearnerFactory, streams: Streams) -> TransferSet:
        """Spend ``api.budget`` queries from the pool and return what was learnt, refused rows dropped."""
