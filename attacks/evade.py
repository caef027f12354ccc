"""Evasion of gates and counters: a thief who sends what looks honest, from as many accounts as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.covariance import ledoit_wolf_shrinkage

from attacks.base import (
    Api,
    Array,
    Extraction,
    Images,
    Pool,
    RandomSeeds,
    SurrogateFactory,
    Target,
    TransferSet,
)
from bench.calls import format_call
from bench.seeds import derive, random_state

GATES = ("mahalanobis",)
"""Defenses that judge an input by how far it lies from honest ones."""
COUNTERS = ("rate_limit",)
"""Defenses that count the queries of each client."""
FEWEST = 20
"""Honest inputs from which a shadow of a gate can be fitted."""
FPR = 0.05
"""Share of honest queries that a gate is taken to flag where it is not known."""
STEP = 0.1
"""Steps in which the share of honest input in a query grows."""
BATCH = 8
"""Queries that are sent before the thief looks at the answers, at least; else an eighth of those sent."""
TOO_MANY = 0.25
"""Share of refusals from which queries are made to look more honest."""
CHECKED = 3
"""Own inputs sent as they are, to begin with: bare labels in answer to all of them are no gate's doing."""
DOUBTFUL = 0.5
"""An answer whose every probability is below this may be a gate's random distribution."""

Parameters = Mapping[str, Any]
Mask = NDArray[np.bool_]


