"""The interface of attacks: they query the API, and return a transfer set or membership scores."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.inputs import InputSpace, Layout
from bench.plugins import Plugin

Images = NDArray[np.float32]
Array = NDArray[np.float64]


FAMILIES = ("extraction", "membership")
"""The kinds of attack; each has its own metrics."""


@dataclass(frozen=True)
class Pool:
    """Inputs that the attacker can send as queries.

    ``x``: (n, …) float32, inputs that the victim accepts (:class:`bench.inputs.InputSpace`). ``y``: (n,)
    int64, the pool's own class labels (seeded k-means clusters where it has none). ``access``: how close
    the pool is to the victim's data: "in-distribution", "near", "far" or "none" (no real data).
    ``same_classes``: its labels are the victim's classes. ``overlaps``: "train" or "test" where the pool
    is that split of the victim's, as in some publications; empty where it is disjoint from both.
    ``reference``: unlabelled inputs of the victim's distribution, (n, …) like ``x``, of which an attack
    may use as many as its parameters say the attacker owns (to imitate an OOD detector, for example).
    """

    name: str
    x: Images
    y: NDArray[np.int64]
    access: str
    same_classes: bool
    overlaps: str = ""
    reference: Images | None = None


@dataclass(frozen=True)
class Target:
    """What is known of a victim without a query.

    ``linear``: whether its log-odds are linear in the input (of a table: with a weight for each category).
    ``tree``: whether it is one decision tree. None where that is unknown. ``inputs``: what inputs may be;
    None for images in [0, 1].
    """

    classes: int
    linear: bool | None
    inputs: InputSpace | None = None
    tree: bool | None = None

    @property
    def layout(self) -> Layout:
        """What an input is: "images", "sequences" or "table"."""
        return "images" if self.inputs is None else self.inputs.layout


@dataclass(frozen=True)
class Known:
    """What an adaptive attacker knows of one defense: its name, and its parameters unless these are None.

    ``parameters``: all of them, by name; a defense that is given by a target utility loss has the
    strength that was found. Seeds, secrets and what a defense learned from the victim's data are never
    known.
    """

    name: str
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Restoration:
    """What an attack takes the undefended answers for; it is compared with them for evaluation alone.

    ``x``: (m, …) float32, inputs that were answered. ``answers``, ``restored``: (m, classes) float64, the
    answers that were bought, and the estimates of those without the defense.
    """

    x: Images
    answers: Array
    restored: Array


@dataclass(frozen=True, init=False)
class TransferSet:
    """Queries that were answered, in order: inputs (n, …) float32 and targets (n, classes) float32.

    ``surrogate``: a finished surrogate, from inputs (n, …) to (n, classes) probabilities, of an attack
    that needs no training; else None, and one is trained. ``facts``: further numbers, which are stored
    among the cell's metrics as ``extraction.NAME``. ``restoration``: of an attack that estimates answers; it
    trains nothing, and is no part of the digest.
    """

    x: Images
    y: NDArray[np.float32]
    surrogate: Callable[[Images], Array] | None
    facts: Mapping[str, float | None]
    restoration: Restoration | None

    def __init__(
        self,
        x: Images,
        y: NDArray[np.float32],
        surrogate: Callable[[Images], Array] | None = None,
        facts: Mapping[str, float | None] | None = None,
        *,
        restoration: Restoration | None = None,
        copy: Callable[[Images], Array] | None = None,
    ) -> None:
        """Hold what was answered; ``copy`` is what ``surrogate`` was called in 0.1, and works until 0.3."""
        if copy is not None:
            warnings.warn("TransferSet(copy=…) is now TransferSet(surrogate=…)", FutureWarning, stacklevel=2)
            surrogate = copy
        values: dict[str, Any] = {"x": x, "y": y, "surrogate": surrogate, "restoration": restoration}
        values["facts"] = {} if facts is None else facts
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen from here on

    @property
    def copy(self) -> Callable[[Images], Array] | None:
        """The surrogate, under its name of 0.1."""
        warnings.warn("TransferSet.copy is now TransferSet.surrogate", FutureWarning, stacklevel=2)
        return self.surrogate

    def digest(self) -> str:
        """Return a hash of the bytes in order: equal for attacks that return exactly the same."""
        h = hashlib.sha256(repr((self.x.shape, self.y.shape)).encode())
        h.update(np.ascontiguousarray(self.x).tobytes())
        h.update(np.ascontiguousarray(self.y).tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class RandomSeeds:
    """Seeds of an attack: ``order`` for drawing queries, ``choices`` for its other random decisions."""

    order: int
    choices: int


Predictor = Callable[[Images], Array]
"""A trained surrogate: from inputs (n, …) to (n, classes) probabilities."""


@runtime_checkable
class NetworkPredictor(Protocol):
    """A predictor that is a network. It offers what a simulated defense may read of a victim."""

    def __call__(self, x: Images) -> Array:
        """Return (n, classes) probabilities of inputs (n, …)."""

    def features(self, x: Images) -> Sequence[NDArray[np.float32]]:
        """Return activations at several depths, each (n, d) float32, shallow to deep, the logits last."""

    def perturbed(self, scale: float, seed: int) -> Predictor:
        """Return the network with normal noise on its parameters, drawn from ``seed``.

        ``scale``: standard deviation, in units of that of each weight tensor.
        """


@runtime_checkable
class DifferentiablePredictor(Protocol):
    """A trained surrogate that is a network: its logits have gradients by its encoded inputs.

    The same rows in the same order give the same bits. Logits of a row are the same to the bit whatever other
    rows it comes with, gradients but for rounding.
    """

    def __call__(self, x: Images) -> Array:
        """Return (n, classes) probabilities for inputs (n, …)."""
        ...

    def encoded(self, x: Images) -> Images:
        """Return inputs (n, …) in the units of the network, (n, …) float32.

        Values of images and sequences become shares of their range, columns of a table are standardised.
        Raises NotApplicable for a table with categories, booleans or missing values.
        """
        ...

    def linearised(self, encoded: Images, classes: NDArray[np.intp]) -> tuple[Array, Images]:
        """Return all logits, (n, all classes) float64, and gradients of some by the input, (n, k, …) float32.

        ``encoded``: (n, …). ``classes``: (n, k), whose logits are differentiated; k may be 0.
        """
        ...


@dataclass(frozen=True)
class Shadow:
    """What an attacker gives for a simulation in place of a victim and its data; all of it is their own.

    ``predictor``: stands for the victim. A :class:`NetworkPredictor` also has the features and the
    parameters that some defenses need. ``train_inputs`` (n, …) float32 and ``train_labels`` (n,) int64
    stand for the victim's training split, ``inputs`` and ``labels`` for the calibration split, which
    ``predictor`` should not have learnt from. ``seed``: of the secrets that a defense draws when it is
    fitted, and of parameters that are not known.
    """

    predictor: Predictor
    train_inputs: Images
    train_labels: NDArray[np.int64]
    inputs: Images
    labels: NDArray[np.int64]
    seed: int


class Simulation(Protocol):
    """Fresh instances of known defenses, fitted on a :class:`Shadow`.

    ``known``: their names with the parameters that they have here. ``keeps_label``: whether the first
    maximum of an answer is that of the clean answer. ``randomized``: whether answers depend on a seed.
    """

    known: tuple[Known, ...]
    keeps_label: bool
    randomized: bool

    def answer(self, x: Images, rows: Array, seed: int = 0) -> Array:
        """Return defended answers (n, classes) to ``x`` (n, …); rejected ones are NaN rows.

        ``rows``: (n, classes) float64, the clean answers; distributions. ``seed``: of the noise.
        """


class Api(Protocol):
    """The defended victim as a client sees it; an ART classifier.

    ``inputs``: what queries may be; ``inputs.project`` gives the nearest that may be sent. ``known``: the
    defenses that an adaptive attacker knows, in the order in which they answer; () if they know that there
    is no defense, None for a non-adaptive attacker.
    """

    nb_classes: int
    inputs: InputSpace
    budget: int
    known: tuple[Known, ...] | None

    def predict(self, x: Images, batch_size: int = 256, client: str = "attacker") -> Array:
        """Return answers (n, classes) to queries; rejected ones are NaN rows. Raises BudgetError.

        ``client``: the account that queries. An attacker may open any number; they share the budget.
        """

    def simulate(self, known: Sequence[Known], shadow: Shadow) -> Simulation:
        """Return fresh instances of ``known`` defenses, fitted on the attacker's own ``shadow``.

        It costs no query. Nothing of the API takes part: neither the victim, nor its data, nor the seeds,
        secrets and fitted state of its defenses. Parameters that are None are drawn from the defense's
        range of strengths by ``shadow.seed``; the others then have their defaults. Raises NotApplicable,
        with the reason, for a defense that cannot be simulated.
        """


class Surrogate(Protocol):
    """A surrogate that an attack trains step by step while it queries."""

    def step(self, x: Images, y: Array) -> None:
        """Take one optimizer step on a batch: inputs (n, …), targets (n, classes)."""

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Return (n, classes) logits."""

    def gradient(self, x: Images, y: Array) -> Images:
        """Return (n, …), the gradient of the cross-entropy with targets ``y`` (n, classes) by the inputs."""


