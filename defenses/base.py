"""What a defense is: batches in, answers out, and the claims that the contract tests hold it to."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from art.defences.postprocessor import Postprocessor
from numpy.typing import NDArray

from bench.plugins import Plugin

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Images = NDArray[np.float32]
Perturb = Callable[[float, int], Callable[[Images], Array]]
"""From the scale of the noise and a seed to a noisy copy of the victim: inputs in, probabilities out."""


@dataclass(frozen=True)
class Batch:
    """Queries of one client on their way through the defenses.

    ``inputs``: (n, channels, height, width) float32 in [0, 1]. ``raw``: what the victim said,
    (n, classes) float64, rows sum to 1. ``probabilities``: the answers so far (those of the
    defense before this one in a stack). ``number``: the client's running number of the first query.
    ``seed``: this defense's noise stream for this client. ``read_features``: the victim's features
    at several depths, each (n, d) float32, or None where the victim offers none.
    """

    inputs: Images
    raw: Array
    probabilities: Array
    client: str = "client"
    number: int = 0
    seed: int = 0
    read_features: Callable[[Images], Sequence[NDArray[np.float32]]] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def row_seed(self, row: int) -> int:
        """Return the seed of the noise for one row: fresh for every query, repeated inputs included."""
        return _mix(self.seed, self.number + row)

    def input_seed(self, row: int) -> int:
        """Return a seed keyed by the input alone: asking again brings the same noise."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.inputs[row]).tobytes(), digest_size=8)
        return _mix(self.seed, int.from_bytes(digest.digest(), "big"))


def _mix(seed: int, number: int) -> int:
    text = f"{seed}:{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Answers:
    """What the client gets: probabilities (n, classes), NaN where refused; and the defense's verdicts."""

    probabilities: Array
    refused: Mask
    flagged: Mask

    @classmethod
    def of(cls, probabilities: Array) -> Answers:
        """Return answers in which nothing is refused or flagged."""
        nothing = np.zeros(len(probabilities), dtype=bool)
        return cls(probabilities, nothing, nothing.copy())


@dataclass(frozen=True)
class Claims:
    """What a defense promises; contract tests hold it to every line.

    ``keeps_label``: the first maximum of an answer is the victim's top-1. ``ties``: several entries
    may share the maximum. ``distribution``: rows are non-negative and sum to 1. ``normalises``: so
    they are whatever the defense before this one made of them. ``stochastic``: two seeds may differ.
    ``consistent_noise``: the same input always gets the same answer. ``counts_queries``: the client's
    running number decides, and not through fresh noise alone. ``may_refuse``, ``may_flag``: rows may
    be refused, flagged.

    A defense promises the first three for what a victim says, which is a distribution; behind other
    defenses it adds no tie of its own and loses no label that they kept.
    """

    keeps_label: bool = True
    ties: bool = False
    distribution: bool = True
    normalises: bool = False
    stochastic: bool = False
    consistent_noise: bool = False
    counts_queries: bool = False
    may_refuse: bool = False
    may_flag: bool = False


@dataclass(frozen=True)
class Calibration:
    """What a defense may learn from: the victim's training split, and a calibration split it never saw.

    Labels are the true ones, (n,) int64. ``read_features`` as in :class:`Batch`. ``perturb(scale,
    seed)``: a copy of the victim with normal noise on its parameters, of ``scale`` times each weight
    tensor's own standard deviation; or None where the victim's parameters cannot be reached. ``costs``:
    what defenses were seen to cost here, kept by :mod:`defenses.tuning.utility_loss`.
    """

    train_inputs: Images
    train_labels: NDArray[np.int64]
    inputs: Images
    labels: NDArray[np.int64]
    probabilities: Array
    read_features: Callable[[Images], Sequence[NDArray[np.float32]]] | None = None
    seed: int = 0
    perturb: Perturb | None = None
    costs: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class StrengthRange:
    """How a family goes from weak to strong: along one of its parameters, the others as given.

    The ends are values of ``parameter``, or the name of the one that bounds it. ``whole``: it takes
    whole numbers only.
    """

    parameter: str
    weakest: float | str
    strongest: float | str
    whole: bool = False

    def ends(self, values: Mapping[str, Any]) -> tuple[float, float]:
        """Return the weakest and the strongest value; ``values`` are those of the other parameters."""
        ends = self.weakest, self.strongest
        weak, strong = (values[end] if isinstance(end, str) else end for end in ends)
        return weak, strong


class Defense(Plugin):
    """Stands between victim and client. Parameters in ``__init__``, fitted state ends in ``_``."""

    known_by: ClassVar[tuple[str, ...]] = ()
    """Names of the registered attacks that are built against this defense.

    Where none is named, reports flag the defense: nobody who knows it has tried.
    """
    strength: ClassVar[StrengthRange | None] = None
    """The range of strengths in which a target utility loss is searched; None: a single point."""

    def __init_subclass__(cls, **parameters: Any) -> None:
        """Take over a range that is declared as ``path``, as moatbench 0.1 had it, with a warning."""
        super().__init_subclass__(**parameters)
        old = vars(cls).get("path")
        if isinstance(old, StrengthRange):
            warnings.warn(
                f"{cls.__name__}.path is now called strength: strength = StrengthRange(…)",
                FutureWarning,
                stacklevel=2,
            )
            cls.strength = old

    @property
    def claims(self) -> Claims:
        """What this defense promises under its parameters."""
        return Claims()

    @property
    def effective(self) -> Defense:
        """The defense as it stands after ``fit``: itself, or the one that was found for an honest cost."""
        return self

    def fit(self, calibration: Calibration) -> None:
        """Learn thresholds from the calibration split; called once per victim, before any query."""

    def at(self, value: float, calibration: Calibration) -> Defense:
        """Return this fitted defense, fitted anew at another ``value`` of its range's parameter.

        A defense whose fit takes long may reuse what does not depend on that parameter.
        """
        # Of the class, since a parameter may be called strength, too.
        family: Any = type(self)
        values = {name: getattr(self, name) for name in self.parameters()}
        other: Defense = family(**values | ({family.strength.parameter: value} if family.strength else {}))
        other.fit(calibration)
        return other

    @abstractmethod
    def answer(self, batch: Batch) -> Answers:
        """Answer one client's queries; must not change the batch.

        A row's answer may depend on its own row of the batch, the seed and the running number of
        the query only, so that a batch is answered as its rows would be one by one.
        """


