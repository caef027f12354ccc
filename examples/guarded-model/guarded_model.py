"""A model that reads digits for other people, and what it tells them: the label and how sure it is, roughly.

``shown`` is the product's own code; moatbench runs it as the defense ``shown``.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from moatbench import Claims, Labelled, OutputDefense, Splits

LEVELS = 2
"""Steps in which the confidence is told."""


def shown(probabilities):
    """Return what a customer sees of ``probabilities`` (n, classes): the top-1 with a coarse confidence.

    The rest is spread evenly, so that it says nothing of the runners-up.
    """
    rows, classes = np.arange(len(probabilities)), probabilities.shape[1]
    top = probabilities.argmax(axis=1)
    sure = np.ceil(probabilities[rows, top] * LEVELS) / LEVELS
    told = np.repeat((1 - sure)[:, None] / (classes - 1), classes, axis=1)
    told[rows, top] = sure
    return told


class Shown(OutputDefense):
    """Answers as the product gives them."""

    name = "shown"
    paper = "this project"
    known_by = ("labels", "auto")

    @property
    def claims(self):
        """The label is the model's; a confidence of a tenth would tie, which ten classes never have."""
        return Claims(keeps_label=True)

    def __call__(self, preds):
        """Return what a customer sees."""
        return shown(preds)


def make():
    """Return the model and its data, as moatbench wants a victim."""
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
