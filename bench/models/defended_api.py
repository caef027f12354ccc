"""The prediction API of a defended victim: the only object that an attack may use."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from attacks.base import Known
from bench.errors import BudgetError
from bench.models.victims import Victim
from bench.seeds import derive
from defenses.base import Answers, Batch, DefenseStack

Images = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass
class QueryAccount:
    """Counts of queries, and the wall and CPU seconds that the model and the defense took for them."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    flagged: int = 0
    seconds_model: float = 0.0
    seconds_defense: float = 0.0
    cpu_model: float = 0.0
    cpu_defense: float = 0.0


class DefendedAPI(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """A victim with its defenses, as an ART classifier that counts and limits queries.

    ``budget``: inputs that may be sent, repeated and rejected ones included; None for benign traffic.
    ``seed``: base of the defense's noise. ``shows``: "probabilities" or "labels" (one-hot answers).
    ``knowledge``: what the attacker knows of the defenses, "none", "family" or "full"; ``known`` then holds
    it (:func:`known_defenses`), or None for "none".
    """

    def __init__(
        self,
        victim: Victim,
        stack: DefenseStack,
        *,
        budget: int | None,
        seed: int,
        shows: str = "probabilities",
        knowledge: str = "none",
    ) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=victim.shape,
            nb_classes=victim.classes,
            clip_values=(0.0, 1.0),
        )
        self.budget = budget
        self.account = QueryAccount()
        self.known = None if knowledge == "none" else known_defenses(stack, parameters=knowledge == "full")
        self._victim, self._stack, self._shows = victim, stack, shows
        self._numbers: dict[str, int] = defaultdict(int)
        self._seed_of = cache(partial(derive, seed))

    def predict(self, x: Images, batch_size: int = 256, client: str = "attacker") -> Array:
        """Return (n, classes) float64 answers to queries (n, channels, height, width).

        Rows of NaN are rejected queries. ``batch_size`` is ART's and has no effect. Raises BudgetError,
        before anything is answered, if the budget does not allow all of ``x``.
        """
        return self.query(x, client).probabilities

    def query(self, x: Images, client: str) -> Answers:
        """Return answers with the defense's decisions (rejected, flagged); counts as :meth:`predict` does."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        if x.shape[1:] != self._victim.shape:
            raise ValueError(f"queries must be (n, {self._victim.shape}), got {x.shape}")
        if self.budget is not None and self.account.sent + len(x) > self.budget:
            raise BudgetError(
                f"the attack asked for {len(x)} answers with {self.budget - self.account.sent} left of a "
                f"budget of {self.budget}"
            )
        start, start_cpu = time.perf_counter(), time.process_time()
        raw = self._victim.probabilities(x)
        answered, answered_cpu = time.perf_counter(), time.process_time()
        batch = Batch(
            inputs=x,
            raw=raw,
            probabilities=raw,
            client=client,
            number=self._numbers[client],
            seed=self._seed_of(client),
            read_features=self._victim.activations if self._victim.features else None,
        )
        answers = self._stack.answer(batch)
        if self._shows == "labels":
            answers = Answers(one_hot_labels(answers.probabilities), answers.refused, answers.flagged)
        self._numbers[client] += len(x)
        account = self.account
        account.seconds_model += answered - start
        account.seconds_defense += time.perf_counter() - answered
        account.cpu_model += answered_cpu - start_cpu
        account.cpu_defense += time.process_time() - answered_cpu
        account.sent += len(x)
        refused = int(np.count_nonzero(answers.refused))
        account.refused += refused
        account.answered += len(x) - refused
        account.flagged += int(np.count_nonzero(answers.flagged))
        return answers


def known_defenses(stack: DefenseStack, *, parameters: bool) -> tuple[Known, ...]:
    """Return the defenses' names, with their ``parameters`` where asked for, in the order of the stack."""
    defenses = [defense.effective for defense in stack.defenses]
    return tuple(
        Known(each.name, {key: getattr(each, key) for key in each.parameters()} if parameters else None)
        for each in defenses
    )


def one_hot_labels(probabilities: Array) -> Array:
    """Return one-hot rows of the top-1 (the first maximum); NaN rows stay NaN."""
    refused = np.isnan(probabilities).any(axis=1)
    labels: Array = np.eye(probabilities.shape[1])[np.nan_to_num(probabilities).argmax(axis=1)]
    labels[refused] = np.nan
    return labels
