"""Defenses with a mistake in them, as one might slip into a change; tests load this as a file."""

import hashlib

import numpy as np

from defenses.base import as_distributions
from defenses.gaussian_noise import GaussianNoise
from defenses.label_only import LabelOnly
from moatbench import Answers, Claims, OutputDefense, predicates


class LeakyLabels(LabelOnly):
    """Labels that leak in the ``place`` of "order" (of the second class) or "top"; ``claimed`` as one-hot."""

    name = "leaky_labels"

    def __init__(self, *, place: str = "order", claimed: bool = False) -> None:
        super().__init__()
        self.place, self.claimed = place, claimed

    @property
    def claims(self):
        return Claims(one_hot=self.claimed)

    def __call__(self, preds):
        answers = super().__call__(preds)
        if self.place == "order":
            second = np.argsort(preds, axis=1)[:, -2]
            answers[np.arange(len(preds)), second] = 1e-4
            return answers / answers.sum(axis=1, keepdims=True)
        return np.where(answers == 1, 1 - 1e-6 * (1 - preds), answers)


class Softened(OutputDefense):
    """A softmax that claims its temperature ``claimed`` and has ``actual``."""

    name = "softened"

    def __init__(self, *, claimed: float = 2.0, actual: float = 2.0) -> None:
        super().__init__()
        self.claimed, self.actual = claimed, actual

    @property
    def predicates(self):
        return (predicates.log_odds(1 / self.claimed),)

    def __call__(self, preds):
        logs = np.log(preds.astype(np.float32)) / np.float32(self.actual)
        rows = np.exp(logs - logs.max(axis=1, keepdims=True))
        return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float64)


class StaleNoise(GaussianNoise):
    """Gaussian noise, a share ``rho`` of it from a generator seeded as ``how`` says, the rest fresh."""

    name = "stale_noise"

    def __init__(self, *, scale: float = 0.2, how: str = "fresh", rho: float = 1.0) -> None:
        super().__init__(scale=scale)
        self.how, self.rho = how, rho

    def seed_of(self, batch, row):
        number = batch.number + row
        digest = int.from_bytes(hashlib.blake2b(batch.inputs[row].tobytes(), digest_size=8).digest(), "big")
        answer = int.from_bytes(
            hashlib.blake2b(batch.probabilities[row].tobytes(), digest_size=8).digest(), "big"
        )
        return {
            "fresh": batch.row_seed(row),
            "one seed for all repeats and clients": number,
            "one seed for all repeats": int.from_bytes(batch.client.encode()[-8:], "big") + number,
            "input": batch.input_seed(row),
            "input, for all clients": digest,
            "groups of inputs": digest % 16,
            "answer": answer,
            "seed modulo 16": batch.row_seed(row) % 16,
            "number modulo 16": (batch.seed + number % 16),
            "client": batch.seed,
        }[self.how]

    def answer(self, batch):
        answers = np.empty_like(batch.probabilities)
        for row, clean in enumerate(batch.probabilities):
            stale = np.random.default_rng(self.seed_of(batch, row)).normal(size=len(clean))
            fresh = np.random.default_rng(batch.row_seed(row) + 1).normal(size=len(clean))
            noise = self.rho * stale + np.sqrt(1 - self.rho**2) * fresh
            answers[row] = np.clip(clean + self.scale * noise, 0, None)
        return Answers.of(as_distributions(answers))