class OutputDefense(Defense, Postprocessor):  # type: ignore[misc]  # ART is untyped
    """Changes the answer by the answer alone. It is an ART postprocessor and works in ART as one."""

    def __init__(self) -> None:
        Postprocessor.__init__(self, is_fitted=True, apply_fit=False, apply_predict=True)

    def answer(self, batch: Batch) -> Answers:
        """Apply the postprocessor to the probabilities."""
        return Answers.of(np.asarray(self(batch.probabilities), dtype=np.float64))


class NoisyDefense(OutputDefense):
    """Changes the answer by the answer and by draws of its own, and answers a distribution.

    A row's draws are keyed by the running number of its query, or by its input where
    ``consistent_noise`` is claimed. ART shows a postprocessor neither, so that there the draws are
    always fresh and come, as those of ART's own postprocessors, from NumPy's global generator.
    """

    @abstractmethod
    def weights(self, row: Array, rng: np.random.Generator) -> Array:
        """Return non-negative weights (classes,), which are then divided by their sum."""

    def __call__(self, preds: Any) -> Any:
        """Return noisy rows (n, classes) float64."""
        rng = np.random.default_rng(np.random.randint(2**31))
        rows = np.asarray(preds, dtype=np.float64)
        return as_distributions(np.array([self.weights(row, rng) for row in rows]).reshape(rows.shape))

    def answer(self, batch: Batch) -> Answers:
        """Draw every row's noise from a seed of its own; the global generator is left as it was."""
        seed_of = batch.input_seed if self.claims.consistent_noise else batch.row_seed
        weights = np.empty_like(batch.probabilities)
        for row, answer in enumerate(batch.probabilities):
            weights[row] = self.weights(answer, np.random.default_rng(seed_of(row)))
        return Answers.of(as_distributions(weights))


def as_distributions(weights: Array) -> Array:
    """Return non-negative rows (n, classes) divided by their sums; rows that are all zero become uniform.

    A sole maximum stays the sole one. Rows with NaN stay NaN.
    """
    total = weights.sum(axis=1, keepdims=True)
    rows: Array = np.where(total == 0, 1 / weights.shape[1], weights) / np.where(total == 0, 1, total)
    # Division can round a maximum and its nearest neighbour to one number.
    tied = (_maxima(weights) == 1) & (_maxima(rows) > 1)
    rows[tied, weights[tied].argmax(axis=1)] = np.nextafter(rows[tied].max(axis=1), 2)
    return rows


def _maxima(rows: Array) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.count_nonzero(rows == rows.max(axis=1, keepdims=True), axis=1)
    return counts


class ScreenDefense(Defense):
    """Judges each query by its input (and the victim's features), then acts on the flagged ones."""

    @abstractmethod
    def judge(self, batch: Batch) -> Mask:
        """Return (n,) True where a query is flagged."""


@dataclass(frozen=True)
class DefenseStack:
    """Defenses one behind another: each sees the answers of the one before. Empty: no defense."""

    defenses: tuple[Defense, ...] = field(default_factory=tuple)

    @property
    def claims(self) -> Claims:
        """The promises of the whole, which are those that every member keeps."""
        each = [defense.claims for defense in self.defenses]
        random = [claims for claims in each if claims.stochastic]
        distribution, normalises = True, False
        for claims in each:
            # The last one that normalises makes up for what those before it broke.
            distribution = claims.normalises or (claims.distribution and distribution)
            normalises = claims.normalises or (claims.distribution and normalises)
        return Claims(
            keeps_label=all(claims.keeps_label for claims in each),
            ties=any(claims.ties for claims in each),
            distribution=distribution,
            normalises=normalises,
            stochastic=bool(random),
            consistent_noise=bool(random) and all(claims.consistent_noise for claims in random),
            counts_queries=any(claims.counts_queries for claims in each),
            may_refuse=any(claims.may_refuse for claims in each),
            may_flag=any(claims.may_flag for claims in each),
        )

    def fit(self, calibration: Calibration) -> None:
        """Fit every member on the same calibration split."""
        for defense in self.defenses:
            defense.fit(calibration)

    def answer(self, batch: Batch) -> Answers:
        """Pass the batch through every member; refused rows come out as NaN."""
        answers = Answers.of(batch.probabilities.copy())
        for place, defense in enumerate(self.defenses):
            step = Batch(
                inputs=batch.inputs,
                raw=batch.raw,
                probabilities=answers.probabilities,
                client=batch.client,
                number=batch.number,
                seed=_mix(batch.seed, place),
                read_features=batch.read_features,
            )
            given = defense.answer(step)
            answers = Answers(
                given.probabilities, answers.refused | given.refused, answers.flagged | given.flagged
            )
        probabilities = np.where(answers.refused[:, None], np.nan, answers.probabilities)
        return Answers(probabilities, answers.refused, answers.flagged)
