"""Runs ART's extraction attacks unmodified: records the transfer set in place of the model they train."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from attacks.base import Api, Array, Images, Pool, TransferSet
from bench.seeds import legacy_numpy


class Recorder(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """ART's ``thieved_classifier``, and the client through which the attack queries.

    ``predict`` passes queries on and records which were rejected (NaN rows): an attack that takes the
    argmax would read them as class 0. ``fit`` keeps the transfer set instead of training.
    """

    def __init__(self, api: Api, input_shape: tuple[int, ...]) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=input_shape,
            nb_classes=api.nb_classes,
        )
        self._api = api
        self._answered: list[NDArray[np.bool_]] = []
        self._transfer_set: TransferSet | None = None

    def predict(self, x: Images, batch_size: int = 256, **_: Any) -> Array:
        """Return the API's answers."""
        answers = self._api.predict(x, batch_size=batch_size)
        answered = np.asarray(np.isfinite(answers).all(axis=1))
        self._answered.append(answered)
        return answers

    def fit(self, x: Images, y: Array, **_: Any) -> None:
        """Keep the queries in the order they were sent, rejected ones dropped."""
        answered = np.concatenate(self._answered)
        self._transfer_set = TransferSet(
            np.ascontiguousarray(x[answered], dtype=np.float32),
            np.ascontiguousarray(y[answered], dtype=np.float32),
        )

    @property
    def transfer_set(self) -> TransferSet:
        """The transfer set; raises RuntimeError if the attack never trained."""
        if self._transfer_set is None:
            raise RuntimeError("the attack never called fit, so there is no transfer set")
        return self._transfer_set


def extract(attack: Any, api: Api, pool: Pool, order: int, **parameters: Any) -> TransferSet:
    """Run an attack class of ART, unmodified, on the whole budget, and return the transfer set.

    ``order`` seeds NumPy's global generator, from which ART draws, for as long as the attack runs.
    """
    recorder = Recorder(api, pool.x.shape[1:])
    art_attack = attack(
        recorder, batch_size_query=api.budget, nb_epochs=1, nb_stolen=api.budget, **parameters
    )
    with legacy_numpy(order):
        art_attack.extract(pool.x, thieved_classifier=recorder)
    return recorder.transfer_set
