"""A campaign against a live target: buys the evaluation, runs every cell, and stores results as it goes."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import keys
from bench.data import sketches
from bench.errors import MoatbenchError, StoppedError
from bench.models.determinism import single_thread, versions
from bench.models.plugin_guard import build
from bench.models.remote_victim import RemoteVictim
from bench.plugins import attacks
from bench.records import Outcome, PlannedTask, Record
from bench.remote.accounts import evaluating_account
from bench.remote.buying import Buyer
from bench.run_facts import CampaignFacts, Meta, ReferenceAnswers, SplitSizes, VictimFacts
from bench.runner import live
from bench.runner.live import LiveContext
from bench.runner.local_backend import Item, RunStopped, grouped, records_of
from bench.runner.task_keys import outdated, task_keys
from bench.sources import code
from bench.store import Store
from bench.tasks import Cell

log = logging.getLogger(__name__)

Watched = Callable[[Iterable[Record], int, int], Iterable[Record]]
"""Shows the progress of a stream of records: how many were done before, and how many there are."""


@dataclass
class Campaign:
    """The cells of a campaign, and what they need.

    ``victim``: before anything was bought. ``device``: where surrogates are trained.
    """

    victim: RemoteVictim
    cells: Sequence[Cell]
    buyer: Buyer
    context: LiveContext
    device: str = "cpu"

    def run(self, store: Store, watched: Watched = lambda records, _done, _all: records) -> Counter[str]:
        """Buy the evaluation, run the cells without a record in the store; return their number by status.

        Every record is stored when its cell is finished. The error that stops the purchase is raised as it
        is; the same campaign then goes on with what was bought.
        """
        started = time.time()
        try:
            with single_thread():
                victim = self._evaluated()
            plan = self._plan(victim)
            store.set_plan(plan)
            done = store.done()
            left = [each for each in plan if each.key not in done]
            if left and (message := outdated(left, (each for each in store.stored() if each.key in done))):
                log.warning(message)
            store.set_meta(Meta(victims=[_victim_facts(victim, self.cells[0])], versions=versions(), jobs=1))
            if left:
                store.set_meta(Meta(started=started, device=self.device))
            todo: list[Item] = [(each.task, each.key) for each in left]
            for record in watched(self._records(todo, store), len(plan) - len(todo), len(plan)):
                store.put(record)
                if record.status == "failed":
                    log.error("%s failed: %s", " ".join(map(str, record.spec.values())), record.error)
            self.buyer.finish()
        except RunStopped as stopped:
            self._keep_facts(store)
            raise stopped.error from None
        except (MoatbenchError, StoppedError):
            self._keep_facts(store)
            raise
        self._keep_facts(store)
        if left:
            store.set_meta(Meta(finished=time.time(), ran=len(todo)))
        cache = self.context.training_cache
        if cache is not None and not store.missing():
            shutil.rmtree(cache, ignore_errors=True)
        return store.counts()

    def _keep_facts(self, store: Store) -> None:
        """Store what was bought so far; an interrupted or broken purchase is asked nothing more."""
        if isinstance(self.context.stopped, KeyboardInterrupt):
            return
        with suppress(StoppedError):
            store.set_meta(Meta(campaign=self.facts(store.records())))

    def facts(self, records: Iterable[Record]) -> CampaignFacts:
        """Return what was bought, by attack and budget too: what its first repeat sent until then.

        What another purpose had bought before is not paid again, so that it is no more than the attack paid.
        """
        bought: dict[str, dict[str, int]] = {}
        trips: dict[str, dict[str, int]] = {}
        for record in records:
            if record.status == "ok" and record.repeat == 0 and record.info.queries is not None:
                cell = record.cell
                by_budget = bought.setdefault(cell.attack, {})
                sent = record.info.queries.sent
                by_budget[str(cell.budget)] = max(sent, by_budget.get(str(cell.budget), 0))
                waits = build(attacks, cell.attack).round_trips(cell.budget)
                trips.setdefault(cell.attack, {})[str(cell.budget)] = waits
        known = self.buyer.facts()
        for attack, by_budget in bought.items():
            paid = known.purposes[attack].paid if attack in known.purposes else 0
            bought[attack] = {budget: min(sent, paid) for budget, sent in by_budget.items()}
        repeats = self.context.buy_repeats
        more = {"bought": bought, "round_trips": trips, "once": repeats == 1, "buying": repeats}
        return known.model_copy(update=more)

    def _evaluated(self) -> RemoteVictim:
        """Return the victim with the answers to its test inputs, which are bought first."""
        x, account = self.victim.splits.test.x, evaluating_account(self.victim.target)
        answers = self.context.buy(self.victim, x, session="test", purpose="test", account=account)
        victim = self.victim.with_answers(np.asarray(answers), self.buyer.facts().identity)
        self.context.serve(self.cells[0].victim, victim)
        return victim

    def _plan(self, victim: RemoteVictim) -> list[PlannedTask]:
        """Return the cells with their keys, of which the code of live targets is an ingredient."""
        spec = self.cells[0].victim
        own = {f"{keys.SOURCE}live targets": code(__name__, live.__name__).digest()}
        # Named like versions, so that a change of them is told with both numbers.
        own[f"{keys.VERSION}repeats that buy"] = str(self.context.buy_repeats)
        if self.context.buy_repeats < self.cells[0].repeats:
            own[f"{keys.VERSION}largest budget"] = str(self.context.largest)
        plan = task_keys(self.cells, {spec: victim.fingerprint}, self.device, None, {spec.data: ""})
        return [_with(each, own) for each in plan]

    def _records(self, todo: Sequence[Item], store: Store) -> Iterator[Record]:
        for items in grouped(todo):
            self._keep_facts(store)
            yield from records_of(items, self.device, partial(self._outcomes, items[0][0]))

    def _outcomes(self, cell: Any) -> list[Outcome]:
        try:
            return live.run(cell.group(), build(attacks, cell.attack), self.context)
        except BaseException:
            if self.context.stopped is not None:
                raise RunStopped(self.context.stopped) from None
            raise


def _with(planned: PlannedTask, more: Mapping[str, str]) -> PlannedTask:
    """Return a planned task whose key has more ingredients."""
    ingredients = {**planned.ingredients, **more}
    key = keys.compose("result", {"kind": planned.task.kind, "spec": planned.task.spec(), **ingredients})
    return replace(planned, key=key, ingredients=ingredients)


def _victim_facts(victim: RemoteVictim, cell: Cell) -> VictimFacts:
    splits = victim.splits
    answers = victim.probabilities(splits.test.x)
    return VictimFacts(
        victim=str(cell.victim),
        seed=cell.victim.seed,
        splits=cell.victim.splits,
        accuracy=victim.accuracy() if splits.test.labelled else None,
        fingerprint=victim.fingerprint,
        data=sketches.data_digest(splits),
        answers=ReferenceAnswers.of(answers),
        sizes=SplitSizes(train=0, calibration=0, pool=len(splits.pool.x), test=len(splits.test.x)),
        notes=list(victim.notes),
    )


def training_cache(store: Path) -> Path:
    """Return the folder of the trainings that the cells of a store share."""
    return store.parent / f"{store.stem}.memo"
