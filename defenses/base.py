"""The interface of defenses: from batches of queries to answers, with claims that are tested."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from art.defences.postprocessor import Postprocessor
from numpy.typing import NDArray

from bench.inputs import InputSpace
from bench.plugins import Plugin

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Images = NDArray[np.float32]
Perturb = Callable[[float, int], Callable[[Images], Array]]
"""Takes the scale of the noise and a seed; returns a perturbed victim, from inputs to probabilities."""


@dataclass(frozen=True)
class Batch:
    """Queries of one client and their answers so far.

    ``inputs``: (n, …) float32, of the victim's space of inputs. ``raw``: the victim's answers,
    (n, classes) float64, rows sum to 1. ``probabilities``: the answers so far (those of the
    defense before this one in a stack). ``number``: the client's running number of the first query.
    ``seed``: seed of this defense's noise for this client. ``read_features``: returns the victim's
    features at several depths, each (n, d) float32; None where the victim offers none.
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
        """Return the seed of the noise for one row: new for every query, repeated inputs included."""
        return _mix(self.seed, self.number + row)

    def input_seed(self, row: int) -> int:
        """Return a seed keyed by the input alone: repeated queries get the same noise."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.inputs[row]).tobytes(), digest_size=8)
        return _mix(self.seed, int.from_bytes(digest.digest(), "big"))


def _mix(seed: int, number: int) -> int:
    text = f"{seed}:{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Answers:
    """What the client gets: probabilities (n, classes), NaN where rejected; and which rows were flagged.

    ``probabilities``: float64 in [0, 1]. ``refused``, ``flagged``: (n,) bool.
    """

    probabilities: Array
    refused: Mask
    flagged: Mask

    @classmethod
    def of(cls, probabilities: Array) -> Answers:
        """Return answers in which nothing is rejected or flagged."""
        nothing = np.zeros(len(probabilities), dtype=bool)
        return cls(probabilities, nothing, nothing.copy())


@dataclass(frozen=True)
class Predicate:
    """A property that a defense claims of every answer; the defense evaluation measures it on thousands.

    ``name``: the property in words, with parameters in braces: "multiples of 10^-{decimals}".
    ``parameters``: their values. ``violation``: from the answers before this defense, (n, classes), and its
    :class:`Answers`, returns (n,) how far each answer is from the property, 0 where it has it; NaN where the
    query was rejected. ``tolerance``: the largest violation that rounding explains: 0 where entries are
    copied or compared, 1e-12 where the arithmetic rounds, more where values are in single precision.
    """

    name: str
    violation: Callable[[Array, Answers], Array]
    tolerance: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def text(self, *, without: str | None = None) -> str:
        """Return the name with the values of its parameters; ``without``: the one that is only named."""
        return self.name.format(**{**self.parameters, **({without: f"({without})"} if without else {})})


@dataclass(frozen=True)
class Claims:
    """Properties that a defense claims. They are checked while it runs, and a broken one fails the cell.

    ``keeps_label``: the first maximum of an answer is the victim's top-1. ``ties``: several entries
    may share the maximum. ``distribution``: rows are non-negative and sum to 1. ``normalises``: they are
    so whatever the defense before this one answered. ``one_hot``: an answer says which class has the maximum
    and nothing else. ``stochastic``: answers may depend on the seed.
    ``consistent_noise``: the same input always gets the same answer. ``continuous``: noise has so many values
    that no two answers with other noise are equal to the bit, whatever the answers before, except where
    clipping leaves a label or nothing. ``counts_queries``: answers depend
    on the client's running number, other than through new noise. ``may_refuse``, ``may_flag``: rows
    may be rejected, flagged.

    The first three are claimed for a victim's answers, which are distributions; after other defenses, a
    defense adds no tie of its own and loses no label that they kept.
    """

    keeps_label: bool = True
    ties: bool = False
    distribution: bool = True
    normalises: bool = False
    one_hot: bool = False
    stochastic: bool = False
    consistent_noise: bool = False
    counts_queries: bool = False
    may_refuse: bool = False
    may_flag: bool = False
    continuous: bool = False


@dataclass(frozen=True)
class Auxiliary:
    """Inputs from another distribution than the victim's, which the defender has, and the victim's answers.

    ``name``: what they are, as a matrix calls it. ``inputs``: (n, …) float32, of the victim's input space.
    ``probabilities``: the victim's answers to them, (n, classes) float64. No attacker queries with these.
    """

    name: str
    inputs: Images
    probabilities: Array


@dataclass(frozen=True)
class Calibration:
    """Data to fit a defense on: the victim's training split, and a calibration split it was not trained on.

    Labels are the true ones, (n,) int64. ``read_features`` as in :class:`Batch`. ``perturb(scale,
    seed)``: returns the victim with normal noise on its parameters, of ``scale`` times each weight
    tensor's own standard deviation; None where the victim's parameters are not accessible. ``costs``:
    utility losses that were measured here, kept by :mod:`defenses.tuning.utility_loss`. ``space``: what
    inputs may be; None for images in [0, 1]. ``auxiliary``: what the defense asks for by
    :attr:`Defense.auxiliary_data`; None where it asks for nothing, or none is to be had.
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
    space: InputSpace | None = None
    auxiliary: Auxiliary | None = None


