"""The API of a live target as an attack gets it: a hard budget, answers checked, every input paid for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from attacks.base import Known, Shadow, Simulation
from bench.errors import BudgetError
from bench.inputs import Array
from bench.models.defended_api import ApiClient, QueryAccount, clip_values
from bench.models.remote_victim import RemoteVictim
from bench.remote.accounts import account_of

Ask = Callable[[Array, str], NDArray[np.float64]]
"""Returns the answers (n, classes) to inputs (n, …) of an account; rows of NaN where they are refused."""


class RemoteAPI(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """A live target as an ART classifier that counts and limits queries, as DefendedAPI is for models.

    ``ask``: where answers come from. ``budget``: inputs that may be sent; BudgetError is raised before any of
    a query is sent that exceeds it. An error of ``ask`` ends the attack: it is raised again in :meth:`close`.
    """

    def __init__(self, victim: RemoteVictim, ask: Ask, *, budget: int) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=victim.shape,
            nb_classes=victim.classes,
            clip_values=clip_values(victim.inputs),
        )
        self.inputs, self.budget = victim.inputs, budget
        self.account = QueryAccount()
        self._victim, self._ask = victim, ask
        self._log: list[tuple[Array, NDArray[np.float64]]] = []
        self._failure: Exception | None = None
        self._closed = False

    def predict(self, x: Array, batch_size: int = 256, client: str = "attacker") -> NDArray[np.float64]:
        """Return (n, classes) answers to queries (n, …), inputs of the space ``inputs``; NaN where refused.

        ``batch_size`` is ART's and has no effect: the target file says how many inputs a request has.
        """
        if self._failure is not None:
            raise self._failure
        x = np.array(x, dtype=np.float32, order="C")  # a copy, since the sender may change it later
        if problem := self.inputs.problem(x):
            raise ValueError(f"queries {problem}")
        if self._closed:
            raise BudgetError("the attack has returned its result, after which the API answers nothing more")
        if self.account.sent + len(x) > self.budget:
            raise BudgetError(
                f"the attack asked for {len(x)} answers with {self.budget - self.account.sent} left of a "
                f"budget of {self.budget}"
            )
        account = account_of(self._victim.target, client)
        if not len(x):
            return np.zeros((0, self.nb_classes))
        start = time.perf_counter()
        try:
            answers = self._ask(x, account)
        except Exception as failure:
            # An attack may go on after an error; the purchase has ended all the same.
            self._failure = failure
            raise
        self.account.seconds_model += time.perf_counter() - start
        if answers.shape != (len(x), self.nb_classes):
            self._failure = ValueError(f"{len(x)} queries were answered with {answers.shape}")
            raise self._failure
        refused = int(np.count_nonzero(np.isnan(answers).any(axis=1)))
        self.account.sent += len(x)
        self.account.refused += refused
        self.account.answered += len(x) - refused
        self._victim.remember(x, answers)
        self._log.append((x, answers))
        return answers.copy()

    def simulate(self, known: Sequence[Known], shadow: Shadow) -> Simulation:
        """Return fresh instances of ``known`` defenses; nothing of the target takes part."""
        return self.client().simulate(known, shadow)

    def client(self) -> ApiClient:
        """Return the API as an attack gets it: nothing is known of any defense."""

        def send(x: Array, client: str) -> NDArray[np.float64]:
            return self.predict(x, client=client)

        return ApiClient(send, self.inputs, self.nb_classes, self.budget, None)

    def close(self) -> None:
        """Answer nothing more; raises the error of a purchase that failed before."""
        self._closed = True
        if self._failure is not None:
            raise self._failure

    def queries(self) -> tuple[Array, NDArray[np.float64]]:
        """Return all queries (n, …) in order and their answers (n, classes)."""
        none: Any = (np.zeros((0, *self._victim.shape), np.float32), np.zeros((0, self.nb_classes)))
        log = self._log or [none]
        return np.concatenate([x for x, _ in log]), np.concatenate([answers for _, answers in log])
