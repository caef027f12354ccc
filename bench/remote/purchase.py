"""Buys answers: each input once for every time that a session sends it, in requests of several at a time."""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from bench.errors import BudgetError, UsageError
from bench.remote.canary import PLANNED, PURPOSE, Canary
from bench.remote.delivery import Delivery
from bench.remote.exchange import Exchange, Inputs
from bench.remote.ledger import Ledger, Purchase, input_keys
from bench.remote.lots import Halt, InterruptedPurchaseError, Lot, Means
from bench.remote.money import MICRO
from bench.remote.pace import Pace, eta
from bench.remote.progress import Progress
from bench.remote.target import Target

SHORTEST_TOLD = 1.0
"""Seconds of a wait from which on it is reported."""
SECONDS_ELSEWHERE = 0.2
"""How often is looked whether another process has bought what it is buying."""


class Purchaser:
    """Buys answers of a target within the caps of its ledger; see :class:`bench.remote.buying.Buyer`.

    ``planned``: inputs that will be booked in all, for the middle canary and the time that is left.
    ``canary``: whether the target is looked at for another model. ``fingerprint``: of the target, a part of
    every key. ``until``: the last day, in UTC, on which may be sent; None: without an end.
    """

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        exchange: Exchange,
        *,
        fingerprint: str,
        planned: int | None = None,
        canary: bool = True,
        until: dt.date | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.target, self.ledger = target, ledger
        self.stop = Halt()
        self._fingerprint, self._planned, self._on_progress = fingerprint, planned, on_progress
        self._means = Means(clock, self._pause, chance, self.stop)
        self._sleep = sleep or self.stop.wait
        self._pace = Pace.of(target)
        most = min(target.batch, self._pace.most) if self._pace else target.batch
        self._delivery = Delivery(exchange, ledger, target, self._means, limit=most, until=until)
        self._sessions: dict[str, Counter[bytes]] = {}
        self._bought = self._depth = 0
        self._canary = Canary(self._fresh, ledger, planned, self._spared) if canary else None

    @property
    def digits(self) -> int:
        """The most significant digits that the target showed."""
        return self._delivery.digits

    def ask(
        self, inputs: Inputs, *, session: str, purpose: str, account: str = "", fresh: bool = False
    ) -> NDArray[np.float64]:
        """Return answers (n, classes), rows of NaN for inputs that the target refuses, in order.

        Equal inputs of one session are different purchases; what an earlier session or run bought is not
        bought again, unless ``fresh``. Raises as :meth:`bench.remote.buying.Buyer.ask`.
        """
        with self._delivery.working():
            ask = self._fresh if fresh else self._once
            return ask(inputs, session=session, purpose=purpose, account=account)

    def _once(self, inputs: Inputs, *, session: str, purpose: str, account: str) -> NDArray[np.float64]:
        """Return answers; what was bought before is not bought again."""
        sent = Counter(self._sessions.get(session, {}))
        purchases = []
        for key in input_keys(self._fingerprint, account, inputs):
            purchases.append(Purchase(key, sent[key]))
            sent[key] += 1
        answers = self._bought_answers(Lot(inputs, purchases, purpose, account))
        self.ledger.asked(session, purpose, sent.total())
        self._sessions[session] = sent  # not before: what failed may be asked again
        return answers

    def _fresh(self, inputs: Inputs, *, session: str, purpose: str, account: str) -> NDArray[np.float64]:
        """Return answers that are bought now, whatever was bought before; equal inputs may occur."""
        sent: Counter[bytes] = Counter()
        purchases = []
        for key in input_keys(f"{purpose} of {self._fingerprint}", account, inputs):
            purchases.append(Purchase(key, self.ledger.occurrences(key) + sent[key]))
            sent[key] += 1
        answers = self._buy_all(Lot(inputs, purchases, purpose, account), {})
        once = f"{session} of run {self.ledger.run}"  # another run asks again, rather than for the same
        sent += self._sessions.get(once, Counter())
        self._sessions[once] = sent
        self.ledger.asked(once, purpose, sent.total())
        return answers

    def _bought_answers(self, lot: Lot) -> NDArray[np.float64]:
        """Return answers; those that are missing are bought, with the canary before and between."""
        canary = self._canary
        found = self._known(lot.purchases)
        if canary is not None and len(found) < len(lot):
            first = lot.only([each for each in lot.purchases if each not in found])
            with self._held(len(first) + canary.cost(len(first))):
                pass  # so that nothing is sent, not even by the canary, where the caps do not allow all of it
            with self._held(len(first)):  # so that the canary does not take its room
                canary.before(first.inputs, lot.account)
        return self._buy_all(lot, found, canary)

    def _known(self, purchases: list[Purchase]) -> dict[Purchase, NDArray[np.float64]]:
        """Return the answers that were bought, and NaN for what the target has just refused."""
        refused = self._delivery.open_refusals()
        found = {each: refused[each] for each in purchases if each in refused}
        return found | self.ledger.answers(purchases)

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Set aside what the campaign still has to buy besides what is held."""
        ((paid,),) = self.ledger.rows("select total(answered) from purposes where purpose != ?", PURPOSE)
        left = (self._planned or 0) - PLANNED - int(paid)
        with self._held(max(0, left - self.ledger.held())):
            yield

    @contextmanager
    def _held(self, inputs: int) -> Iterator[None]:
        """Set aside the caps of ``inputs`` in the block; the outermost one gives back what is left."""
        self.ledger.hold(inputs)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.ledger.release()

    def _buy_all(
        self, lot: Lot, found: dict[Purchase, NDArray[np.float64]], canary: Canary | None = None
    ) -> NDArray[np.float64]:
        """Return answers; those that are not among ``found`` are bought."""
        while missing := [each for each in lot.purchases if each not in found]:
            self._see_stop()
            left = lot.only(missing)
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._held(len(left)))
                except BudgetError:
                    # Another process may be using what the caps have left to buy these very inputs.
                    if len(self.ledger.free(missing)) == len(missing):
                        raise
                else:
                    self._buy_held(left, canary)
            fresh = self._known(missing)
            if not fresh:  # another process is buying all of it
                self._means.sleep(SECONDS_ELSEWHERE)
            found |= fresh
        answers = [found[each] for each in lot.purchases]
        return np.array(answers).reshape(len(lot), len(self.target.classes))

    def _buy_held(self, left: Lot, canary: Canary | None) -> None:
        """Buy what the ledger holds, with the canary where it is due."""
        start = 0
        while start < len(left):
            part = left.part(start, start + canary.until_next) if canary else left
            start += len(part)
            self._buy(part)
            if canary is not None:
                canary.after(len(part))

    def _see_stop(self) -> None:
        if self.stop.is_set():
            raise InterruptedPurchaseError

    def _buy(self, lot: Lot) -> None:
        """Send what is held; what was refused since the last answer is asked again after an error."""
        try:
            self._send(lot)
        except BaseException:
            self._delivery.forget_refusals()
            raise

    def _send(self, lot: Lot) -> None:
        """Send the first request of a run alone, the others over all connections."""
        queue = _Queue(lot, self._delivery)
        if not self._delivery.answered and (first := queue.next()) is not None:
            self._deliver(first)
        threads = min(self.target.connections, queue.requests())

        def work() -> None:
            while not self.stop.is_set() and (taken := queue.next()) is not None:
                try:
                    self._deliver(taken)
                except BaseException as error:  # noqa: BLE001  # raised again by the thread that asked
                    queue.errors.append(error)
                    self.stop.pause()  # the others do not wait for what is not sent any more

        if threads <= 1:
            work()
        else:
            with ThreadPoolExecutor(threads) as pool:
                for _ in range(threads):
                    pool.submit(work)
        if queue.errors:
            self.stop.resume()
            raise queue.errors[0]
        self._see_stop()

    def _deliver(self, lot: Lot) -> None:
        self._delivery.deliver(lot)
        self._tell(len(lot))

    def _pause(self, seconds: float) -> None:
        if seconds > SHORTEST_TOLD and self._on_progress is not None:
            self._on_progress(self.progress(waits=seconds))
        self._sleep(seconds)

    def _tell(self, inputs: int) -> None:
        """Report where the campaign is."""
        self._bought += inputs
        if self._on_progress is not None:
            self._on_progress(self.progress())

    def progress(self, *, waits: float = 0.0) -> Progress:
        """Return where the campaign is."""
        totals = self.ledger.totals()
        seconds = self._delivery.seconds
        rate = self._bought / seconds if seconds > 0 else 0.0
        left = None if self._planned is None else max(0, self._planned - totals.inputs)
        return Progress(
            inputs=totals.inputs,
            money=totals.money / MICRO,
            per_hour=rate * 3600,
            seconds_left=None if left is None else eta(left, rate, self._pace),
            waits=waits,
        )

    def close(self) -> None:
        """Leave to another run what was refused since the last answer, and close the ledger."""
        with suppress(UsageError):  # a ledger that cannot be written
            self._delivery.forget_refusals()
        self.ledger.close()

    def finish(self) -> None:
        """Ask the canary a last time, if anything was bought in this run."""
        if self._canary is not None:
            with self._delivery.working():
                self._canary.end()


class _Queue:
    """Hands out the requests of a lot, none after the first error; safe to use from several threads."""

    def __init__(self, lot: Lot, delivery: Delivery) -> None:
        self._lot, self._delivery = lot, delivery
        self._start = 0
        self._lock = threading.Lock()
        self.errors: list[BaseException] = []

    def next(self) -> Lot | None:
        """Return the inputs of the next request."""
        with self._lock:
            if self.errors or self._start >= len(self._lot):
                return None
            taken = self._lot.part(self._start, self._start + self._delivery.limit)
            self._start += len(taken)
        return taken

    def requests(self) -> int:
        """Return how many requests are left."""
        return -(-(len(self._lot) - self._start) // self._delivery.limit)
