"""Knockoff Nets: random sampling, or a bandit over the pool's classes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from art.attacks.extraction import KnockoffNets
from numpy.typing import NDArray

from attacks.base import Api, Array, Extraction, LearnerFactory, Pool, Streams, Target, TransferSet
from attacks.recorder import extract
from bench.seeds import random_state

Reward = Literal["cert", "div", "loss", "all"]


class Knockoff(Extraction):
    """Knockoff Nets with ``sampling_strategy`` random (ART's, unmodified) or adaptive.

    ``random`` is, as ART wrote it, the same algorithm as Copycat. ``adaptive`` is ART's gradient
    bandit with its arithmetic made safe: ART's own stops with NaN probabilities when an answer is
    rounded or refused, copies the pool for every query and trains through a DataLoader. It learns
    from one-hot labels whatever it is told, as ART's does, and draws with replacement within a
    class. ``reward``: "cert" (confidence), "div" (diversity), "loss" (disagreement), or "all".
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
        """Return the pool's size for the random draw, which never repeats; None for the bandit, which may."""
        return size if self.sampling_strategy == "random" else None

    def acquire(self, api: Api, pool: Pool, learner: LearnerFactory, streams: Streams) -> TransferSet:
        """Spend the budget; refused queries teach nothing and earn the bandit nothing."""
        if self.sampling_strategy == "random":
            return extract(
                KnockoffNets,
                api,
                pool,
                streams.order,
                sampling_strategy="random",
                verbose=False,
                use_probability=self.use_probability,
            )
        return self.buy_adaptively(
            api, pool, learner, random_state(streams.order), random_state(streams.choices)
        )

    def buy_adaptively(
        self,
        api: Api,
        pool: Pool,
        learner: LearnerFactory,
        order: np.random.RandomState,
        choices: np.random.RandomState,
    ) -> TransferSet:
        """Run the bandit: ``choices`` draws the class, ``order`` the input within it.

        ART draws both from one generator; passing it twice here gives ART's choices.
        """
        classes = np.unique(pool.y)
        members = [np.flatnonzero(pool.y == label) for label in classes]
        student, bandit, rewards = learner(), Bandit(len(classes)), Rewards(self.reward, api.nb_classes)
        one_hot = np.eye(api.nb_classes)
        taken: list[int] = []
        labels: list[int] = []
        for _ in range(api.budget):
            action = drawn(choices, bandit.probabilities)
            row = int(members[action][order.randint(len(members[action]))])
            query = pool.x[row : row + 1]
            answer = api.predict(query)[0]
            if np.isnan(answer).any():
                bandit.update(action, rewards.nothing())
                continue
            label = int(answer.argmax())
            taken.append(row)
            labels.append(label)
            student.step(query, one_hot[label : label + 1])
            bandit.update(action, rewards.of(answer, student.logits(query)[0]))
        targets = one_hot.astype(np.float32)[np.array(labels, dtype=np.int64)]
        return TransferSet(np.ascontiguousarray(pool.x[np.array(taken, dtype=np.int64)]), targets)


def drawn(stream: np.random.RandomState, probabilities: Array) -> int:
    """Return what ``stream.choice(len(probabilities), p=probabilities)`` would, without its checks."""
    sums = probabilities.cumsum()
    return int((sums / sums[-1]).searchsorted(stream.random_sample(), side="right"))


class Bandit:
    """The gradient bandit of section 4.1.2, with ART's learning rate of one over an action's count."""

    def __init__(self, actions: int) -> None:
        self._preference = np.zeros(actions)
        self._count = np.zeros(actions)
        self._average = 0.0
        self._rounds = 0
        self.probabilities: Array = np.ones(actions) / actions

    def update(self, action: int, reward: float) -> None:
        """Move the preferences by how much the reward beats the average so far."""
        self._rounds += 1
        self._average += (reward - self._average) / self._rounds
        self._count[action] += 1
        advantage = (reward - self._average) / self._count[action]
        chosen = np.zeros_like(self._preference)
        chosen[action] = 1.0
        self._preference += advantage * (chosen - self.probabilities)
        # ART exponentiates the preferences as they are, which overflows; this is the same softmax.
        weights = np.exp(self._preference - self._preference.max())
        self.probabilities = weights / weights.sum()


class Rewards:
    """ART's rewards, made safe: no log of zero, no division by a variance of zero."""

    def __init__(self, kind: Reward, classes: int) -> None:
        self._kind = kind
        self._mean_answer = np.zeros(classes)
        self._mean, self._variance = [0.0] * 3, [0.0] * 3
        self._rounds = 0

    def of(self, answer: Array, logits: NDArray[np.float32]) -> float:
        """Return the reward of one answer (classes,) given the student's logits (classes,)."""
        self._rounds += 1
        if self._kind == "cert":
            return self._cert(answer)
        if self._kind == "div":
            return self._div(answer)
        if self._kind == "loss":
            return self._loss(answer, logits)
        return self._all((self._cert(answer), self._div(answer), self._loss(answer, logits)))

    def nothing(self) -> float:
        """Return the reward of a refusal: no certainty, no diversity, no loss."""
        self._rounds += 1
        return self._all((0.0, 0.0, 0.0)) if self._kind == "all" else 0.0

    @staticmethod
    def _cert(answer: Array) -> float:
        *_, second, first = sorted(answer.tolist())
        return float(first - second)

    def _div(self, answer: Array) -> float:
        self._mean_answer += (answer - self._mean_answer) / self._rounds
        return float(np.add.reduce(np.maximum(0.0, answer - self._mean_answer)))

    @staticmethod
    def _loss(answer: Array, logits: NDArray[np.float32]) -> float:
        # ART takes the softmax of both sides, though the victim's answer is a distribution already.
        told = np.exp(answer)
        told /= np.add.reduce(told)
        believed = logits.astype(np.float64)
        believed -= believed.max()
        believed -= np.log(np.add.reduce(np.exp(believed)))
        return -float(np.add.reduce(told * believed))

    def _all(self, rewards: tuple[float, float, float]) -> float:
        # Three numbers each: plain ones take a tenth of the time of arrays.
        scaled = []
        for place, reward in enumerate(rewards):
            self._mean[place] += (reward - self._mean[place]) / self._rounds
            apart = reward - self._mean[place]
            self._variance[place] += (apart * apart - self._variance[place]) / self._rounds
            spread = math.sqrt(self._variance[place])
            scaled.append(apart / spread if spread > 0 else 0.0)
        if self._rounds == 1:
            scaled = [min(max(reward, 0.0), 1.0) for reward in rewards]
        return sum(scaled) / 3
