"""Facts on a run, which are stored beside its records. No result depends on them, so no key covers this."""

from __future__ import annotations

from typing import Any

import pydantic

from bench.records import Typed, victim_identity


class SplitSizes(Typed):
    """Numbers of inputs in the splits of a victim."""

    train: int | None = None
    calibration: int | None = None
    pool: int | None = None
    test: int | None = None


class ReferenceAnswers(Typed):
    """A victim's undefended answers to its first test inputs, which tell whether another is the same.

    ``floats``: (rows, classes) float32, little-endian, row by row, in base64.
    """

    rows: int
    classes: int
    floats: str


class VictimFacts(Typed):
    """What a store keeps of a victim. Accuracies are in [0, 1]; ``fingerprint``: of its model and data.

    ``recipe``: how it was trained, as text; empty for a victim of the user's own. ``data``: digest of its
    splits. ``answers``: its answers to the first test inputs.
    """

    victim: str
    seed: int = 0
    splits: str = "disjoint"
    accuracy: float | None = None
    expected: float | None = None
    fingerprint: str = ""
    recipe: str = ""
    data: str = ""
    answers: ReferenceAnswers | None = None
    sizes: SplitSizes = pydantic.Field(default_factory=SplitSizes)
    parameters: int | None = None

    @property
    def identity(self) -> str:
        """The victim's name with its splits and its seed, as :func:`victim_name` gives it for a task."""
        return victim_identity(self.victim, self.seed)


class Meta(Typed):
    """Facts on a run. ``study``: as :class:`bench.plan.study.Study` writes and reads it.

    ``packages``: versions of what is installed; ``versions``: of what results depend on. ``started`` and
    ``finished``: seconds since 1970. ``ran``: the number of tasks that this run had to do.
    """

    matrix: str | None = None
    matrix_text: str | None = None
    description: str | None = None
    reference_budget: dict[str, int] = pydantic.Field(default_factory=dict)
    sentinels: list[str] = pydantic.Field(default_factory=list)
    study: dict[str, Any] | None = None
    command: str | None = None
    machine: dict[str, str | int | None] = pydantic.Field(default_factory=dict)
    packages: dict[str, str] = pydantic.Field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    victims: list[VictimFacts] = pydantic.Field(default_factory=list)
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    jobs: int | None = None
    device: str | None = None
    started: float | None = None
    finished: float | None = None
    ran: int | None = None
