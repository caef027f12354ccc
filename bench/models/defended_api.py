"""The prediction API of a defended victim, and what an attack gets of it."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from art.estimators.classification import BlackBoxClassifier
from numpy.typing import NDArray

from attacks.base import Known, Shadow, Simulation
from bench.errors import BudgetError
from bench.inputs import ROUNDING, InputSpace
from bench.models.checked_stack import CheckedStack, Watch
from bench.models.simulation import SimulatedDefenses
from bench.models.victims import Victim
from bench.records import QueryCounts
from bench.seeds import derive
from defenses.base import Answers, Batch, DefenseStack

Images = NDArray[np.float32]
Array = NDArray[np.float64]

NO_DEFENSE = "no defense"
"""The knowledge, wrong or right, that there is no defense; no threat model has it."""


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

    def counts(self) -> QueryCounts:
        """Return the counts, as records have them."""
        return QueryCounts(sent=self.sent, answered=self.answered, refused=self.refused, flagged=self.flagged)


class DefendedAPI(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """A victim with its defenses, as an ART classifier that counts and limits queries.

    Each defense gets arrays of its own, and its promises are checked: a broken one raises PluginError, in the
    query or at the end, in :meth:`close`.

    ``budget``: inputs that may be sent, repeated and rejected ones included; None for benign traffic.
    ``seed``: base of the defense's noise. ``shows``: "probabilities" or "labels" (one-hot answers).
    ``knowledge``: what the attacker knows of the defenses, "none", "family" or "full"; ``known`` then holds
    it (:func:`known_defenses`), None for "none", () for :data:`NO_DEFENSE`. ``recorded``: keep what
    :meth:`queries` returns.
    ``watch``: gets what each defense answered to what (:class:`bench.models.checked_stack.CheckedStack`).
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
        recorded: bool = False,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=victim.shape,
            nb_classes=victim.classes,
            clip_values=clip_values(victim.inputs),
        )
        self.inputs, self._unit = victim.inputs, victim.inputs.unit
        self.budget = budget
        self.account = QueryAccount()
        self.known: tuple[Known, ...] | None = None
        if knowledge == NO_DEFENSE:
            self.known = ()
        elif knowledge != "none":
            self.known = known_defenses(stack, parameters=knowledge == "full")
        self._victim, self._stack, self._shows = victim, CheckedStack(stack, seed, watch), shows
        self._read_features = victim.reader()
        self._log: list[tuple[Images, Array]] | None = [] if recorded else None
        self._failure: Exception | None = None
        self._closed = False
        self._numbers: dict[str, int] = defaultdict(int)
        self._seed_of = cache(partial(derive, seed))

    def predict(self, x: Images, batch_size: int = 256, client: str = "attacker") -> Array:
        """Return (n, classes) float64 answers to queries (n, …), inputs of the space ``inputs``.

        Rows of NaN are rejected queries. ``batch_size`` is ART's and has no effect. Raises BudgetError,
        before anything is answered, if the budget does not allow all of ``x``, and ValueError for queries
        that do not belong to the space.
        """
        return self.query(x, client).probabilities

    def query(self, x: Images, client: str, *, number: int | None = None) -> Answers:
        """Return answers with the defense's decisions (rejected, flagged); counts as :meth:`predict` does.

        ``number``: the client's running number of the first query, where somebody else counts them.
        """
        if self._failure is not None:
            raise self._failure
        x = np.array(x, dtype=np.float32, order="C")  # a copy, since the sender may change it later
        if problem := self._problem(x):
            raise ValueError(f"queries {problem}")
        if self._closed:
            raise BudgetError("the attack has returned its result, after which the API answers nothing more")
        if self.budget is not None and self.account.sent + len(x) > self.budget:
            raise BudgetError(
                f"the attack asked for {len(x)} answers with {self.budget - self.account.sent} left of a "
                f"budget of {self.budget}"
            )
        if number is not None:
            self._numbers[client] = number
        try:
            answers = self._answered(x, client)
        except Exception as failure:
            # An attack may go on after an error; the cell fails all the same.
            self._failure = failure
            raise
        if self._log is not None:
            self._log.append((x, answers.probabilities.copy()))
        self._numbers[client] += len(x)
        account, refused = self.account, int(np.count_nonzero(answers.refused))
        account.sent += len(x)
        account.refused += refused
        account.answered += len(x) - refused
        account.flagged += int(np.count_nonzero(answers.flagged))
        return answers

    def simulate(self, known: Sequence[Known], shadow: Shadow) -> Simulation:
        """Return fresh instances of ``known`` defenses, as :meth:`ApiClient.simulate` does."""
        return self.client().simulate(known, shadow)

    def _problem(self, x: Images) -> str:
        """Return why queries (n, …) do not belong to the space, or an empty string."""
        if self._unit and x.shape[1:] == self.input_shape:
            # Attacks send inputs one by one, and most often to image classifiers.
            if not x.size or -ROUNDING <= x.min() <= x.max() <= 1 + ROUNDING:  # False where there are NaN
                return ""
            if not np.isfinite(x).all():
                return "must be finite, got NaN or infinity"
        return self.inputs.problem(x)

    def _answered(self, x: Images, client: str) -> Answers:
        """Return the answers to ``x``, and add the time to the account."""
        account, stack = self.account, self._stack
        start, start_cpu = time.perf_counter(), time.process_time()
        raw = self._victim.probabilities(x)
        account.seconds_model += time.perf_counter() - start
        account.cpu_model += time.process_time() - start_cpu
        batch = Batch(
            inputs=x,
            raw=raw,
            probabilities=raw,
            client=client,
            number=self._numbers[client],
            seed=self._seed_of(client),
            read_features=self._read_features,
        )
        answers = stack.answer(batch)
        account.seconds_defense, account.cpu_defense = stack.seconds, stack.cpu
        if self._shows == "labels":
            answers = Answers(one_hot_labels(answers.probabilities), answers.refused, answers.flagged)
        return answers

    def client(self) -> ApiClient:
        """Return the API as an attack gets it."""

        def send(x: Images, client: str) -> Array:
            return self.query(x, client).probabilities

        return ApiClient(send, self.inputs, self.nb_classes, self.budget, copy.deepcopy(self.known))

    def close(self) -> None:
        """Answer nothing more, and check all promises of the defenses that are still to be checked.

        Raises the error of a query that failed before, or PluginError.
        """
        self._closed = True
        if self._failure is not None:
            raise self._failure
        self._stack.check()

    def queries(self) -> tuple[Images, Array]:
        """Return all queries (n, …) in order and their answers (n, classes), where they are ``recorded``."""
        log = self._log or [(np.zeros((0, *self._victim.shape), np.float32), np.zeros((0, self.nb_classes)))]
        return np.concatenate([x for x, _ in log]), np.concatenate([answers for _, answers in log])


