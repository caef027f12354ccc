"""Attacks on a live target: the first repeats buy answers, the others learn from what was bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.base import Extraction, Pool
from bench.errors import NotApplicable
from bench.inputs import Array
from bench.models.remote_api import Ask, RemoteAPI
from bench.models.remote_victim import RemoteVictim
from bench.records import Outcome
from bench.remote.buying import Buyer
from bench.remote.canary import ROUNDING
from bench.runner import extraction
from bench.runner.context import WorkerContext
from bench.runner.extraction import Acquisition
from bench.runner.timing import Timings
from bench.tasks import Cell, VictimSpec

Queries = tuple[Array, NDArray[np.float64]]
"""What an attack sent: inputs (n, …) in order, and their answers (n, classes)."""


class NotBoughtError(Exception):
    """An input was asked for whose answer was not bought."""


def _no_answers(_x: Array, _account: str) -> NDArray[np.float64]:
    raise NotBoughtError("no answers can be had here")


@dataclass
class LiveContext(WorkerContext):
    """The context of a live target's cells: answers come from where ``ask`` says.

    ``largest``: the largest budget, which is bought first. ``buy_repeats``: repeats that buy. ``stopped``:
    what ended the purchase.
    """

    buyer: Buyer | None = None
    largest: int = 0
    buy_repeats: int = 1
    stopped: BaseException | None = None
    ask: Ask = _no_answers
    _apis: list[RemoteAPI] = field(default_factory=list, repr=False)

    def serve(self, spec: VictimSpec, victim: RemoteVictim) -> None:
        """Let ``victim`` be that of ``spec``."""
        self.add({spec: victim})
        # Agreement on uniform inputs would have to be bought, and says little of a real model.
        self.add({("uniform inputs", spec): None})

    def api(self, spec: VictimSpec, *_: Any, budget: int | None = None, **__: Any) -> RemoteAPI:
        """Return a new API without queries so far, whose answers come from ``ask``."""
        victim: Any = self.victim(spec)
        api = RemoteAPI(victim, self.ask, budget=budget or 0)
        self._apis.append(api)
        return api

    def deployed(self, spec: VictimSpec, *_: Any) -> NDArray[np.float64]:
        """Return the answers to the test split: of a live target there are no others."""
        return self.truth(spec)

    def acquire(self, cell: Cell, attack: Extraction, pool: Pool, ask: Ask) -> tuple[Acquisition, Queries]:
        """Run the attack on ``pool`` with answers from ``ask``; return what it acquired and what it sent."""
        self.ask = ask
        try:
            acquired = extraction.acquire(cell, attack, pool, self)
            return acquired, self._apis[-1].queries()
        finally:
            self.ask = _no_answers
            self._apis.clear()

    def purchase(self, cell: Cell) -> Ask:
        """Return what buys answers for one run of an attack; equal inputs of it are bought one by one."""
        victim: Any = self.victim(cell.victim)
        session = f"{cell.attack} {cell.threat.pool} {cell.threat.surrogate} {cell.budget} {cell.repeat}"

        def ask(x: Array, account: str) -> NDArray[np.float64]:
            return self.buy(victim, x, session=session, purpose=cell.attack, account=account)

        return ask

    def buy(
        self, victim: RemoteVictim, x: Array, *, session: str, purpose: str, account: str
    ) -> NDArray[np.float64]:
        """Return the answers (n, classes) of the target to inputs (n, …); what stops it is kept."""
        if self.buyer is None:
            raise NotBoughtError("no process that buys answers was started")
        try:
            return self.buyer.ask(victim.on_the_wire(x), session=session, purpose=purpose, account=account)
        except BaseException as error:
            self.stopped = error
            raise


def run(cells: Sequence[Cell], attack: Any, context: LiveContext) -> list[Outcome]:
    """Run all repeats of a cell; raises NotApplicable where the attack needs what nobody has here."""
    pool = required(cells[0], attack, context)
    acquisitions: list[Acquisition] = []
    for cell in cells:
        acquired = _acquired(cell, attack, pool, context)
        acquisitions.append(acquired or _again(acquisitions[0]))
    outcomes = extraction.trained_and_measured(cells, acquisitions, pool, context)
    labels = _labels(context.truth(cells[0].victim))
    return [replace(outcome, arrays=outcome.arrays | labels) for outcome in outcomes]


def _labels(answers: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the labels (n,) of the answers (n, classes) to the test inputs; {} above 256 classes.

    Without a defense evaluation they are in no other record, and balanced fidelity needs them.
    """
    return {"victim_label": answers.argmax(axis=1).astype(np.uint8)} if answers.shape[1] <= 256 else {}


