"""Evasion of OOD detectors and rate limits: queries that look in-distribution, from several accounts."""

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
from bench.encoding import Encoding
from bench.inputs import InputSpace
from bench.seeds import derive, random_state

DETECTORS = ("mahalanobis",)
"""Defenses that judge an input by its distance from benign ones."""
COUNTERS = ("rate_limit",)
"""Defenses that count the queries of each client."""
FEWEST = 20
"""Smallest number of benign inputs to which a shadow detector can be fitted."""
FPR = 0.05
"""Assumed false-positive rate of a detector whose parameters are not known."""
STEP = 0.1
"""Step of the share of benign input in a query."""
BATCH = 8
"""Smallest number of queries between two looks at the answers; else an eighth of those sent."""
TOO_MANY = 0.25
"""Share of rejections above which the share of benign input is raised."""
CHECKED = 3
"""Own inputs that are sent unchanged first: if all get one-hot answers, no detector is the reason."""
FLAT = 0.5
"""An answer whose every probability is below this may be a detector's random distribution."""

Parameters = Mapping[str, Any]
Mask = NDArray[np.bool_]


class Evade(Extraction):
    """Sends queries close to benign data, or blended with it, to pass OOD detectors and rate limits.

    ``own``: number of unlabelled inputs of the victim's distribution that the attacker owns; 0, or at
    least 20. A shadow detector is fitted to these: one Gaussian over pixels, or over the encoded columns of
    a table, its covariance shrunk as in Ledoit and Wolf 2004 ("A well-conditioned estimator for
    large-dimensional covariance matrices").
    k-means classes in place of one Gaussian evaded no better in a trial on MNIST.

    ``use_probability``: learn from whole answers; else from their top-1 alone.

    ``blend``: share in [0, 1] of an own input in each query. If 0, the inputs of the pool are sent in the
    order of their distance to benign data, nearest first. If positive, the draw that random attacks
    share is sent, each input blended with a random own one (see :func:`blended` for rows of tables):
    against an OOD detector on digits, the
    fidelity of surrogates was up to 10 percentage points higher than with the nearest own input as
    partner, and than with the blends nearest to benign data first. If None, shares are chosen: each query
    gets the smallest share that brings it under the shadow detector's threshold, and all later ones
    get more whenever more than a quarter is rejected. The threshold passes the share of own inputs
    that the detector's ``fpr`` implies; .05 is assumed where that is not known. Where only detectors
    and rate limits are known to stand, random distributions count as rejections and are dropped, and
    one-hot answers count, too, unless the first three queries, unchanged own inputs, get nothing else.
    Where it is known that there is no detector, own inputs are sent first, unchanged, and then the random
    draw.

    ``clients``: number of accounts that take turns. If None, accounts are opened as needed: with known
    parameters, when the quota of the current one is used up; else when its last answers are rejections
    and a new account gets an answer to the same input (which is one more query), and the number of
    answers so far is the quota.

    The queries of a smaller budget are the first ones of a larger budget.
    """

    name = "evade"
    paper = "Ledoit, Wolf 2004 (shadow detector); Douceur 2002, The Sybil Attack (accounts)"
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
            raise ValueError(f"own={own} is too few to fit a detector to; 0 or at least {FEWEST} is allowed")
        if own == 0 and blend:
            raise ValueError(f"blend={blend} needs inputs to blend with; own=0 leaves none")
        self.own, self.use_probability, self.blend, self.clients = own, use_probability, blend, clients

    def __repr__(self) -> str:
        """Return the call that makes this attack; ``blend`` and ``clients`` only where they are used."""
        unused = {"blend": self.blend == 0, "clients": self.clients == 1}
        spelled = [name for name in self.parameters() if not unused.get(name)]
        return format_call(self.name, {name: getattr(self, name) for name in spelled})

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where there are fewer benign inputs than ``own``."""
        there = 0 if pool.reference is None else len(pool.reference)
        if there < self.own:
            return f"own={self.own}: only {there} inputs of the victim's kind come with pool {pool.name!r}"
        return ""

    def round_trips(self, budget: int) -> int:
        """Return the budget, as an upper bound, where rejections decide how queries go on."""
        return budget if self.blend is None or self.clients is None else min(1, budget)

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on queries that look benign; on random inputs if ``own`` is 0.

        Facts: ``blended``, the mean share of own input in the queries; ``clients``, accounts used.
        """
        order = random_state(seeds.order).permutation(len(pool.x))
        accounts, detector = Accounts(api, self.clients), detector_parameters(api)
        x = pool.x
        if self.own and pool.reference is not None:
            own_inputs = pool.reference[
                random_state(seeds.choices).permutation(len(pool.reference))[: self.own]
            ]
            partners = own_inputs[deal_partners(len(own_inputs), len(x), derive(seeds.choices, "partners"))]
            encode = Encoding.fit(api.inputs, own_inputs)
            draws = column_draws(len(x), api.inputs, derive(seeds.choices, "columns"))
            if self.blend is None and detector is not None:
                sent = order[: api.budget]
                shadow = ShadowDetector.fit(own_inputs, detector.get("fpr", FPR), api.inputs)
                pairs = Pairs(x[sent], partners[: len(sent)], draws[: len(sent)], api.inputs)
                return self._acquire_adaptively(accounts, pairs, shadow, detector)
            if self.blend is None:
                order, x = np.arange(len(own_inputs) + len(x)), np.concatenate([own_inputs, x[order]])
            elif self.blend:
                x = Pairs(x, partners, draws, api.inputs).blended(np.full(len(x), self.blend))
            else:
                # Equal distances keep the seeded order, not that of a file sorted by class.
                order = order[np.argsort(distances(encode(own_inputs), encode(x))[order], kind="stable")]
        queries = x[order[: api.budget]]
        answers = accounts.query(queries)
        return self._transfer_set(
            queries[: len(answers)], answers, rejected(answers), accounts, self.blend or 0.0
        )

    def _acquire_adaptively(
        self, accounts: Accounts, pairs: Pairs, shadow: ShadowDetector, detector: Parameters
    ) -> TransferSet:
        """Send the inputs in small batches, each blended by its own share and more after many rejections."""
        x, shares = pairs.x, shadow.shares(pairs)
        # With other defenses in place, an unusual answer may be a legitimate one that they changed.
        flat_too = accounts.only_evadable and detector.get("action", "noise") == "noise"
        labels_count = accounts.only_evadable and detector.get("action", "label_only") == "label_only"
        sent, answers, dropped = [x[:0]], [np.empty((0, accounts.api.nb_classes))], [np.empty(0, dtype=bool)]
        shares[:CHECKED] = 1
        done = since = flagged = 0
        while done < len(x) and accounts.left:
            rows = slice(done, done + max(BATCH, done // BATCH))
            batch = pairs.rows(rows).blended(shares[rows])
            part = accounts.query(batch)
            bad = rejected(part, flat_too=flat_too)
            sent, answers, dropped = [*sent, batch[: len(part)]], [*answers, part], [*dropped, bad]
            labels_count = labels_count and bool(done or not is_one_hot(part[:CHECKED]).all())
            done, since = done + len(part), since + len(part)
            flagged += int((bad | is_one_hot(part) if labels_count else bad).sum())
            if flagged > max(2, TOO_MANY * since):
                shares[done:] = np.minimum(shares[done:] + STEP, 1)
                since = flagged = 0
        return self._transfer_set(
            np.concatenate(sent),
            np.concatenate(answers),
            np.concatenate(dropped),
            accounts,
            float(shares[:done].mean()),
        )

    def _transfer_set(
        self, queries: Images, answers: Array, dropped: Mask, accounts: Accounts, share: float
    ) -> TransferSet:
        targets = answers[~dropped]
        if not self.use_probability:
            targets = np.eye(answers.shape[1])[targets.argmax(axis=1)]
        facts = {"blended": share, "clients": float(len(accounts.used))}
        return TransferSet(np.ascontiguousarray(queries[~dropped]), targets.astype(np.float32), facts=facts)


@dataclass(frozen=True)
class Pairs:
    """Inputs ``x`` (n, …) of the pool, and an own input for each, ``partners`` (n, …), to blend it with.

    ``draws``: (n, columns) in [0, 1), see :func:`blended`; ``inputs``: what queries may be.
    """

    x: Images
    partners: Images
    draws: Array
    inputs: InputSpace

    def rows(self, which: slice) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.x[which], self.partners[which], self.draws[which], self.inputs)

    def blended(self, shares: Array) -> Images:
        """Return each input blended with its partner by its share (n,) in [0, 1]."""
        return blended(self.x, self.partners, shares, self.inputs, self.draws)


class Accounts:
    """The attacker's client accounts, which share a budget.

    ``clients``: number of accounts that take turns; None to open them as needed.
    """

    def __init__(self, api: Api, clients: int | None) -> None:
        self.api, self.left, self.used = api, api.budget, {0}
        self.only_evadable = api.known is not None and all(
            defense.name in DETECTORS + COUNTERS for defense in api.known
        )
        counters = [defense.parameters for defense in api.known or () if defense.name in COUNTERS]
        quotas = [own["limit"] for own in counters if own is not None and own["limit"] < own["window"]]
        self._watches = api.known is None or None in counters
        self._quota: int | None = min(quotas, default=None)
        self._turns, self._sent, self._account, self._queried = clients, 0, 0, 0

    def query(self, x: Images) -> Array:
        """Return the answers to ``x`` (n, …), NaN rows where rejected; fewer rows where the budget ends."""
        if self._turns is None:
            return self._query_unlimited(x)
        x = x[: self.left]
        answers = np.empty((len(x), self.api.nb_classes))
        for turn in range(min(self._turns, len(x))):
            own = slice(turn, None, self._turns)
            answers[own] = self._predict(x[own], (self._sent + turn) % self._turns)
        self._sent += len(x)
        return answers

    def _query_unlimited(self, x: Images) -> Array:
        answers = np.empty((len(x), self.api.nb_classes))
        done = 0
        while done < len(x) and self.left:
            if self._quota is not None and self._queried >= self._quota:
                self._open_account()
            room = len(x)
            if self._quota is not None:
                room = self._quota - self._queried
            elif self._watches:
                room = max(BATCH, self._queried // BATCH)
            part = x[done : done + min(room, self.left)]
            answers[done : done + len(part)] = self._predict(part, self._account)
            self._queried += len(part)
            done += len(part)
            if self._quota is None and self._watches:
                self._find_quota(part, answers[done - len(part) : done])
        return answers[:done]

    def _find_quota(self, part: Images, answers: Array) -> None:
        """Find out whether rejections at the end of a batch are due to a quota, and store it."""
        answered = np.flatnonzero(~rejected(answers))
        first = int(answered[-1]) + 1 if len(answered) else 0
        if first == len(answers) or not self.left:
            return
        served = self._queried - (len(answers) - first)
        self._open_account()
        answers[first] = self._predict(part[first : first + 1], self._account)[0]
        self._queried = 1
        if served and not rejected(answers[first : first + 1])[0]:
            self._quota = served

    def _open_account(self) -> None:
        self._account, self._queried = self._account + 1, 0

    def _predict(self, x: Images, account: int) -> Array:
        self.left -= len(x)
        self.used.add(account)
        return self.api.predict(x, client=f"attacker-{account}" if account else "attacker")


@dataclass(frozen=True)
class ShadowDetector:
    """A detector fitted by the attacker: the Gaussian of ``benign`` inputs, and a threshold of distance."""

    benign: Images
    threshold: float
    encode: Encoding

    @classmethod
    def fit(cls, own_inputs: Images, fpr: float, inputs: InputSpace) -> ShadowDetector:
        """Return a detector fitted to half of the inputs (m, …); the other half gives its threshold."""
        encode = Encoding.fit(inputs, own_inputs)
        benign, held_out = own_inputs[::2], own_inputs[1::2]
        return cls(benign, float(np.quantile(distances(encode(benign), encode(held_out)), 1 - fpr)), encode)

    def shares(self, pairs: Pairs) -> Array:
        """Return (n,) the smallest share of its partner that brings each input under the threshold."""
        found = np.ones(len(pairs.x))
        for share in STEP * np.arange(round(1 / STEP) - 1, -1, -1):
            tried = pairs.blended(np.full(len(found), share))
            near = distances(self.encode(self.benign), self.encode(tried)) <= self.threshold
            found[near] = share
        return found


def detector_parameters(api: Api) -> Parameters | None:
    """Return the known parameters of the detector; None where it is known that there is none."""
    if api.known is None:
        return {}
    return next((defense.parameters or {} for defense in api.known if defense.name in DETECTORS), None)


def rejected(answers: Array, *, flat_too: bool = False) -> Mask:
    """Return (n,) True for rows of NaN; if ``flat_too``, also for rows that may be random distributions."""
    return np.asarray(~(answers.max(axis=1) >= (FLAT if flat_too else -np.inf)))


def is_one_hot(answers: Array) -> Mask:
    """Return (n,) True for one-hot rows; a softmax is never exactly zero."""
    return np.asarray((answers == 0).sum(axis=1) == answers.shape[1] - 1)


def deal_partners(owned: int, number: int, seed: int) -> NDArray[np.int64]:
    """Return (number,) indices of the own inputs that queries get: ``owned`` in random order, repeatedly."""
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(owned) for _ in range(-(-number // owned))]
    return np.concatenate([*rounds, np.empty(0, dtype=np.int64)])[:number].astype(np.int64)


def column_draws(number: int, inputs: InputSpace, seed: int) -> Array:
    """Return (number, columns) in [0, 1), which :func:`blended` takes; no columns where there is no table."""
    return np.random.default_rng(seed).random((number, len(inputs.columns)))


def blended(x: Images, partners: Images, shares: Array, inputs: InputSpace, draws: Array) -> Images:
    """Return (n, …), each input blended with its partner by its share in [0, 1].

    Categories and booleans of a table have no mean, and neither has a missing value: these are the
    partner's where their draw is below the share. A larger share so leaves no value to ``x`` that a smaller
    one gave to the partner.
    """
    part = shares.reshape(-1, *[1] * (x.ndim - 1))
    mixed = (1 - part) * x + part * partners
    if inputs.columns:
        classed = np.array([each.kind in ("boolean", "category") for each in inputs.columns])
        mixed = np.where(classed | np.isnan(mixed), np.where(draws < part, partners, x), mixed)
    return inputs.project(mixed)


def distances(benign: Images, x: Images) -> Array:
    """Return (n,) Mahalanobis distances of inputs ``x`` (n, …) to the Gaussian of ``benign`` ones (m, …).

    Both are encoded (:class:`bench.encoding.Encoding`): columns of a table have units that do not compare.

    The covariance is a multiple of the identity except in at most m directions, so that no matrix of
    pixels by pixels is needed. Where benign inputs do not vary, the distance is Euclidean.
    """
    owned = benign.reshape(len(benign), -1).astype(np.float64)
    middle = owned.mean(axis=0)
    owned -= middle
    apart = x.reshape(len(x), owned.shape[1]) - middle
    far = (apart**2).sum(axis=1)
    if not owned.any():
        return np.asarray(np.sqrt(far))
    # Shrinkage is 0 in rare cases; this keeps the covariance invertible.
    shrinkage = max(float(ledoit_wolf_shrinkage(owned, assume_centered=True)), 1e-6)
    _, lengths, axes = np.linalg.svd(owned, full_matrices=False)
    floor = shrinkage * (owned**2).mean()
    spread = (1 - shrinkage) * lengths**2 / len(owned)
    along = (apart @ axes.T) ** 2 @ (spread / (spread + floor))
    return np.asarray(np.sqrt(np.maximum(far - along, 0) / floor))
