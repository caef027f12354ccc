"""Asking again: the same inputs several times, and the mean of what was said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, Array, Extraction, Images, Pool, RandomSeeds, SurrogateFactory, TransferSet
from bench.seeds import derive, random_state

Counts = NDArray[np.int64]
Labels = NDArray[np.int64]

PROBES = 4
"""Inputs that are asked a second time to see whether answers change, at most."""
PROBE_SHARE = 0.04
"""Share of the budget that these may cost."""
TIMES = (1, 2, 4, 8)
"""How often an input is asked on average, in the plans that are compared."""
REHEARSALS = 3
"""How often each plan is rehearsed."""
EFFORT = 0.3
"""Share of the training rule's steps that a rehearsal takes."""
MARGIN = 0.05
"""By how much of all judged labels a plan must beat the one with most inputs."""
FEWEST = 5
"""Inputs for each class that a plan with repeats must leave."""
HELD_OUT = 0.25
"""Share of the pool that rehearsals are judged on, at least; of more than JUDGED inputs, the first."""
JUDGED = 2_000
SAME = 1e-6
"""Answers that differ by less are equal: a model's last bits may depend on the batch."""


class Average(Extraction):
    """Sends each input as often as pays, and learns from the mean of its answers; repeats are paid for.

    ``use_probability``: average whole answers; else count votes, so that a target is the share of
    the answers that had each class on top.

    Whether answers change is found out by asking a few inputs twice; a thief who knows that there is
    no defense asks nothing. Against answers that do not change nothing more is repeated, and what the
    pool cannot use of a budget stays unspent. Else the thief rehearses: he steals the labels of his
    *own* pool, behind noise as strong as that of the repeated answers, by plans that ask one, two,
    four or eight times about an input and cost the same. He follows the plan of the best copy, and
    that with most inputs unless another is clearly better: repeats pay only where noise is strong or
    inputs are scarce. Rehearsals cost no query. A probe may cost four hundredths of the budget, so
    that below 25 queries nothing is repeated unless the pool is exhausted.

    Inputs are first asked in the order of the draw that random attacks share. The plan depends on the
    budget, so what a smaller budget buys need not be the beginning of what a larger one buys.
    """

    name = "average"
    paper = "Sheng, Provost, Ipeirotis 2008, Get another label? (KDD), sections 3 and 4"
    knowledge = ("none", "family", "full")

    row_by_row = False
    prefix = False

    def __init__(self, *, use_probability: bool = True) -> None:
        self.use_probability = use_probability

    def supply(self, size: int) -> int | None:
        """Return None: where the pool is exhausted, what is left goes into repeats."""
        return None

    def acquire(self, api: Api, pool: Pool, learner: SurrogateFactory, streams: RandomSeeds) -> TransferSet:
        """Spend the budget on new inputs and repeats; a row for each input that was answered.

        Facts: ``repeated``, how many of the queries were repeats.
        """
        order = random_state(streams.order).permutation(len(pool.x))
        ledger = Ledger(api, pool.x[order])
        if probed(ledger):
            plans = [evenly(number, api.budget) for number in numbers(api, len(order))]
            best = rehearsed(plans, strength(ledger), pool.y[order], self, learner, pool.x[order], streams)
            ledger.ask(plans[best])
        else:
            ledger.ask(np.ones(len(order), dtype=np.int64))
        return ledger.transfer_set(votes=not self.use_probability)


class Ledger:
    """What was asked and what was told: of the inputs ``x`` (n, …), in the order in which they are sent."""

    def __init__(self, api: Api, x: Images) -> None:
        self.api, self.x, self.left = api, x, api.budget
        self.asked = np.zeros(len(x), dtype=np.int64)
        self.rounds: list[tuple[Counts, Array]] = []

    def ask(self, wanted: Counts) -> None:
        """Ask the first inputs until each was asked ``wanted`` times, in rounds, or nothing is left."""
        for again in range(int(wanted.max(initial=0))):
            rows = np.flatnonzero((wanted > again) & (self.asked[: len(wanted)] <= again))[: self.left]
            if len(rows):
                self.rounds.append((rows, self.api.predict(self.x[rows])))
                self.asked[rows] += 1
                self.left -= len(rows)

    def transfer_set(self, *, votes: bool) -> TransferSet:
        """Return the mean answer, or share of ``votes``, for each input that was answered at all."""
        classes = self.api.nb_classes
        total, times = np.zeros((len(self.x), classes)), np.zeros(len(self.x), dtype=np.int64)
        for rows, told in self.rounds:
            answered = np.isfinite(told).all(axis=1)
            total[rows[answered]] += voted(told[answered]) if votes else told[answered]
            times[rows[answered]] += 1
        kept = times > 0
        means = (total[kept] / times[kept, None]).astype(np.float32)
        repeated = float(np.maximum(self.asked - 1, 0).sum())
        return TransferSet(np.ascontiguousarray(self.x[kept]), means, facts={"repeated": repeated})


