"""Facts on a run, which are stored beside its records. No result depends on them, so no key covers this."""

from __future__ import annotations

import base64
from typing import Any, Literal, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from bench.records import Typed, victim_identity

REFERENCE_ROWS = 256
"""Largest number of test inputs whose answers are kept."""
REFERENCE_VALUES = 4_096
"""Largest number of values that are kept of them, so that an exported baseline stays small."""


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

    rows: pydantic.PositiveInt
    classes: pydantic.PositiveInt
    floats: str

    @classmethod
    def of(cls, answers: NDArray[Any]) -> Self:
        """Return what is kept of a victim's answers (n, classes) to its test inputs: the first rows."""
        classes = answers.shape[1]
        kept = answers[: min(REFERENCE_ROWS, max(1, REFERENCE_VALUES // classes))].astype("<f4")
        floats = base64.b64encode(kept.tobytes()).decode()
        return cls(rows=len(kept), classes=classes, floats=floats)

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if not np.isfinite(self.array()).all():
            raise ValueError("some answers are NaN or infinite")
        return self

    def array(self) -> NDArray[np.float32]:
        """Return the answers (rows, classes); raises ValueError if they are not as many."""
        values = np.frombuffer(base64.b64decode(self.floats, validate=True), dtype="<f4")
        return values.reshape(self.rows, self.classes)


class DataSketch(Typed):
    """What two victims' data can be compared by where inputs differ in their last bits.

    ``labels``: digest of the labels of all splits, with their sizes. ``inputs``: a projection of the inputs
    of each split, see :func:`projection`.
    """

    labels: str
    inputs: list[float]


class VictimFacts(Typed):
    """What a store keeps of a victim. Accuracies are in [0, 1]; ``fingerprint``: of its model and data.

    ``recipe``: how it was trained, as text; empty for a victim of the user's own. ``data``: digest of its
    splits; ``sketch``: what else they can be told apart by. ``answers``: to the first test inputs. ``notes``:
    what was recognised of a user's model and data, a sentence each.
    """

    victim: str
    seed: int = 0
    splits: str = "disjoint"
    accuracy: float | None = None
    expected: float | None = None
    fingerprint: str = ""
    recipe: str = ""
    data: str = ""
    sketch: DataSketch | None = None
    answers: ReferenceAnswers | None = None
    sizes: SplitSizes = pydantic.Field(default_factory=SplitSizes)
    parameters: int | None = None
    notes: list[str] = pydantic.Field(default_factory=list)

    @property
    def identity(self) -> str:
        """The victim's name with its splits and its seed, as :func:`victim_name` gives it for a task."""
        return victim_identity(self.victim, self.seed)


class ReportOptions(Typed):
    """The options of a recommendation: ``[report]`` of a matrix, and options of ``moatbench report``.

    ``sells``: what users pay for. Limits are the largest losses that benign users can afford, each tested
    on the upper end of a 95 % interval: ``accuracy`` (balanced accuracy too) and ``rejected`` as fractions,
    ``ranking`` of the area under the risk-coverage curve (with two classes of AUROC), ``brier`` of the Brier
    score, ``changed`` the share of inputs whose confidence changes side of one of ``thresholds``.
    ``shortfall``: by how much the best adaptive attack may be below the best other one. ``least``: the
    smallest confirmed fidelity reduction that is recommended, and the largest difference of a tie.
    ``confirm``: fresh repeats of the confirmation run; 0: none, and no recommendation. ``price``: of 1,000
    queries; ``rate``: queries an hour; ``quota``: inputs an account; None: not stated.
    """

    sells: Literal["labels", "ranking", "probabilities"] = "probabilities"
    accuracy: float = pydantic.Field(default=0.01, ge=0, le=1)
    rejected: float = pydantic.Field(default=0.01, ge=0, le=1)
    ranking: float = pydantic.Field(default=0.01, ge=0, le=1)
    brier: float = pydantic.Field(default=0.02, ge=0, le=2)
    changed: float = pydantic.Field(default=0.02, ge=0, le=1)
    thresholds: tuple[float, ...] = (0.5, 0.9)
    shortfall: float = pydantic.Field(default=0.01, ge=0, le=1)
    least: float = pydantic.Field(default=0.01, ge=0, le=1)
    confirm: int = pydantic.Field(default=20, ge=0, le=1000)
    price: float = pydantic.Field(default=1.50, ge=0)
    rate: float | None = pydantic.Field(default=None, gt=0)
    quota: int | None = pydantic.Field(default=None, ge=1)


class Meta(Typed):
    """Facts on a run. ``study``: as :class:`bench.plan.study.Study` writes and reads it.

    ``report``: the options of the recommendation that the matrix names. ``packages``: versions of what is
    installed; ``versions``: of what results depend on. ``started`` and ``finished``: seconds since 1970.
    ``ran``: the number of tasks that this run had to do. ``attacks`` and ``defenses``: names of all plugins
    that there were.
    """

    matrix: str | None = None
    matrix_text: str | None = None
    description: str | None = None
    reference_budget: dict[str, int] = pydantic.Field(default_factory=dict)
    sentinels: list[str] = pydantic.Field(default_factory=list)
    report: ReportOptions = pydantic.Field(default_factory=ReportOptions)
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
    attacks: list[str] = pydantic.Field(default_factory=list)
    defenses: list[str] = pydantic.Field(default_factory=list)