@dataclass(frozen=True)
class StrengthRange:
    """The range of one parameter from a defense's weakest to its strongest value, the others as given.

    The ends are values of ``parameter``, or the name of the parameter that bounds it. ``whole``: the
    parameter is an integer.
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
    """A defense: changes answers, or judges queries. Fitted attributes end in ``_``."""

    known_by: ClassVar[tuple[str, ...]] = ()
    """Names of the registered attacks that are adaptive to this defense.

    Where there is none, reports warn that no adaptive attack was run.
    """
    strength: ClassVar[StrengthRange | None] = None
    """The range of strengths in which a target utility loss is searched; None: a single point."""

    def __init_subclass__(cls, **parameters: Any) -> None:
        """Accept a range that is declared as ``path``, its name in moatbench 0.1, with a warning."""
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
        """The properties that this defense claims under its parameters."""
        return Claims()

    @property
    def plugin_class(self) -> type[Defense]:
        """The class that a matrix names; if a utility loss is given, the class whose strength is searched."""
        return type(self)

    @property
    def auxiliary_data(self) -> str:
        """Name of the auxiliary data that ``fit`` gets; "default": those for this kind of input; "": none.

        METHOD.md lists the names. A matrix in which an attacker queries with the same data is rejected.
        """
        return ""

    @property
    def effective(self) -> Defense:
        """The defense after ``fit``: itself, or the one that was found for a target utility loss."""
        return self

    @property
    def predicates(self) -> Sequence[Predicate]:
        """The properties of every answer that this defense claims under its parameters, once it is fitted.

        They say more than :attr:`claims`, which are checked without being listed here. Helpers that make
        them are in :mod:`defenses.predicates`.
        """
        return ()

    def fit(self, calibration: Calibration) -> None:
        """Fit to the calibration split; called once for each victim, before any query."""

    def at(self, value: float, calibration: Calibration) -> Defense:
        """Return this defense fitted at another ``value`` of its strength range's parameter.

        A defense whose fit takes long may reuse results that do not depend on that parameter.
        """
        # Of the class, since a parameter may be called strength, too.
        family: Any = type(self)
        values = {name: getattr(self, name) for name in self.parameters()}
        other: Defense = family(**values | ({family.strength.parameter: value} if family.strength else {}))
        other.fit(calibration)
        return other

    @abstractmethod
    def answer(self, batch: Batch) -> Answers:
        """Return the answers to one client's queries; must not change the batch.

        A row's answer may depend on its own row of the batch, the seed and the running number of
        the query only, so that a batch gets the same answers as its rows one by one.
        """


class OutputDefense(Defense, Postprocessor):  # type: ignore[misc]  # ART is untyped
    """A defense whose answer depends on the answer so far alone. It is an ART postprocessor."""

    def __init__(self) -> None:
        Postprocessor.__init__(self, is_fitted=True, apply_fit=False, apply_predict=True)

    def answer(self, batch: Batch) -> Answers:
        """Return the postprocessed probabilities."""
        return Answers.of(np.asarray(self(batch.probabilities), dtype=np.float64))


class NoisyDefense(OutputDefense):
    """An output defense with randomized answers, which are distributions.

    A row's noise is keyed by the running number of its query, or by its input where
    ``consistent_noise`` is claimed. ART shows a postprocessor neither, so that in ART the noise is
    always new and is drawn, as in ART's own postprocessors, from NumPy's global generator.
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
        """Return answers with noise from a seed for each row; the global generator is left unchanged."""
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
    """An input detector: flags queries by their input and the victim's features, and acts on them.

    A detector that is also a :class:`ScoredDetector` gets an AUROC in its defense evaluation.
    """

    @property
    def judges_inputs_alone(self) -> bool:
        """Whether nothing of a model is needed, neither to fit it nor to judge: the input decides.

        ``fit`` then reads inputs, labels and space of the calibration alone, and a guard can use it.
        """
        return False

    @abstractmethod
    def judge(self, batch: Batch) -> Mask:
        """Return (n,) True where a query is flagged."""


