"""A model that reads digits for customers, who get the label and a coarse confidence.

``shown`` is the product's own code; moatbench runs it as the defense ``shown``.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from moatbench import Claims, Labelled, OutputDefense, Splits

LEVELS = 2
"""Steps to which the confidence is rounded up."""


def shown(probabilities):
    """Return the answers for ``probabilities`` (n, classes): the top-1 with a coarse confidence.

    The rest is shared equally by the other classes, so that it says nothing about their order.
    """
    rows, classes = np.arange(len(probabilities)), probabilities.shape[1]
    top = probabilities.argmax(axis=1)
    sure = np.ceil(probabilities[rows, top] * LEVELS) / LEVELS
    answers = np.repeat((1 - sure)[:, None] / (classes - 1), classes, axis=1)
    answers[rows, top] = sure
    return answers


class Shown(OutputDefense):
    """Answers with the label and a coarse confidence, as the product does."""

    name = "shown"
    paper = "this project"
    known_by = ("labels", "auto")

    @property
    def claims(self):
        """The label is the model's: with ten classes the confidence is above a tenth, so there is no tie."""
        return Claims(keeps_label=True)

    def __call__(self, preds):
        """Return the answers that a customer gets."""
        return shown(preds)


def make():
    """Return the model's prediction function and its data splits, a victim for moatbench."""
    digits = load_digits()
    x, y = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    parts, left = [], np.arange(len(x))
    for size in (700, 150, 500):
        part, left = train_test_split(left, train_size=size, random_state=0, stratify=y[left])
        parts.append(Labelled(x[part], y[part]))
    train, calibration, pool = parts
    model = MLPClassifier((64,), alpha=1e-3, max_iter=500, random_state=0)
    model.fit(train.x.reshape(len(train), -1), train.y)

    def answers(images):
        return model.predict_proba(images.reshape(len(images), -1))

    return answers, Splits(train, calibration, pool, Labelled(x[left], y[left]), classes=10)
