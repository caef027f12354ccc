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


class PurposeFacts(Typed):
    """What one purpose of a purchase came to, in inputs and in money.

    ``sent``: inputs that were asked for, also those whose answers had been bought before. ``paid``: those
    that were bought for this purpose. ``unknown``: of these, those that may have been billed without an
    answer. ``refused``: those that the target did not answer.
    """

    sent: int = 0
    paid: int = 0
    unknown: int = 0
    refused: int = 0
    money: float = 0.0


class CampaignFacts(Typed):
    """What was bought of a live target, and at which price.

    ``url`` is without anything secret. ``identity``: what the target says of its model. ``permission``: who
    allowed it, until when, with which reference; "loopback" where nobody has to. Money is in the currency of
    ``price_per_1000``. ``money_cap`` and ``budget`` (in inputs): the limits of the target file. ``rate``:
    inputs an hour that the owner allows; ``quota``: inputs an account; ``detected_after``: the input of an
    account at which it is found out; ``account_price``: of one account; None: not stated. ``seconds``: wall
    time of all requests, waits included. ``latency_ms``: median of a request, by the number of its inputs as
    text. ``purposes``: "test", "canary", "check", and the attacks, by their text. ``bought``: by attack, the
    inputs paid by the time a budget was reached, by budget as text. ``once``: whether all repeats learn from
    one purchase, so that intervals are conditional on it. ``moved``: the largest change of the canary inputs'
    answers; ``noise``: the largest change between equal inputs sent again. ``notes``: a sentence each.
    """

    target: str
    url: str
    protocol: str
    identity: str = ""
    permission: str = "loopback"
    answers: Literal["probabilities", "labels"] = "probabilities"
    digits: int | None = None
    price_per_1000: float
    units_per_input: float = 1.0
    free_units: float = 0.0
    money_cap: float | None = None
    budget: int | None = None
    rate: float | None = None
    quota: int | None = None
    detected_after: int | None = None
    account_price: float = 0.0
    requests: int = 0
    seconds: float = 0.0
    latency_ms: dict[str, float] = pydantic.Field(default_factory=dict)
    purposes: dict[str, PurposeFacts] = pydantic.Field(default_factory=dict)
    bought: dict[str, dict[str, int]] = pydantic.Field(default_factory=dict)
    round_trips: dict[str, dict[str, int]] = pydantic.Field(default_factory=dict)
    once: bool = True
    buying: int = 1
    moved: float | None = None
    noise: float | None = None
    notes: list[str] = pydantic.Field(default_factory=list)


class Meta(Typed):
    """Facts on a run. ``study``: as :class:`bench.plan.study.Study` writes and reads it.

    ``report``: the options of the recommendation that the matrix names. ``packages``: versions of what is
    installed; ``versions``: of what results depend on. ``started`` and ``finished``: seconds since 1970.
    ``ran``: the number of tasks that this run had to do. ``attacks`` and ``defenses``: names of all plugins
    that there were. ``campaign``: what was bought, where the victim is a live target.
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
    campaign: CampaignFacts | None = None