def required(cell: Cell, attack: Any, context: LiveContext) -> Pool:
    """Return the attacker's pool; raises NotApplicable where the attack needs what nobody has here."""
    if attack.family != "extraction":
        raise NotApplicable("it needs records that the model was trained on, and nobody here has them")
    if "none" not in attack.knowledge:
        raise NotApplicable("it needs to know the defenses of the target, and nobody here does")
    pool = context.pool(cell.victim, cell.threat.pool, cell.seed)
    extraction.require_applicable(attack, pool, context.victim(cell.victim))
    return pool


def _acquired(cell: Cell, attack: Extraction, pool: Pool, context: LiveContext) -> Acquisition | None:
    """Return what a repeat acquires; None where it can only learn from what the first one acquired."""
    if not attack.queries:
        return context.acquire(cell, attack, pool, _no_answers)[0]
    if cell.repeat < context.buy_repeats:
        return _bought(cell, attack, pool, context)[0]
    x, answers = _bought(replace(cell, budget=context.largest, repeat=0), attack, pool, context)[1]
    smaller = _restricted(pool, x)
    supply = attack.supply(len(smaller.x))
    target: Any = context.victim(cell.victim)
    if attack.makes_inputs or supply is None or supply < cell.budget:
        # One that draws with replacement would have a smaller part of a part in each repeat.
        return None
    try:
        extraction.require_applicable(attack, smaller, target)
        return context.acquire(cell, attack, smaller, BoughtAnswers(x, answers, fixed=_is_fixed(context)))[0]
    except (NotBoughtError, NotApplicable):
        return None


def _bought(cell: Cell, attack: Extraction, pool: Pool, context: LiveContext) -> tuple[Acquisition, Queries]:
    """Return what a repeat that buys acquires; it is run once in a process."""

    def acquire() -> tuple[Acquisition, Queries]:
        return context.acquire(cell, attack, pool, context.purchase(cell))

    found: tuple[Acquisition, Queries] = context.once(("bought", cell), acquire)
    return found


def _again(acquired: Acquisition) -> Acquisition:
    """Return the same with times of its own: acquiring it took none."""
    return Acquisition(acquired.transfer_set, acquired.account, Timings())


def _restricted(pool: Pool, x: Array) -> Pool:
    """Return the inputs of the pool that are among ``x`` (n, …)."""
    known = {row.tobytes() for row in np.ascontiguousarray(x)}
    inside = np.array([row.tobytes() in known for row in np.ascontiguousarray(pool.x)], dtype=bool)
    return replace(pool, x=pool.x[inside], y=pool.y[inside])


def _is_fixed(context: LiveContext) -> bool:
    """Return whether equal inputs have had equal answers, but for the last bits."""
    noise = None if context.buyer is None else context.buyer.facts().noise
    return noise is not None and noise <= ROUNDING


class BoughtAnswers:
    """Answers from what was bought; raises NotBoughtError for an input that is not among it.

    ``x`` (n, …), ``answers`` (n, classes): in the order of the purchase. An input that comes again gets the
    answer that was bought for it the second time; ``fixed``: the last one where there are no more, since
    equal inputs have equal answers.
    """

    def __init__(self, x: Array, answers: NDArray[np.float64], *, fixed: bool) -> None:
        self._known: dict[bytes, list[NDArray[np.float64]]] = {}
        for row, answer in zip(np.ascontiguousarray(x), answers, strict=True):
            self._known.setdefault(row.tobytes(), []).append(answer)
        self._fixed = fixed
        self._times: dict[bytes, int] = {}

    def __call__(self, x: Array, account: str) -> NDArray[np.float64]:
        """Return the answers (n, classes) to inputs (n, …)."""
        found = []
        for row in np.ascontiguousarray(x):
            key = row.tobytes()
            known, time = self._known.get(key, []), self._times.get(key, 0)
            if not known or (time >= len(known) and not self._fixed):
                raise NotBoughtError("its answer was not bought")
            found.append(known[min(time, len(known) - 1)])
            self._times[key] = time + 1
        return np.stack(found)
