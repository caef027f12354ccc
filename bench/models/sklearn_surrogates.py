"""scikit-learn models as surrogates: what a thief without a training loop would take."""

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
"""Surrogates by scikit-learn, with the library's own recipes."""
LEAST = 1e-3
"""Smaller entries of an answer are not worth a row of their own."""


def fit_estimator(name: str, bought: TransferSet, classes: int, seed: int) -> Callable[[Images], Array]:
    """Fit one of :data:`ESTIMATORS` on a transfer set; return its (n, classes) probabilities.

    These models learn labels, not distributions. So an answer becomes a row per class with the
    entry as its weight, which has the same expected log-likelihood; labels alone stay one row each.
    Where nothing, or one class alone, was learnt, that is all the copy ever says.
    """
    x, labels, weights = weighted(bought)
    seen = np.unique(labels)
    if len(seen) < 2:
        constant = np.full(classes, 1 / classes) if not len(seen) else np.eye(classes)[seen[0]]
        return lambda inputs: np.tile(constant, (len(inputs), 1))
    model = _model(name, seed)
    with warnings.catch_warnings():
        # A thief's model stopped at its last iteration is a copy like any other.
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels, sample_weight=weights)

    def answer(inputs: Images) -> Array:
        told = np.zeros((len(inputs), classes))
        if len(inputs):
            told[:, model.classes_] = model.predict_proba(_flat(inputs))
        return told

    return answer


def weighted(bought: TransferSet) -> tuple[Array, NDArray[np.int64], Array]:
    """Return flattened inputs, labels and weights: a row for every entry of an answer that counts."""
    y = np.maximum(bought.y.astype(np.float64), 0)
    rows, labels = np.nonzero(y >= LEAST)
    return _flat(bought.x)[rows], labels.astype(np.int64), y[rows, labels]


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