class SurrogateFactory(Protocol):
    """Makes and trains interim surrogates of the cell's architecture; that costs no query."""

    def __call__(self) -> Surrogate:
        """Return a newly initialised surrogate; raises NotApplicable where it cannot be trained in steps."""
        ...

    def fit(self, sets: Sequence[tuple[Images, Array]], effort: float = 1.0) -> Sequence[Predictor]:
        """Return a surrogate for each set of inputs (n, …) and targets (n, classes), trained on it.

        They are trained with the cell's training configuration. ``effort``: share of its steps to take,
        in (0, 1]. The same sets give the same surrogates; the sets of one call are trained as batched
        networks where the architecture allows it. Networks are returned as :class:`NetworkPredictor`,
        which are :class:`DifferentiablePredictor`, too.
        """


class Attack(Plugin):
    """An attack of any family. Parameters are keyword-only arguments of ``__init__``."""

    family: ClassVar[str]
    """The kind of attack, one of :data:`FAMILIES`, which decides what is measured."""
    queries: ClassVar[bool] = True
    """False for an attack that sends no queries; its only budget is 0."""
    knowledge: ClassVar[tuple[str, ...]] = ("none",)
    """Knowledge that the attack can use: "none", "family" (names of defenses), "full" (parameters too)."""

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why the attack cannot be run on this pool and victim, or an empty string."""
        return ""

    def supply(self, size: int) -> int | None:
        """Return the largest budget for a pool of ``size`` inputs; None where the pool is no limit."""
        return size

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return the budgets to run: those that a matrix lists, or the attack's own."""
        return listed if self.queries else [0]

    def round_trips(self, budget: int) -> int:
        """Return how often queries wait for the answers to earlier ones, at most, where none is rejected.

        1 where all queries are the same whatever the answers; the budget where they are sent one by one.
        """
        return min(1, budget)


