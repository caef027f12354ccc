"""scikit-learn models as surrogates, for an attacker without a training loop of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import TransferSet
from bench.encoding import Encoding
from bench.inputs import InputSpace

Images = NDArray[np.float32]
Array = NDArray[np.float64]

ESTIMATORS = ("sklearn-logistic", "sklearn-mlp", "sklearn-tree", "sklearn-forest", "sklearn-boosting")
"""Surrogates by scikit-learn, trained with the library's own hyperparameters."""
MIN_WEIGHT = 1e-3
"""Entries of an answer below this give no training row."""


def fit_estimator(
    name: str, transfer_set: TransferSet, classes: int, seed: int, inputs: InputSpace | None = None
) -> Callable[[Images], Array]:
    """Fit one of :data:`ESTIMATORS` on a transfer set; return a function to its (n, classes) probabilities.

    ``inputs``: what inputs may be; None for images in [0, 1]. Others are encoded
    (:class:`bench.encoding.Encoding`), as the transfer set implies.

    These models are trained on labels, not distributions. So an answer becomes one row for each class with
    the entry as its weight, which has the same expected log-likelihood; a label stays one row. An empty
    transfer set gives constant uniform answers, and one with a single class that class.
    """
    encoding = Encoding.fit(inputs or InputSpace(transfer_set.x.shape[1:]), transfer_set.x)
    x, labels, weights = weighted_rows(transfer_set, encoding)
    seen = np.unique(labels)
    if len(seen) < 2:
        constant = np.full(classes, 1 / classes) if not len(seen) else np.eye(classes)[seen[0]]
        return lambda x: np.tile(constant, (len(x), 1))
    model = _model(name, seed)
    with warnings.catch_warnings():
        # A surrogate stopped at max_iter is a surrogate like any other.
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels, sample_weight=weights)

    def answer(x: Images) -> Array:
        probabilities = np.zeros((len(x), classes))
        if len(x):
            probabilities[:, model.classes_] = model.predict_proba(encoding.flat(x))
        return probabilities

    return answer


def weighted_rows(transfer_set: TransferSet, encoding: Encoding) -> tuple[Array, NDArray[np.int64], Array]:
    """Return encoded, flattened inputs, labels and weights: a row for every entry of :data:`MIN_WEIGHT`."""
    y = np.maximum(transfer_set.y.astype(np.float64), 0)
    rows, labels = np.nonzero(y >= MIN_WEIGHT)
    return encoding.flat(transfer_set.x)[rows], labels.astype(np.int64), y[rows, labels]


def _model(name: str, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    if name == "sklearn-logistic":
        return LogisticRegression(max_iter=300)
    if name == "sklearn-mlp":
        return MLPClassifier((100,), max_iter=200, random_state=seed % 2**32)
    if name == "sklearn-forest":
        return RandomForestClassifier(random_state=seed % 2**32)
    if name == "sklearn-boosting":
        # Early stopping would hold out a tenth of what the attacker has bought.
        return HistGradientBoostingClassifier(early_stopping=False, random_state=seed % 2**32)
    return DecisionTreeClassifier(min_samples_leaf=2, random_state=seed % 2**32)
