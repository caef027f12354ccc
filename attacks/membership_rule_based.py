"""Membership inference by being right: the gap attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from art.attacks.inference.membership_inference import MembershipInferenceBlackBoxRuleBased
from art.estimators.classification import BlackBoxClassifier

from attacks.base import Api, Array, Images, MembershipInference, RandomSeeds, Records


class MembershipRuleBased(MembershipInference):
    """ART's ``MembershipInferenceBlackBoxRuleBased``, unmodified: a member is what is labelled right.

    Needs labels only, and learns nothing: the known records are not asked about. Its accuracy on as
    many members as non-members is a half plus half of the victim's gap between training and test
    accuracy. A refused record scores .5, which says "no member".
    """

    name = "membership_rule_based"
    paper = "Yeom et al. 2018, arXiv 1709.01604, section 3.1"

    def budgets(self, listed: Sequence[int]) -> Sequence[int]:
        """Return what asking about the judged half of the records costs; for a surrogate, the listed ones."""
        return listed if self.target == "surrogate" else [self.members]

    def infer(self, api: Api, known: Records, asked: Records, streams: RandomSeeds) -> Array:
        """Return 1 for records labelled right, 0 for wrong, .5 for refused."""
        client = _Client(api, asked.x.shape[1:])
        # ART counts the classes that occur and dies where one is missing; one-hot labels are not counted.
        right = MembershipInferenceBlackBoxRuleBased(client).infer(asked.x, np.eye(api.nb_classes)[asked.y])
        return np.where(client.refused, 0.5, right.astype(np.float64))


class _Client(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """Remembers which records were refused: ART reads class 0 into NaN rows."""

    def __init__(self, api: Api, input_shape: tuple[int, ...]) -> None:
        super().__init__(predict_fn=self.predict, input_shape=input_shape, nb_classes=api.nb_classes)
        self._api = api
        self.refused = np.zeros(0, dtype=bool)

    def predict(self, x: Images, batch_size: int = 256, **_: Any) -> Array:
        answers = self._api.predict(x, batch_size=batch_size)
        self.refused = np.asarray(np.isnan(answers).any(axis=1))
        return answers
