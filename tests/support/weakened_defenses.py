"""Defenses with a mistake in them, as one might slip into a change; tests load this as a file."""

import numpy as np

from defenses import predicates
from defenses.label_only import LabelOnly
from moatbench import Claims, OutputDefense


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
