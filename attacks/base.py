"""What an attack is: it asks the API, and hands over what it bought or what it infers."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.plugins import Plugin

Images = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Inputs that the attacker can send.

    ``x``: (n, channels, height, width) float32 in [0, 1], shaped for the victim. ``y``: (n,) int64,
    the pool's own class labels (seeded k-means clusters where it has none). ``access``: what it
    gives the thief: "in-distribution", "near", "far" or "none" (no real data). ``same_classes``: its
    labels mean what the victim's do. ``overlaps``: "train" or "test" where the pool is that split of
    the victim's, as some published studies have it; empty where it is disjoint from both.
    ``reference``: inputs of the victim's own kind, (n, …) like ``x``, of which an attack may take as
    many as its parameters say the thief owns (to imitate a gate, say); without labels, for no query.
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
    """What is known of a victim without asking it.

    ``linear``: whether its log-odds are linear in the input; None where nobody knows.
    """

    classes: int
    linear: bool | None


@dataclass(frozen=True)
class Known:
    """What the thief knows of one defense: its name; its parameters too where he knows all but secrets.

    ``parameters``: every one by name, as the defense stands (one given by its honest cost has the
    parameter that was found); None where only the kind of defense is known. Seeds, secrets and what
    a defense learnt from the victim's data are nobody's to know.
    """

    name: str
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TransferSet:
    """What an attack has bought: inputs (n, …) float32 and answers (n, classes) float32, in order.

    ``copy``: a finished copy, from inputs (n, …) to (n, classes) probabilities, where the attack needs
    no training to make one; else None, and one is trained. ``facts``: numbers of the attack's own,
    which appear among the cell's metrics as ``extraction.NAME``.
    """

    x: Images
    y: NDArray[np.float32]
    copy: Callable[[Images], Array] | None = None
    facts: Mapping[str, float | None] = field(default_factory=dict)

    def digest(self) -> str:
        """Return a hash of bytes and order: equal for attackers who learnt exactly the same."""
        h = hashlib.sha256(repr((self.x.shape, self.y.shape)).encode())
        h.update(np.ascontiguousarray(self.x).tobytes())
        h.update(np.ascontiguousarray(self.y).tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class RandomSeeds:
    """Seeds of the attack's random streams: ``order`` draws queries, ``choices`` decides (a bandit)."""

    order: int
    choices: int


class Api(Protocol):
    """The defended victim as a client sees it; an ART classifier.

    ``known``: what this thief knows of the defenses, that which answers first before the others; ()
    if he knows that there are none, None if he knows nothing, not even that.
    """

    nb_classes: int
    budget: int
    known: tuple[Known, ...] | None

    def predict(self, x: Images, batch_size: int = 256, client: str = "attacker") -> Array:
        """Answer queries: (n, classes); NaN rows are refusals. Raises when the budget is overspent.

        ``client``: the account that asks. A thief may open as many as he likes; they share the budget.
        """


class Surrogate(Protocol):
    """A surrogate that learns while the attack buys, as adaptive attacks need."""

    def step(self, x: Images, y: Array) -> None:
        """Take one optimiser step on a batch: inputs (n, …), targets (n, classes)."""

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Return (n, classes) logits."""

    def gradient(self, x: Images, y: Array) -> Images:
        """Return (n, …), how the cross-entropy with targets ``y`` (n, classes) grows along each input."""


Predictor = Callable[[Images], Array]
"""A trained copy: from inputs (n, …) to (n, classes) probabilities."""


class SurrogateFactory(Protocol):
    """Makes and trains surrogates of the thief's architecture, as many as he likes: that costs no query."""

    def __call__(self) -> Surrogate:
        """Return a freshly initialised online surrogate; NotApplicable where it cannot learn by steps."""
        ...

    def fit(self, sets: Sequence[tuple[Images, Array]], effort: float = 1.0) -> Sequence[Predictor]:
        """Train a copy on each set of inputs (n, …) and targets (n, classes), by the cell's own rule.

        ``effort``: share of the rule's steps to take, in (0, 1]. The same sets give the same copies;
        what is handed over together is trained as one stack where the architecture allows it.
        """


class Attack(Plugin):
    """What attacks of every family have in common. Parameters in ``__init__`` (keyword-only)."""

    family: ClassVar[str]
    """What is measured of it: "extraction" or "membership"."""
    queries: ClassVar[bool] = True
    """False for a thief who sends nothing; its only budget is 0."""
    knowledge: ClassVar[tuple[str, ...]] = ("none",)
    """What the attack can make use of: "none", "family" (names of defenses), "full" (parameters too)."""

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why the attack makes no sense here, or an empty string."""
        return ""

    def supply(self, size: int) -> int | None:
        """Return the largest budget a pool of ``size`` inputs supplies; None: the attack sends repeats."""
        return size

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return the budgets to run, of those a matrix lists; an attack that fixes its own returns that."""
        return listed if self.queries else [0]


class Extraction(Attack):
    """Buys a transfer set. What it declares beside its name, the contract tests hold it to."""

    family = "extraction"
    makes_inputs: ClassVar[bool] = False
    """True for an attack that sends inputs which are not in its pool."""
    row_by_row: ClassVar[bool] = True
    """False where the transfer set is more than the answered queries, each with its answer or its top-1."""
    prefix: ClassVar[bool] = True
    """False where what a smaller budget buys need not be the beginning of what a larger one buys."""
    universal: ClassVar[bool] = False
    """True for an attack that means to match the best of the others, whatever the defense."""

    @abstractmethod
    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend ``api.budget`` queries from the pool and return what was learnt, refused rows dropped."""


@dataclass(frozen=True)
class Records:
    """Inputs (n, …) float32 with true labels (n,) int64, and which of them are members (n,) bool."""

    x: Images
    y: NDArray[np.int64]
    member: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


class MembershipInference(Attack):
    """Tells whether a record was among the victim's training data.

    ``members``: at most this many members, and as many non-members, half of which the attacker knows;
    the other half is what it is judged on. ``target``: the victim's API, or a surrogate that was
    stolen through it first with the cell's budget, which then answers for nothing. On a matrix' axes,
    ``pool`` is where the non-members come from: "in-distribution" (the test split) or another data set.
    """

    family = "membership"
    queries_per_record: ClassVar[int] = 1
    """How often the target is asked about one record."""

    def __init__(
        self,
        *,
        members: Annotated[int, Field(ge=20)] = 10_000,
        target: Literal["victim", "surrogate"] = "victim",
    ) -> None:
        self.members = members
        self.target = target

    def supply(self, size: int) -> int | None:
        """Return None: what the pool supplies is records, of which there may be fewer than ``members``."""
        return None

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return what asking about every record costs; for a stolen surrogate, the listed ones."""
        return listed if self.target == "surrogate" else [2 * self.members * self.queries_per_record]

    @abstractmethod
    def infer(self, api: Api, known: Records, asked: Records, streams: RandomSeeds) -> Array:
        """Return (n,) scores in [0, 1] for the ``asked`` records; above .5 says "member".

        ``known`` is disjoint from ``asked``, and all that may be learnt from; ``asked.member`` is
        all False. Refused queries come back as NaN rows.
        """
