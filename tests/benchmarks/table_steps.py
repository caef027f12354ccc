"""How many training steps surrogates of tables need: fidelity on adult after 500, 1,000 and 2,500 of them."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from attacks.base import TransferSet
from bench.data import data_files
from bench.encoding import Encoding
from bench.models import surrogates
from bench.models.determinism import single_thread

REPEATS = 3
"""Draws of the queries."""


def measure() -> None:
    """Print the mean fidelity over repeats, a line for each victim, number of answers and kind of answer."""
    splits = data_files.load_splits("adult", 0, data_files.data_root(None), "disjoint")
    encode = Encoding.fit(splits.inputs, splits.train.x).flat
    for victim in (HistGradientBoostingClassifier(early_stopping=False), LogisticRegression(max_iter=1000)):
        victim.fit(encode(splits.train.x), splits.train.y)
        truth = victim.predict(encode(splits.test.x))
        for number in (100, 1_000, 5_000):
            rng = np.random.default_rng(number)
            xs = [splits.pool.x[rng.permutation(len(splits.pool))[:number]] for _ in range(REPEATS)]
            soft = [victim.predict_proba(encode(x)).astype(np.float32) for x in xs]
            hard = [np.eye(2, dtype=np.float32)[y.argmax(axis=1)] for y in soft]
            for kind, ys in (("probabilities", soft), ("labels", hard)):
                sets = [TransferSet(x, y) for x, y in zip(xs, ys, strict=True)]
                found = [
                    f"{name} {fidelity(sets, name, share, splits, truth):.3f}"
                    for name in ("mlp", "logistic")
                    for share in (0.5, 1.0, 2.5)
                ]
                print(type(victim).__name__, number, kind, *found)


def fidelity(sets, name, share, splits, truth) -> float:
    """Return the mean fidelity of the surrogates trained on ``sets`` for a ``share`` of the default steps."""
    trained = surrogates.fit(
        sets, name, 2, range(1, 1 + REPEATS), None, "rule", inputs=splits.inputs, step_fraction=share
    )
    return float(np.mean([(s.probabilities(splits.test.x).argmax(axis=1) == truth).mean() for s in trained]))


if __name__ == "__main__":
    with single_thread():
        measure()
