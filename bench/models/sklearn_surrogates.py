"""scikit-learn models as surrogates, for an attacker without a training loop of their own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import TransferSet

Images = NDArray[np.float32]
Array = NDArray[np.float64]

ESTIMATORS = ("sklearn-logistic", "sklearn-mlp", "sklearn-tree")
"""Surrogates by scikit-learn, trained with the library's own hyperparameters."""
MIN_WEIGHT = 1e-3
"""Entries of an answer below this give no training row."""


def fit_estimator(name: str, transfer_set: TransferSet, classes: int, seed: int) -> Callable[[Images], Array]:
    """Fit one of :data:`ESTIMATORS` on a transfer set; return a function to its (n, classes) probabilities.

    These models are trained on labels, not distributions. So an answer becomes one row for each class with
    the entry as its weight, which has the same expected log-likelihood; a label stays one row. An empty
    transfer set gives constant uniform answers, and one with a single class that class.
    """
    x, labels, weights = weighted_rows(transfer_set)
    seen = np.unique(labels)
    if len(seen) < 2:
        constant = np.full(classes, 1 / classes) if not len(seen) else np.eye(classes)[seen[0]]
        return lambda inputs: np.tile(constant, (len(inputs), 1))
    model = _model(name, seed)
    with warnings.catch_warnings():
        # A surrogate stopped at max_iter is a surrogate like any other.
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels, sample_weight=weights)

    def answer(inputs: Images) -> Array:
        probabilities = np.zeros((len(inputs), classes))
        if len(inputs):
            probabilities[:, model.classes_] = model.predict_proba(_flat(inputs))
        return probabilities

    return answer


def weighted_rows(transfer_set: TransferSet) -> tuple[Array, NDArray[np.int64], Array]:
    """Return flattened inputs, labels and weights: a row for every entry of at least :data:`MIN_WEIGHT`."""
    y = np.maximum(transfer_set.y.astype(np.float64), 0)
    rows, labels = np.nonzero(y >= MIN_WEIGHT)
    return _flat(transfer_set.x)[rows], labels.astype(np.int64), y[rows, labels]


def _flat(x: Images) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)


def _model(name: str, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    if name == "sklearn-logistic":
        return LogisticRegression(max_iter=300)
    if name == "sklearn-mlp":
        return MLPClassifier((100,), max_iter=200, random_state=seed % 2**32)
    return DecisionTreeClassifier(min_samples_leaf=2, random_state=seed % 2**32)
