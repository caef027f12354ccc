"""Knockoff Nets: random sampling, or a bandit over the pool's classes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
from art.attacks.extraction import KnockoffNets

from attacks.base import Api, Extraction, Pool, RandomSeeds, SurrogateFactory, Target, TransferSet
from attacks.common.art_recorder import extract
from bench.seeds import random_state

Reward = Literal["cert", "div", "loss", "all"]


class Knockoff(Extraction):
    """Knockoff Nets: queries random inputs (ART's, unmodified), or lets a bandit choose their classes.

    ``sampling_strategy``: "random" is, in ART's implementation, the same algorithm as Copycat. "adaptive"
    is ART's gradient bandit with safe arithmetic: ART's own stops with NaN probabilities when an
    answer is rounded or rejected, copies the pool for every query and trains through a DataLoader. It
    learns from one-hot labels whatever the answers are, as ART's does, and draws with replacement within
    a class. ``reward``: "cert" (confidence), "div" (diversity), "loss" (disagreement), or "all".
    """

    name = "knockoff"
    paper = "Orekondy et al. 2019, arXiv 1812.02766, section 4"

    def __init__(
        self,
        *,
        sampling_strategy: Literal["random", "adaptive"] = "random",
        reward: Reward = "all",
        use_probability: bool = False,
    ) -> None:
        if sampling_strategy == "adaptive" and use_probability:
            raise ValueError(
                "use_probability=True with sampling_strategy=adaptive; it learns from labels only"
            )
        self.sampling_strategy = sampling_strategy
        self.reward = reward
        self.use_probability = use_probability

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where the bandit has no two classes to choose from."""
        if self.sampling_strategy == "adaptive" and len(np.unique(pool.y)) < 2:
            return f"pool {pool.name!r} has fewer than two classes to choose from"
        return ""

    def supply(self, size: int) -> int | None:
        """Return the pool's size for random sampling, which never repeats; None for the bandit, which may."""
        return size if self.sampling_strategy == "random" else None

    def round_trips(self, budget: int) -> int:
        """Return the budget for the bandit, which learns from each answer before the next query."""
        return min(1, budget) if self.sampling_strategy == "random" else budget

    def acquire(self, api: Api, pool: Pool, surrogates: SurrogateFactory, seeds: RandomSeeds) -> TransferSet:
        """Spend the budget; rejected queries are dropped and give the bandit no reward."""
        if self.sampling_strategy == "random":
            return extract(
                KnockoffNets,
                api,
                pool,
                seeds.order,
                sampling_strategy="random",
                verbose=False,
                use_probability=self.use_probability,
            )
        return self.query_adaptively(
            api, pool, surrogates, random_state(seeds.order), random_state(seeds.choices)
        )

    def query_adaptively(
        self,
        api: Api,
        pool: Pool,
        surrogates: SurrogateFactory,
        order: np.random.RandomState,
        choices: np.random.RandomState,
    ) -> TransferSet:
        """Run the bandit and return the transfer set: ``choices`` draws the class, ``order`` the input.

        ART draws both from one generator; passing it twice here gives ART's choices.
        """
        classes = np.unique(pool.y)
        members = [np.flatnonzero(pool.y == label) for label in classes]
        surrogate, bandit, rewards = surrogates(), Bandit(len(classes)), Rewards(self.reward, api.nb_classes)
        one_hot = np.eye(api.nb_classes)
        taken: list[int] = []
        labels: list[int] = []
        for _ in range(api.budget):
            action = sample_index(choices, bandit.probabilities)
            row = int(members[action][order.randint(len(members[action]))])
            query = pool.x[row : row + 1]
            answer = api.predict(query)[0].tolist()
            if any(map(math.isnan, answer)):
                bandit.update(action, rewards.nothing())
                continue
            label = answer.index(max(answer))
            taken.append(row)
            labels.append(label)
            surrogate.step(query, one_hot[label : label + 1])
            bandit.update(action, rewards.of(answer, surrogate.logits(query)[0].tolist()))
        targets = one_hot.astype(np.float32)[np.array(labels, dtype=np.int64)]
        return TransferSet(np.ascontiguousarray(pool.x[np.array(taken, dtype=np.int64)]), targets)


# Below are a few numbers for each query: lists are several times as fast as arrays.
# (fsum, since the result of sum depends on the version of Python.)


def sample_index(stream: np.random.RandomState, probabilities: Sequence[float]) -> int:
    """Return the same as ``stream.choice(len(probabilities), p=probabilities)``."""
    sums = list(accumulate(probabilities))
    return bisect_right([value / sums[-1] for value in sums], stream.random_sample())


class Bandit:
    """The gradient bandit of section 4.1.2, with ART's learning rate of one over an action's count."""

    def __init__(self, actions: int) -> None:
        self._preference = [0.0] * actions
        self._count = [0] * actions
        self._average = 0.0
        self._rounds = 0
        self.probabilities = [1 / actions] * actions

    def update(self, action: int, reward: float) -> None:
        """Update the preferences by the difference of the reward from the average so far."""
        self._rounds += 1
        self._average += (reward - self._average) / self._rounds
        self._count[action] += 1
        advantage = (reward - self._average) / self._count[action]
        for place, probability in enumerate(self.probabilities):
            self._preference[place] += advantage * ((place == action) - probability)
        self.probabilities = softmax(self._preference)


class Rewards:
    """ART's rewards, made safe: no log of zero, no division by a variance of zero."""

    def __init__(self, kind: Reward, classes: int) -> None:
        self._kind = kind
        self._mean_answer = [0.0] * classes
        self._mean, self._variance = [0.0] * 3, [0.0] * 3
        self._rounds = 0

    def of(self, answer: Sequence[float], logits: Sequence[float]) -> float:
        """Return the reward of one answer (a probability for each class), given the surrogate's logits."""
        self._rounds += 1
        if self._kind == "cert":
            return self._cert(answer)
        if self._kind == "div":
            return self._div(answer)
        if self._kind == "loss":
            return self._loss(answer, logits)
        return self._all((self._cert(answer), self._div(answer), self._loss(answer, logits)))

    def nothing(self) -> float:
        """Return the reward of a rejected query: no certainty, no diversity, no loss."""
        self._rounds += 1
        return self._all((0.0, 0.0, 0.0)) if self._kind == "all" else 0.0

    @staticmethod
    def _cert(answer: Sequence[float]) -> float:
        *_, second, first = sorted(answer)
        return first - second

    def _div(self, answer: Sequence[float]) -> float:
        for label, probability in enumerate(answer):
            self._mean_answer[label] += (probability - self._mean_answer[label]) / self._rounds
        return math.fsum(max(0.0, here - mean) for here, mean in zip(answer, self._mean_answer, strict=True))

    @staticmethod
    def _loss(answer: Sequence[float], logits: Sequence[float]) -> float:
        # ART takes the softmax of both sides, though the victim's answer is a distribution already.
        top = max(logits)
        log_of_sum = top + math.log(math.fsum(math.exp(value - top) for value in logits))
        return math.fsum(
            probability * (log_of_sum - logit)
            for probability, logit in zip(softmax(answer), logits, strict=True)
        )

    def _all(self, rewards: Sequence[float]) -> float:
        scaled = []
        for place, reward in enumerate(rewards):
            self._mean[place] += (reward - self._mean[place]) / self._rounds
            apart = reward - self._mean[place]
            self._variance[place] += (apart * apart - self._variance[place]) / self._rounds
            spread = math.sqrt(self._variance[place])
            scaled.append(apart / spread if spread > 0 else 0.0)
        if self._rounds == 1:
            scaled = [min(max(reward, 0.0), 1.0) for reward in rewards]
        return math.fsum(scaled) / 3


def softmax(values: Sequence[float]) -> list[float]:
    """Return the softmax; ART exponentiates preferences as they are, which overflows."""
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
