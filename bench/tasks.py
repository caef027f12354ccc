"""What is run: cells and audits, frozen values that say everything their results depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class VictimSpec:
    """A victim: a data set, an architecture and a seed; or a reference ``file.py:factory`` as ``data``.

    ``splits``: "disjoint", or "official" as published studies have it: trained on the whole official
    training split, so that calibration and pool are drawn from what it was trained on.
    """

    data: str
    architecture: str
    seed: int = 0
    splits: str = "disjoint"

    @property
    def is_reference(self) -> bool:
        """True for a victim that the user brings."""
        return ":" in self.data

    def __str__(self) -> str:
        if self.is_reference:
            return self.data
        published = " (official splits)" if self.splits == "official" else ""
        return f"{self.data}/{self.architecture}{published}"

    def fields(self) -> dict[str, Any]:
        """Return the victim as JSON values."""
        return {"victim": str(self), "victim_seed": self.seed, "data": self.data, "splits": self.splits}


@dataclass(frozen=True)
class ThreatModel:
    """What the thief has: data (``pool`` and the ``access`` it means), knowledge, surrogate, answers."""

    pool: str
    access: str
    knowledge: str
    surrogate: str
    shows: str


@dataclass(frozen=True)
class Cell:
    """One attack on one defended victim at one budget, once. A pure function of this value.

    ``training``: how the thief trains, as :class:`bench.models.training_config.TrainingConfig` spells it.
    ``repeats``: how many there are; they are trained as a group, which is part of what a cell is.
    """

    victim: VictimSpec
    defense: tuple[str, ...]
    threat: ThreatModel
    attack: str
    budget: int
    repeat: int
    repeats: int
    seed: int
    training: str = "rule"

    kind = "cell"

    def group(self) -> tuple[Cell, ...]:
        """Return the cell with all its repeats, in order."""
        return tuple(replace(self, repeat=repeat) for repeat in range(self.repeats))

    def spec(self) -> dict[str, Any]:
        """Return the cell as JSON values, the way the store and the report know it."""
        return {
            **self.victim.fields(),
            "defense": list(self.defense),
            **vars(self.threat),
            "attack": self.attack,
            "training": self.training,
            "budget": self.budget,
            "repeat": self.repeat,
            "repeats": self.repeats,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class DefenseEvaluation:
    """What honest users pay for a defense, and what its detector flags on each pool."""

    victim: VictimSpec
    defense: tuple[str, ...]
    pools: tuple[str, ...]
    repeats: int
    seed: int

    kind = "audit"

    def spec(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {
            **self.victim.fields(),
            "defense": list(self.defense),
            "pools": list(self.pools),
            "repeats": self.repeats,
            "seed": self.seed,
        }


Task = Cell | DefenseEvaluation
