"""Membership inference by a classifier of the answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import numpy as np
import torch
from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning

from attacks.base import Api, Array, Images, MembershipInference, RandomSeeds, Records
from bench.seeds import legacy_numpy

MAX_ITER = 1_000
"""Iterations of logistic regression, at most; scikit-learn's 100 are too few for tiny probabilities."""


class MembershipBlackBox(MembershipInference):
    """ART's ``MembershipInferenceBlackBox``: trains a model on the answers about the known records.

    ``model``: ART's "lr" (logistic regression), "nn" (512-100-64 network on the answer, 256-64 on the
    label), "rf" (random forest) or "gb" (gradient boosting). Their features are the answer as float32
    and the true label as one-hot, all standardised, as ART has them; models are scikit-learn's
    defaults but for 1,000 iterations of "lr", and "nn" takes ART's 100 epochs of batches of 100, about a
    minute for 10,000 known records. "softmax_lr" is the setup of published studies, through ART as well:
    logistic regression on the unchanged answer alone, with 1,000 iterations. Whether answer and label
    agree, and how confident an answer is, are no linear functions of them, so neither regression can use
    these: a score near chance says little. A rejected record counts as a uniform answer.
    """

    name = "membership_black_box"
    paper = "Shokri et al. 2017, arXiv 1610.05820, section V.E, without shadow models"

    def __init__(
        self,
        *,
        members: Annotated[int, Field(ge=20)] = 10_000,
        target: Literal["victim", "surrogate"] = "victim",
        model: Literal["lr", "nn", "rf", "gb", "softmax_lr"] = "lr",
    ) -> None:
        super().__init__(members=members, target=target)
        self.model = model

    def infer(self, api: Api, known: Records, queried: Records, seeds: RandomSeeds) -> Array:
        """Return (n,) probabilities of membership, by the trained model."""
        plain = self.model == "softmax_lr"
        art = MembershipInferenceBlackBox(
            api,
            attack_model_type="lr" if plain else self.model,
            scaler_type=None if plain else "standard",
        )
        if art.attack_model_type == "lr":
            art.attack_model.set_params(max_iter=MAX_ITER)
        known_answers = query_answers(api, known.x)
        labels = None if plain else known.y
        with _seeded(seeds.choices):
            art.fit(
                pred=known_answers[known.member],
                test_pred=known_answers[~known.member],
                y=None if labels is None else labels[known.member],
                test_y=None if labels is None else labels[~known.member],
            )
            scored = art.infer(
                None, y=None if plain else queried.y, pred=query_answers(api, queried.x), probabilities=True
            )
        scores: Array = np.clip(scored[:, 0].astype(np.float64), 0.0, 1.0)
        return scores


def query_answers(api: Api, x: Images) -> Array:
    """Return the answers (n, classes) to inputs (n, …), uniform where the API rejects."""
    answers = np.asarray(api.predict(x))
    return np.where(np.isnan(answers).any(axis=1, keepdims=True), 1 / answers.shape[1], answers)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators from which ART and scikit-learn draw, and restore them after."""
    with legacy_numpy(seed), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # A model stopped at its limit is still usable: only its ranking is evaluated.
        warnings.simplefilter("ignore", ConvergenceWarning)
        torch.manual_seed(seed)
        yield
