"""Averaging: inputs are queried repeatedly, and the mean of their answers is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attacks.base import Api, Array, Extraction, Images, Pool, RandomSeeds, SurrogateFactory, TransferSet
from bench.seeds import derive, random_state

Counts = NDArray[np.int64]

PROBES = 4
"""Largest number of inputs that are queried a second time to find out whether answers are randomized."""
PROBE_SHARE = 0.04
"""Share of the budget that these may cost."""
TIMES = (1, 2, 4, 8)
"""Queries for each input, on average, in the plans that are compared."""
SIMULATIONS = 3
"""Simulations of each plan."""
EFFORT = 0.3
"""Share of the training steps that a simulation takes."""
MARGIN = 0.05
"""Accuracy by which a plan must beat the one with most inputs."""
FEWEST = 5
"""Inputs for each class that a plan with repeats must contain."""
HELD_OUT = 0.25
"""Smallest share of the pool that simulations are evaluated on; of more than JUDGED inputs, the first."""
JUDGED = 2_000
SAME = 1e-6
"""Answers that differ by less are equal: a model's last bits may depend on the batch."""


class Average(Extraction):
    """Queries inputs repeatedly where answers are randomized, and learns from the mean of their answers.

    ``use_probability``: average whole answers; else count votes, so that a target is the share of
    the answers that had each class on top.

    Whether answers are randomized is found out by querying a few inputs twice, unless it is known that
    there is no defense. If they are not, nothing more is repeated, and a budget beyond the pool's size
    stays unspent. If they are, the attack is simulated on the attacker's *own* pool and labels, with noise
    as strong as that of the repeated answers, by plans of equal cost that query an input once, twice,
    four or eight times. The plan of the best surrogate is followed, and the one with most inputs unless
    another is clearly better: repeats help only where noise is strong or inputs are scarce. Simulations
    cost no query. Probing may cost 4 % of the budget, so that below 25 queries nothing is repeated unless
    the pool is exhausted.

    Inputs are first queried in the order of the draw that random attacks share. The plan depends on the
    budget, so the queries of a smaller budget need not be the first ones of a larger budget.
    """

    name = "average"
    paper = "Sheng, Provost, Ipeirotis 2008, Get another label? (KDD), sections 3 and 4"
    knowledge = ("none", "family", "full")

    row_by_row = False
    prefix = False

    def __init__(self, *, use_probability: bool = True) -> None:
        self.use_probability = use_probability

    def supply(self, size: int) -> int | None:
        """Return None: where the pool is exhausted, the rest of the budget is spent on repeats."""
        return None

    def round_trips(self, budget: int) -> int:
        """Return two rounds that find out whether answers vary, and as many as an input may be queried."""
        return min(2 + max(TIMES), budget)

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget on new inputs and repeats; return a row for each input that was answered.

        Facts: ``repeated``, the number of queries that were repeats.
        """
        order = random_state(seeds.order).permutation(len(pool.x))
        log = QueryLog(api, pool.x[order])
        if is_randomized(log):
            plans = [even_counts(number, api.budget) for number in input_numbers(api, len(order))]
            best = best_plan(plans, noise_model(log), pool.y[order], self, surrogates, pool.x[order], seeds)
            log.query(plans[best])
        else:
            log.query(np.ones(len(order), dtype=np.int64))
        return log.transfer_set(votes=not self.use_probability)


class QueryLog:
    """Queries of the inputs ``x`` (n, …), in the order in which they are sent, and their answers."""

    def __init__(self, api: Api, x: Images) -> None:
        self.api, self.x, self.left = api, x, api.budget
        self.times = np.zeros(len(x), dtype=np.int64)
        self.rounds: list[tuple[Counts, Array]] = []

    def query(self, wanted: Counts) -> None:
        """Query the first inputs in rounds until each was queried ``wanted`` times or the budget is spent."""
        for again in range(int(wanted.max(initial=0))):
            rows = np.flatnonzero((wanted > again) & (self.times[: len(wanted)] <= again))[: self.left]
            if len(rows):
                self.rounds.append((rows, self.api.predict(self.x[rows])))
                self.times[rows] += 1
                self.left -= len(rows)

    def transfer_set(self, *, votes: bool) -> TransferSet:
        """Return the mean answer, or the share of ``votes``, for each input that was answered."""
        classes = self.api.nb_classes
        total, times = np.zeros((len(self.x), classes)), np.zeros(len(self.x), dtype=np.int64)
        for rows, answers in self.rounds:
            answered = np.isfinite(answers).all(axis=1)
            total[rows[answered]] += one_hot_votes(answers[answered]) if votes else answers[answered]
            times[rows[answered]] += 1
        kept = times > 0
        means = (total[kept] / times[kept, None]).astype(np.float32)
        repeated = float(np.maximum(self.times - 1, 0).sum())
        return TransferSet(np.ascontiguousarray(self.x[kept]), means, facts={"repeated": repeated})


def one_hot_votes(answers: Array) -> Array:
    """Return one-hot rows of the top-1 of ``answers`` (n, classes); ties go to the lowest class."""
    return np.asarray(np.eye(answers.shape[1])[answers.argmax(axis=1)])


def input_numbers(api: Api, size: int) -> list[int]:
    """Return the numbers of inputs in the plans, largest first; ``size`` is that of the pool."""
    most = min(api.budget, size)
    fewer = {min(api.budget // times, size) for times in TIMES}
    return [most, *sorted((n for n in fewer if FEWEST * api.nb_classes <= n < most), reverse=True)]


def even_counts(number: int, total: int) -> Counts:
    """Return (number,) counts that sum to ``total`` and differ by at most one, the larger ones first."""
    counts = np.full(number, total // number)
    counts[: total % number] += 1
    return counts


def is_randomized(log: QueryLog) -> bool:
    """Spend an eighth of the budget, a few inputs twice; return whether their answers differ."""
    budget, size = log.left, len(log.x)
    if log.api.known == ():
        return False
    # Where the pool is exhausted, a repeat replaces no query of a new input.
    number = min(PROBES, size, max(int(PROBE_SHARE * budget), budget - size))
    if number < 1:
        return False
    log.query(np.ones(max(number, min(size, budget // max(TIMES))), dtype=np.int64))
    log.query(np.full(number, 2))
    return bool((np.abs(differences(log)) > SAME).any())


def differences(log: QueryLog) -> Array:
    """Return (m, classes), first minus second answer of the inputs that were answered twice."""
    (rows, first), (again, second) = log.rounds
    both = first[np.searchsorted(rows, again)] - second
    return np.asarray(both[np.isfinite(both).all(axis=1)])


def noise_model(log: QueryLog) -> tuple[float, Array]:
    """Return the label's weight in an answer, in (0, 1], and (m, classes) examples of the noise.

    By moments: an answer is modelled as a × one-hot label + (1 - a) × uniform + noise. The variance of
    answers to different inputs exceeds that of the noise by a² (1 - 1 / classes).
    """
    noise = differences(log) / np.sqrt(2)
    first = log.rounds[0][1]
    first = first[np.isfinite(first).all(axis=1)]
    total = ((first - first.mean(axis=0)) ** 2).sum() / max(1, len(first) - 1)
    beyond = total - (noise**2).sum(axis=1).mean()
    return float(np.sqrt(np.clip(beyond / (1 - 1 / first.shape[1]), 0.01, 1))), noise


def best_plan(
    plans: Sequence[Counts],
    noise_met: tuple[float, Array],
    y: NDArray[np.int64],
    attack: Average,
    surrogates: SurrogateFactory,
    x: Images,
    seeds: RandomSeeds,
) -> int:
    """Return the index of the plan whose simulation gives the best surrogate of the pool's labels ``y``.

    ``noise_met``: label weight and examples of the noise, as :func:`noise_model` returns them. Where a plan
    would leave too few inputs to evaluate on, all plans are scaled down by the same factor.
    """
    part, noise = noise_met
    classes = noise.shape[1]
    shrink = min(1.0, (1 - HELD_OUT) * len(x) / len(plans[0]))
    small = [even_counts(max(1, int(shrink * len(plan))), max(1, int(shrink * plan.sum()))) for plan in plans]
    most = len(small[0])
    judged = slice(most, most + JUDGED)
    if len(plans) == 1 or most == len(x):
        return 0
    labels = np.unique(y, return_inverse=True)[1] % classes
    truth = np.eye(classes)[labels] * part + (1 - part) / classes
    rng = np.random.default_rng(derive(seeds.choices, "rehearsal"))
    sets = []
    for _ in range(SIMULATIONS):
        for plan in small:
            total = np.zeros((len(plan), classes))
            for again in range(int(plan.max())):
                rows = plan > again
                answers = with_noise(truth[: len(plan)][rows], noise, rng)
                total[rows] += answers if attack.use_probability else one_hot_votes(answers)
            sets.append((x[: len(plan)], total / plan[:, None]))
    trained = surrogates.fit(sets, EFFORT)
    right = np.array(
        [(surrogate(x[judged]).argmax(axis=1) == labels[judged]).mean() for surrogate in trained]
    )
    scores = right.reshape(SIMULATIONS, len(plans)).mean(axis=0)
    best = int(scores.argmax())
    return best if scores[best] > scores[0] + MARGIN else 0


def with_noise(answers: Array, noise: Array, rng: np.random.Generator) -> Array:
    """Return ``answers`` (n, classes) plus examples of ``noise`` with random signs and permuted classes."""
    drawn = noise[rng.integers(len(noise), size=len(answers))] * rng.choice((-1, 1), (len(answers), 1))
    answers = np.clip(answers + rng.permuted(drawn, axis=1), 0, None)
    total = answers.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, answers / np.where(total > 0, total, 1), 1 / answers.shape[1]))
