"""Tasks: cells and defense evaluations, frozen values that hold everything their results depend on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

DECIDED_AT = (0.5, 0.9)
"""Confidences at which users decide, unless the matrix names others."""


OWN = "own:"
"""What the ``data`` of a victim begins with that a matrix describes in ``[victims.NAME]``."""


@dataclass(frozen=True)
class VictimSpec:
    """A victim: a data set, an architecture and a seed; or a user's, named by ``data`` alone.

    A user's is ``file.py:factory``, or ``own:NAME`` for ``[victims.NAME]`` of a matrix, shown as NAME.

    ``splits``: "disjoint", the sizes of four disjoint splits as "500/150/297/850", or "official" as in
    published studies. An official victim is trained on the whole official training split, so calibration
    and pool data are part of its training data.
    """

    data: str
    architecture: str
    seed: int = 0
    splits: str = "disjoint"

    @property
    def is_reference(self) -> bool:
        """Whether it is the user's own victim."""
        return ":" in self.data

    def __str__(self) -> str:
        if self.is_reference:
            return self.data.removeprefix(OWN)
        of = "" if self.splits == "disjoint" else f" ({self.splits} splits)"
        return f"{self.data}/{self.architecture}{of}"

    def fields(self) -> dict[str, Any]:
        """Return the victim as JSON values."""
        return {"victim": str(self), "victim_seed": self.seed, "data": self.data, "splits": self.splits}


def architecture_and_splits(name: str, data: str) -> tuple[str, str]:
    """Return the architecture and the splits in the name of a victim, which is ``str`` of its VictimSpec.

    ``data``: its data set. The architecture of a user's own victim is empty.
    """
    if data in (name, OWN + name):
        return "", "disjoint"
    found = _SPLITS.search(name)
    splits = found[1] if found else "disjoint"
    return _SPLITS.sub("", name).removeprefix(f"{data}/"), splits


_SPLITS = re.compile(r" \(([^()]+) splits\)$")


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker has: a ``pool`` and the ``access`` it means, knowledge, surrogate and output type."""

    pool: str
    access: str
    knowledge: str
    surrogate: str
    shows: str


@dataclass(frozen=True)
class Cell:
    """One repeat of one attack on one defended victim at one budget; its result depends on this value alone.

    ``training``: how the surrogate is trained, as :class:`bench.models.training_config.TrainingConfig`
    writes it. ``repeats``: how many there are. All repeats of a cell are trained together, so their number
    is part of the cell.
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
    confirmation: bool = False

    kind = "cell"

    def group(self) -> tuple[Cell, ...]:
        """Return the cell with all its repeats, in order."""
        return tuple(replace(self, repeat=repeat) for repeat in range(self.repeats))

    def spec(self) -> dict[str, Any]:
        """Return the cell as JSON values, as the store keeps them."""
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
            # Left out where it is not, so that older records keep their keys.
            **({"confirmation": True} if self.confirmation else {}),
        }


@dataclass(frozen=True)
class DefenseEvaluation:
    """The utility loss of a defense for benign users, and what its detector flags in each pool.

    ``retrainings``: victims trained anew with other rounding errors, on which it is measured again.
    ``thresholds``: confidences at which users decide, in [0, 1].
    """

    victim: VictimSpec
    defense: tuple[str, ...]
    pools: tuple[str, ...]
    repeats: int
    seed: int
    retrainings: int = 0
    thresholds: tuple[float, ...] = DECIDED_AT

    kind = "audit"

    def spec(self) -> dict[str, Any]:
        """Return the defense evaluation as JSON values, as the store keeps them."""
        return {
            **self.victim.fields(),
            "defense": list(self.defense),
            "pools": list(self.pools),
            "repeats": self.repeats,
            "seed": self.seed,
            # Left out where there are none, so that older records keep their keys.
            **({"retrainings": self.retrainings} if self.retrainings else {}),
            **({"thresholds": list(self.thresholds)} if self.thresholds != DECIDED_AT else {}),
        }


Task = Cell | DefenseEvaluation