def voted(answers: Array) -> Array:
    """Return one-hot rows of the top-1 of ``answers`` (n, classes); ties go to the lowest class."""
    return np.asarray(np.eye(answers.shape[1])[answers.argmax(axis=1)])


def numbers(api: Api, size: int) -> list[int]:
    """Return how many inputs of ``size`` the plans ask about, most first."""
    most = min(api.budget, size)
    fewer = {min(api.budget // times, size) for times in TIMES}
    return [most, *sorted((n for n in fewer if FEWEST * api.nb_classes <= n < most), reverse=True)]


def evenly(number: int, total: int) -> Counts:
    """Return (number,) how often each input is asked: ``total`` times together, the first ones more."""
    counts = np.full(number, total // number)
    counts[: total % number] += 1
    return counts


def probed(ledger: Ledger) -> bool:
    """Ask an eighth of what the budget allows, a few of these twice; return whether answers change."""
    budget, size = ledger.left, len(ledger.x)
    if ledger.api.known == ():
        return False
    # Where the pool is exhausted, a repeat costs nothing that could be had for it.
    number = min(PROBES, size, max(int(PROBE_SHARE * budget), budget - size))
    if number < 1:
        return False
    ledger.ask(np.ones(max(number, min(size, budget // max(TIMES))), dtype=np.int64))
    ledger.ask(np.full(number, 2))
    return bool((np.abs(differences(ledger)) > SAME).any())


def differences(ledger: Ledger) -> Array:
    """Return (m, classes): the first answer less the second, where an input was answered twice."""
    (rows, first), (again, second) = ledger.rounds
    both = first[np.searchsorted(rows, again)] - second
    return np.asarray(both[np.isfinite(both).all(axis=1)])


def strength(ledger: Ledger) -> tuple[float, Array]:
    """Return how much of an answer is the model's, in (0, 1], and (m, classes) examples of the noise.

    By moments: an answer is a part ``a`` of the one-hot label, uniform in the rest, and noise. What
    answers to different inputs vary beyond the noise is a² (1 - 1 / classes).
    """
    noise = differences(ledger) / np.sqrt(2)
    first = ledger.rounds[0][1]
    first = first[np.isfinite(first).all(axis=1)]
    total = ((first - first.mean(axis=0)) ** 2).sum() / max(1, len(first) - 1)
    beyond = total - (noise**2).sum(axis=1).mean()
    return float(np.sqrt(np.clip(beyond / (1 - 1 / first.shape[1]), 0.01, 1))), noise


def rehearsed(
    plans: Sequence[Counts],
    met: tuple[float, Array],
    y: Labels,
    attack: Average,
    learner: SurrogateFactory,
    x: Images,
    streams: RandomSeeds,
) -> int:
    """Return which of ``plans`` steals the pool's own labels ``y`` best, behind the noise that was met.

    Where a plan would leave too few inputs to judge on, all plans shrink alike.
    """
    part, noise = met
    classes = noise.shape[1]
    shrink = min(1.0, (1 - HELD_OUT) * len(x) / len(plans[0]))
    small = [evenly(max(1, int(shrink * len(plan))), max(1, int(shrink * plan.sum()))) for plan in plans]
    most = len(small[0])
    judged = slice(most, most + JUDGED)
    if len(plans) == 1 or most == len(x):
        return 0
    labels = np.unique(y, return_inverse=True)[1] % classes
    truth = np.eye(classes)[labels] * part + (1 - part) / classes
    rng = np.random.default_rng(derive(streams.choices, "rehearsal"))
    sets = []
    for _ in range(REHEARSALS):
        for plan in small:
            told = np.zeros((len(plan), classes))
            for again in range(int(plan.max())):
                rows = plan > again
                answers = noisy(truth[: len(plan)][rows], noise, rng)
                told[rows] += answers if attack.use_probability else voted(answers)
            sets.append((x[: len(plan)], told / plan[:, None]))
    copies = learner.fit(sets, EFFORT)
    right = np.array([(copy(x[judged]).argmax(axis=1) == labels[judged]).mean() for copy in copies])
    scores = right.reshape(REHEARSALS, len(plans)).mean(axis=0)
    best = int(scores.argmax())
    return best if scores[best] > scores[0] + MARGIN else 0


def noisy(answers: Array, noise: Array, rng: np.random.Generator) -> Array:
    """Return ``answers`` (n, classes) with examples of ``noise``, its signs and classes drawn anew."""
    drawn = noise[rng.integers(len(noise), size=len(answers))] * rng.choice((-1, 1), (len(answers), 1))
    told = np.clip(answers + rng.permuted(drawn, axis=1), 0, None)
    total = told.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, told / np.where(total > 0, total, 1), 1 / answers.shape[1]))