@runtime_checkable
class ScoredDetector(Protocol):
    """A fitted detector with scores: it flags a query where a score exceeds its threshold.

    ``thresholds_``: (tests,), of any sign; infinite for a test that is not used.
    """

    thresholds_: Array

    def scores(self, batch: Batch) -> Array:
        """Return the scores (n, tests) of a batch's rows; a higher one is more unusual.

        They must not depend on ``thresholds_``. Scores of different tests need no common unit: they are
        compared by their ranks among the calibration split's.
        """


@dataclass(frozen=True)
class DefenseStack:
    """Defenses in a row: each receives the answers of the one before. Empty: no defense."""

    defenses: tuple[Defense, ...] = field(default_factory=tuple)

    @property
    def claims(self) -> Claims:
        """The claims of the stack, which follow from those of its members."""
        members_claims = [defense.claims for defense in self.defenses]
        random = [claims for claims in members_claims if claims.stochastic]
        distribution, normalises = True, False
        for claims in members_claims:
            # The last one that normalises repairs the answers of those before it.
            distribution = claims.normalises or (claims.distribution and distribution)
            normalises = claims.normalises or (claims.distribution and normalises)
        return Claims(
            keeps_label=all(claims.keeps_label for claims in members_claims),
            ties=any(claims.ties for claims in members_claims),
            distribution=distribution,
            normalises=normalises,
            one_hot=bool(members_claims) and members_claims[-1].one_hot,
            stochastic=bool(random),
            consistent_noise=bool(random) and all(claims.consistent_noise for claims in random),
            # Whoever comes after it may round.
            continuous=bool(members_claims) and members_claims[-1].continuous,
            counts_queries=any(claims.counts_queries for claims in members_claims),
            may_refuse=any(claims.may_refuse for claims in members_claims),
            may_flag=any(claims.may_flag for claims in members_claims),
        )

    def fit(self, calibration: Calibration) -> None:
        """Fit every member on the same calibration split."""
        for defense in self.defenses:
            defense.fit(calibration)

    def answer(self, batch: Batch, ask: Callable[[int, Batch], Answers] | None = None) -> Answers:
        """Return the answers after every member; rejected rows are NaN.

        ``ask(position, batch)`` asks the member at a position; without it, its method ``answer`` is called.
        """
        answers = Answers.of(batch.probabilities.copy())
        for position, defense in enumerate(self.defenses):
            step = Batch(
                inputs=batch.inputs,
                raw=batch.raw,
                probabilities=answers.probabilities,
                client=batch.client,
                number=batch.number,
                seed=_mix(batch.seed, position),
                read_features=batch.read_features,
            )
            given = defense.answer(step) if ask is None else ask(position, step)
            answers = Answers(
                given.probabilities, answers.refused | given.refused, answers.flagged | given.flagged
            )
        probabilities = np.where(answers.refused[:, None], np.nan, answers.probabilities)
        return Answers(probabilities, answers.refused, answers.flagged)