class Evade(Extraction):
    """Knows that a gate screens queries by their distance to honest data, and imitates the gate.

    ``own``: how many genuine inputs of the victim's kind the thief owns, without labels; 0, or at
    least 20. To these it fits a shadow of the gate: one Gaussian over pixels, its covariance shrunk as
    in Ledoit and Wolf 2004 ("A well-conditioned estimator for large-dimensional covariance matrices").
    k-means classes in place of one Gaussian evaded no better in a trial on MNIST.

    ``use_probability``: learn from whole answers; else from their top-1 alone.

    ``blend``: share in [0, 1] of an own input in each query. Without one, the thief sends what of
    his pool lies nearest to honest data, nearest first. With one, he sends the draw that random
    attacks share, each input with an own one that was dealt to it at random: against a gate on digits,
    copies came out better by up to 10 points than with the nearest own input as partner, and than
    with the blends nearest to honest data sent first. None, to choose: each query gets the smallest
    share that brings it under the shadow's threshold, and all that follow get more whenever more than a
    quarter is refused. The threshold lets pass as many own inputs as the gate's ``fpr`` says;
    .05 is flagged where that is not known. Where nothing but gates and counters is known to stand,
    random distributions count as refusals and are dropped, and bare labels count too, unless
    the first three queries, own inputs as they are, bring nothing else. Where it is known that there is
    no gate, own inputs are sent first, as they are, and then the random draw.

    ``clients``: accounts that take turns. None, for as many as it takes: with known parameters an
    account is left when its quota is used up; else when its answers end in refusals and a fresh one
    is answered to the same input (which is one more query), and what it was answered is the quota.

    What a smaller budget buys is the beginning of what a larger one buys.
    """

    name = "evade"
    paper = "Ledoit, Wolf 2004 (shadow gate); Douceur 2002, The Sybil Attack (accounts)"
    knowledge = ("family", "full")

    def __init__(
        self,
        *,
        own: Annotated[int, Field(ge=0)] = 100,
        use_probability: bool = False,
        blend: Annotated[float, Field(ge=0, le=1)] | None = 0.0,
        clients: Annotated[int, Field(ge=1)] | None = 1,
    ) -> None:
        if 0 < own < FEWEST:
            raise ValueError(f"own={own} is too few to fit a gate to; 0 or at least {FEWEST} is allowed")
        if own == 0 and blend:
            raise ValueError(f"blend={blend} needs inputs to blend with; own=0 leaves none")
        self.own, self.use_probability, self.blend, self.clients = own, use_probability, blend, clients

    def __repr__(self) -> str:
        """Return the call that makes this attack; ``blend`` and ``clients`` only where they are used."""
        unused = {"blend": self.blend == 0, "clients": self.clients == 1}
        spelled = [name for name in self.parameters() if not unused.get(name)]
        return format_call(self.name, {name: getattr(self, name) for name in spelled})

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where there are not that many honest inputs to own."""
        there = 0 if pool.reference is None else len(pool.reference)
        if there < self.own:
            return f"own={self.own}: beside pool {pool.name!r} there are {there} inputs of the victim's kind"
        return ""

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget on what looks most honest; whoever owns nothing draws at random.

        Facts: ``blended``, the mean share of own input in the queries; ``clients``, accounts used.
        """
        order = random_state(streams.order).permutation(len(pool.x))
        accounts, gate = Accounts(api, self.clients), gate_of(api)
        x = pool.x
        if self.own and pool.reference is not None:
            mine = pool.reference[random_state(streams.choices).permutation(len(pool.reference))[: self.own]]
            partners = mine[dealt(len(mine), len(x), derive(streams.choices, "partners"))]
            if self.blend is None and gate is not None:
                sent = order[: api.budget]
                shadow = Shadow.fit(mine, gate.get("fpr", FPR))
                return self._felt(accounts, x[sent], partners[: len(sent)], shadow, gate)
            if self.blend is None:
                order, x = np.arange(len(mine) + len(x)), np.concatenate([mine, x[order]])
            elif self.blend:
                x = blended(x, partners, np.full(len(x), self.blend))
            else:
                # Equal distances keep the seeded order, not that of a file sorted by class.
                order = order[np.argsort(distances(mine, x)[order], kind="stable")]
        asked = x[order[: api.budget]]
        told = accounts.ask(asked)
        return self._learnt(asked[: len(told)], told, refused(told), accounts, self.blend or 0.0)

    def _felt(
        self, accounts: Accounts, x: Images, partners: Images, shadow: Shadow, gate: Parameters
    ) -> TransferSet:
        """Send the inputs in small batches, each blended by its own share and by what refusals told."""
        shares = shadow.shares(x, partners)
        # Among other defenses, a strange answer may be an honest one that they changed.
        doubtful = accounts.alone and gate.get("action", "noise") == "noise"
        watched = accounts.alone and gate.get("action", "label_only") == "label_only"
        sent, answers, lost = [x[:0]], [np.empty((0, accounts.api.nb_classes))], [np.empty(0, dtype=bool)]
        shares[:CHECKED] = 1
        done = since = bad = 0
        while done < len(x) and accounts.left:
            rows = slice(done, done + max(BATCH, done // BATCH))
            batch = blended(x[rows], partners[rows], shares[rows])
            told = accounts.ask(batch)
            away = refused(told, doubtful=doubtful)
            sent, answers, lost = [*sent, batch[: len(told)]], [*answers, told], [*lost, away]
            watched = watched and bool(done or not bare(told[:CHECKED]).all())
            done, since = done + len(told), since + len(told)
            bad += int((away | bare(told) if watched else away).sum())
            if bad > max(2, TOO_MANY * since):
                shares[done:] = np.minimum(shares[done:] + STEP, 1)
                since = bad = 0
        asked, told, away = np.concatenate(sent), np.concatenate(answers), np.concatenate(lost)
        return self._learnt(asked, told, away, accounts, float(shares[:done].mean()))

    def _learnt(
        self, asked: Images, told: Array, lost: Mask, accounts: Accounts, share: float
    ) -> TransferSet:
        learnt = told[~lost]
        if not self.use_probability:
            learnt = np.eye(told.shape[1])[learnt.argmax(axis=1)]
        facts = {"blended": share, "clients": float(len(accounts.used))}
        return TransferSet(np.ascontiguousarray(asked[~lost]), learnt.astype(np.float32), facts=facts)


class Accounts:
    """The thief's clients, behind one counter of what is left of the budget.

    ``clients``: how many take turns; None for as many as it takes.
    """

    def __init__(self, api: Api, clients: int | None) -> None:
        self.api, self.left, self.used = api, api.budget, {0}
        self.alone = api.known is not None and all(each.name in GATES + COUNTERS for each in api.known)
        counters = [each.parameters for each in api.known or () if each.name in COUNTERS]
        quotas = [own["limit"] for own in counters if own is not None and own["limit"] < own["window"]]
        self._watches = api.known is None or None in counters
        self._quota: int | None = min(quotas, default=None)
        self._turns, self._sent, self._account, self._asked = clients, 0, 0, 0

    def ask(self, x: Images) -> Array:
        """Return the answers to ``x`` (n, …), NaN rows where refused; fewer rows where the budget ends."""
        if self._turns is None:
            return self._as_many_as_it_takes(x)
        x = x[: self.left]
        told = np.empty((len(x), self.api.nb_classes))
        for turn in range(min(self._turns, len(x))):
            own = slice(turn, None, self._turns)
            told[own] = self._predict(x[own], (self._sent + turn) % self._turns)
        self._sent += len(x)
        return told

    def _as_many_as_it_takes(self, x: Images) -> Array:
        told = np.empty((len(x), self.api.nb_classes))
        done = 0
        while done < len(x) and self.left:
            if self._quota is not None and self._asked >= self._quota:
                self._open()
            room = len(x)
            if self._quota is not None:
                room = self._quota - self._asked
            elif self._watches:
                room = max(BATCH, self._asked // BATCH)
            part = x[done : done + min(room, self.left)]
            told[done : done + len(part)] = self._predict(part, self._account)
            self._asked += len(part)
            done += len(part)
            if self._quota is None and self._watches:
                self._look(part, told[done - len(part) : done])
        return told[:done]

    def _look(self, part: Images, told: Array) -> None:
        """Find out whether refusals at the end of a batch are this account's, and write down the quota."""
        answered = np.flatnonzero(~refused(told))
        first = int(answered[-1]) + 1 if len(answered) else 0
        if first == len(told) or not self.left:
            return
        served = self._asked - (len(told) - first)
        self._open()
        told[first] = self._predict(part[first : first + 1], self._account)[0]
        self._asked = 1
        if served and not refused(told[first : first + 1])[0]:
            self._quota = served

    def _open(self) -> None:
        self._account, self._asked = self._account + 1, 0

    def _predict(self, x: Images, account: int) -> Array:
        self.left -= len(x)
        self.used.add(account)
        return self.api.predict(x, client=f"attacker-{account}" if account else "attacker")


@dataclass(frozen=True)
class Shadow:
    """A gate of the thief's own: the Gaussian of ``honest`` inputs, and the distance it lets pass."""

    honest: Images
    threshold: float

    @classmethod
    def fit(cls, mine: Images, fpr: float) -> Shadow:
        """Fit half of the inputs (m, …); the other half says how far honest ones lie."""
        honest, held_out = mine[::2], mine[1::2]
        return cls(honest, float(np.quantile(distances(honest, held_out), 1 - fpr)))

    def shares(self, x: Images, partners: Images) -> Array:
        """Return (n,) the smallest share of its partner that brings each input under the threshold."""
        found = np.ones(len(x))
        for share in STEP * np.arange(round(1 / STEP) - 1, -1, -1):
            near = distances(self.honest, blended(x, partners, np.full(len(x), share))) <= self.threshold
            found[near] = share
        return found


def gate_of(api: Api) -> Parameters | None:
    """Return what is known of the gate's parameters; None where it is known that there is no gate."""
    if api.known is None:
        return {}
    return next((each.parameters or {} for each in api.known if each.name in GATES), None)


def refused(told: Array, *, doubtful: bool = False) -> Mask:
    """Return (n,) True for rows of NaN; where ``doubtful``, also for what may be a random distribution."""
    return np.asarray(~(told.max(axis=1) >= (DOUBTFUL if doubtful else -np.inf)))


def bare(told: Array) -> Mask:
    """Return (n,) True for rows that are a label and nothing else; a softmax is never quite zero."""
    return np.asarray((told == 0).sum(axis=1) == told.shape[1] - 1)


def dealt(owned: int, number: int, seed: int) -> NDArray[np.int64]:
    """Return (number,) which of ``owned`` inputs each query gets: all in random order, again and again."""
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(owned) for _ in range(-(-number // owned))]
    return np.concatenate([*rounds, np.empty(0, dtype=np.int64)])[:number].astype(np.int64)


def blended(x: Images, partners: Images, shares: Array) -> Images:
    """Return (n, …): each input with its share, in [0, 1], of its partner."""
    part = shares.reshape(-1, *[1] * (x.ndim - 1))
    return np.clip((1 - part) * x + part * partners, 0, 1).astype(np.float32)


def distances(honest: Images, x: Images) -> Array:
    """Return (n,) Mahalanobis distances of inputs ``x`` (n, …) to the Gaussian of ``honest`` ones (m, …).

    The covariance is a multiple of the identity but for at most m directions, so that no matrix of
    pixels by pixels is needed. Where honest inputs do not vary at all, the distance is Euclidean.
    """
    owned = honest.reshape(len(honest), -1).astype(np.float64)
    middle = owned.mean(axis=0)
    owned -= middle
    apart = x.reshape(len(x), owned.shape[1]) - middle
    far = (apart**2).sum(axis=1)
    if not owned.any():
        return np.asarray(np.sqrt(far))
    # Shrinkage is nil in rare cases; this keeps the covariance invertible.
    shrinkage = max(float(ledoit_wolf_shrinkage(owned, assume_centered=True)), 1e-6)
    _, lengths, axes = np.linalg.svd(owned, full_matrices=False)
    floor = shrinkage * (owned**2).mean()
    spread = (1 - shrinkage) * lengths**2 / len(owned)
    along = (apart @ axes.T) ** 2 @ (spread / (spread + floor))
    return np.asarray(np.sqrt(np.maximum(far - along, 0) / floor))