class Extraction(Attack):
    """An attack that returns a transfer set. The contract tests check what its class attributes declare."""

    family = "extraction"
    makes_inputs: ClassVar[bool] = False
    """True for an attack that sends inputs from outside its pool."""
    row_by_row: ClassVar[bool] = True
    """False where the transfer set differs from the answered queries, each with its answer or its top-1."""
    prefix: ClassVar[bool] = True
    """False where the queries of a smaller budget need not be the first ones of a larger budget."""
    universal: ClassVar[bool] = False
    """True for an attack that is meant to match the best of the others against any defense."""
    simulates: ClassVar[bool] = False
    """True for an attack that adapts to any defense that it can simulate: no defense has to name it."""

    @abstractmethod
    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend ``api.budget`` queries and return the transfer set, rejected rows dropped."""


@dataclass(frozen=True)
class Records:
    """Inputs (n, …) float32 with true labels (n,) int64, and which of them are members (n,) bool."""

    x: Images
    y: NDArray[np.int64]
    member: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


class MembershipInference(Attack):
    """An attack that infers whether a record was among the victim's training data.

    ``members``: largest number of members, with as many non-members; the attacker knows half of them, and
    the other half is evaluated. ``target``: the victim's API, or a surrogate that was extracted through it
    with the cell's budget and answers without limit. On a matrix' axes, ``pool`` is the source of
    the non-members: "in-distribution" (the test split) or another data set.
    """

    family = "membership"
    queries_per_record: ClassVar[int] = 1
    """Queries to the target for one record."""

    def __init__(
        self,
        *,
        members: Annotated[int, Field(ge=20)] = 10_000,
        target: Literal["victim", "surrogate"] = "victim",
    ) -> None:
        self.members = members
        self.target = target

    def supply(self, size: int) -> int | None:
        """Return None: the pool supplies records, of which there may be fewer than ``members``."""
        return None

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return the queries for all records; the listed budgets where the target is a surrogate."""
        return listed if self.target == "surrogate" else [2 * self.members * self.queries_per_record]

    @abstractmethod
    def infer(self, api: Api, known: Records, queried: Records, seeds: RandomSeeds) -> Array:
        """Return (n,) scores in [0, 1] for the ``queried`` records; above .5 means "member".

        ``known`` is disjoint from ``queried``, and the only data to learn from; ``queried.member`` is
        all False. The API's answers to rejected queries are NaN rows.
        """
