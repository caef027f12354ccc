"""Membership inference by correct labels: the gap attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from art.attacks.inference.membership_inference import MembershipInferenceBlackBoxRuleBased
from art.estimators.classification import BlackBoxClassifier

from attacks.base import Api, Array, Images, MembershipInference, RandomSeeds, Records


class MembershipRuleBased(MembershipInference):
    """ART's ``MembershipInferenceBlackBoxRuleBased``, unmodified: correctly labelled records are members.

    Needs labels only, and learns nothing: the known records are not sent. Its accuracy on as many
    members as non-members is a half plus half of the victim's gap between training and test accuracy. A
    rejected record scores .5, which means "no member".
    """

    name = "membership_rule_based"
    paper = "Yeom et al. 2018, arXiv 1709.01604, section 3.1"

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return the queries for the evaluated half of the records; the listed budgets for a surrogate."""
        return listed if self.target == "surrogate" else [self.members]

    def infer(self, api: Api, known: Records, queried: Records, seeds: RandomSeeds) -> Array:
        """Return 1 for correctly labelled records, 0 for others, .5 for rejected ones."""
        client = _Client(api, queried.x.shape[1:])
        # ART counts the classes that occur and fails where one is missing; one-hot labels are not counted.
        right = MembershipInferenceBlackBoxRuleBased(client).infer(
            queried.x, np.eye(api.nb_classes)[queried.y]
        )
        return np.where(client.rejected, 0.5, right.astype(np.float64))


class _Client(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """Records which queries were rejected: ART reads NaN rows as class 0."""

    def __init__(self, api: Api, input_shape: tuple[int, ...]) -> None:
        super().__init__(predict_fn=self.predict, input_shape=input_shape, nb_classes=api.nb_classes)
        self._api = api
        self.rejected = np.zeros(0, dtype=bool)

    def predict(self, x: Images, batch_size: int = 256, **_: Any) -> Array:
        answers = self._api.predict(x, batch_size=batch_size)
        self.rejected = np.asarray(np.isnan(answers).any(axis=1))
        return answers