class ApiClient(BlackBoxClassifier):  # type: ignore[misc]  # ART is untyped
    """An API as an attack gets it: it can be queried, and holds no victim, no defense and no counter.

    ``send(x, client)``: returns the answers (n, classes) to queries (n, …), rows of NaN where rejected.
    ``inputs``: what queries may be. ``budget`` and ``known``: what the attack is told; changing them has no
    effect.
    """

    def __init__(
        self,
        send: Callable[[Images, str], Array],
        inputs: InputSpace,
        classes: int,
        budget: int | None,
        known: tuple[Known, ...] | None,
    ) -> None:
        super().__init__(
            predict_fn=self.predict,
            input_shape=inputs.shape,
            nb_classes=classes,
            clip_values=clip_values(inputs),
        )
        self.inputs, self.budget, self.known, self._send = inputs, budget, known, send

    def predict(self, x: Images, batch_size: int = 256, client: str = "attacker") -> Array:
        """Return answers (n, classes) to queries; rejected ones are NaN rows. Raises BudgetError."""
        return self._send(x, client)

    def simulate(self, known: Sequence[Known], shadow: Shadow) -> Simulation:
        """Return fresh instances of ``known`` defenses that are fitted on the attacker's own ``shadow``.

        Raises NotApplicable for a defense that cannot be simulated.
        """
        return SimulatedDefenses(known, shadow, self.inputs, self.nb_classes)


def clip_values(inputs: InputSpace) -> tuple[Any, Any] | None:
    """Return the range of inputs as ART has it; None where a column is constant, which ART does not take."""
    low, high = inputs.limits
    if not (low < high).all():
        return None
    return (float(low[0]), float(high[0])) if low.size == high.size == 1 else (low, high)


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
