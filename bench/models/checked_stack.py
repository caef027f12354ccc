"""A stack of defenses as the harness runs it: each gets its own arrays, and its promises are checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.errors import PluginError
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.models.promises import check_answers, differs, own_answers, probe
from defenses.base import Answers, Array, Auxiliary, Batch, Calibration, Claims, Defense, DefenseStack

Images = NDArray[np.float32]
Watch = Callable[[int, Array, Answers], None]
TOGETHER = 256
"""Answers that are checked together."""
PROBES = 8
"""Inputs that a fitted defense is checked with."""
LONG = 256
"""Queries from which a call takes long enough to guard all of the process' settings."""


class CheckedDefense:
    """A defense of a stack, with the answers that are still to be checked.

    ``regular``: whether the defenses before it claim that their answers are distributions. ``bits`` takes the
    place of NumPy's global generator while the defense runs. ``watch``: gets the answers before it,
    (n, classes), and its answers, once they are checked. ``seconds``, ``cpu``: time that it took so far.
    """

    def __init__(
        self,
        defense: Defense,
        bits: np.random.BitGenerator,
        *,
        regular: bool,
        watch: Callable[[Array, Answers], None] | None = None,
    ) -> None:
        self._watch = watch
        self.who, self._defense, self._bits, self._regular = describe(defense), defense, bits, regular
        self.claims = checked_claims(self.who, defense, bits)
        self.seconds = self.cpu = 0.0
        self._full = True  # the first call shows whether Python's generator has to be put back each time
        self._first: tuple[Batch, Answers] | None = None
        self._unchecked: list[tuple[Array, Array, Answers]] = []
        self._rows = 0

    def answer(self, batch: Batch) -> Answers:
        """Return a copy of the answers; raises PluginError if the defense fails, now or at the next check."""
        answers = self.ask(batch)
        # A defense before this one may have rejected the first queries.
        if self._first is None and len(batch) and not np.isnan(batch.probabilities[0]).any():
            row = slice(0, 1)
            first = replace(
                batch, inputs=batch.inputs[row], raw=batch.raw[row], probabilities=batch.probabilities[row]
            )
            self._first = (
                first,
                Answers(answers.probabilities[row], answers.refused[row], answers.flagged[row]),
            )
        self._unchecked.append((batch.probabilities, batch.raw, answers))
        self._rows += len(batch)
        if self._rows >= TOGETHER:
            self.check()
        return answers

    def ask(self, batch: Batch) -> Answers:
        """Return a copy of the defense's answers, of which only types and shapes are checked."""
        own = Batch(
            batch.inputs.copy(),
            batch.raw.copy(),
            batch.probabilities.copy(),
            batch.client,
            batch.number,
            batch.seed,
            batch.read_features,
        )
        full = self._full or len(batch) >= LONG
        with PluginCall(self.who, "answer", self._bits, full=full) as call:
            start, start_cpu = time.perf_counter(), time.process_time()
            given = self._defense.answer(own)
            self.seconds += time.perf_counter() - start
            self.cpu += time.process_time() - start_cpu
        if full:
            self._full = call.drew
        return own_answers(self.who, given, batch.probabilities.shape)

    def check(self) -> None:
        """Check the answers since the last check; raises PluginError for a broken promise."""
        if not self._rows:
            return
        parts, self._unchecked, self._rows = self._unchecked, [], 0
        before, raw, answers = parts[0]
        if len(parts) > 1:
            before, raw = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
            given = [part[2] for part in parts]
            answers = Answers(
                np.concatenate([each.probabilities for each in given]),
                np.concatenate([each.refused for each in given]),
                np.concatenate([each.flagged for each in given]),
            )
        check_answers(self.who, self.claims, before, raw, answers, regular=self._regular)
        if self._watch is not None:
            self._watch(before, answers)

    def ask_again(self) -> None:
        """Ask the first query once more, alone; raises PluginError if its answer is another one now."""
        if self._first is None:
            return
        (batch, before), self._first = self._first, None
        again = self.ask(batch)
        # A detector may decide otherwise on a score at its threshold, whose last bits depend on the batch.
        decided = np.array_equal(before.refused, again.refused) and np.array_equal(
            before.flagged, again.flagged
        )
        if differs(before, again) and (decided or not self.claims.may_flag):
            raise PluginError(
                f"{self.who} answers a query differently when it is asked again later, alone, with the same "
                "seed and number; a defense keeps no state between queries, but may use batch.client and "
                "batch.number"
            )


def checked_claims(who: str, defense: Defense, bits: np.random.BitGenerator) -> Claims:
    """Return what a defense claims; raises PluginError if that fails or is no Claims."""
    with PluginCall(who, "claims", bits, full=False):
        claims = defense.claims
    if not isinstance(claims, Claims):
        raise PluginError(f"{who} must claim by a Claims, but claims {claims!r}")
    return claims


class CheckedStack:
    """A fitted stack of defenses that answers, and checks what each defense promises.

    ``seed``: of the generator that takes the place of NumPy's global one while a defense runs; ``kind``:
    which of these generators, since stacks of one kind share one. ``watch``: gets a member's position, the
    answers before it and its answers, once they are checked.
    """

    def __init__(
        self, stack: DefenseStack, seed: int, watch: Watch | None = None, *, kind: str = "defense"
    ) -> None:
        self._stack = stack
        self._members: list[CheckedDefense] = []
        bits, regular = generator(kind, seed), True
        for position, defense in enumerate(stack.defenses):
            own = None if watch is None else partial(watch, position)
            member = CheckedDefense(defense, bits, regular=regular, watch=own)
            self._members.append(member)
            regular = member.claims.normalises or (member.claims.distribution and regular)

    def answer(self, batch: Batch) -> Answers:
        """Return the answers after every member; rejected rows are NaN. Raises PluginError."""
        return self._stack.answer(batch, lambda position, step: self._members[position].answer(step))

    def check(self) -> None:
        """Check what is not yet checked, and ask each defense once more; raises PluginError."""
        for member in self._members:
            member.check()
            member.ask_again()

    @property
    def seconds(self) -> float:
        """Wall seconds that the defenses took."""
        return sum(member.seconds for member in self._members)

    @property
    def cpu(self) -> float:
        """CPU seconds that the defenses took."""
        return sum(member.cpu for member in self._members)


def fit_stack(
    stack: DefenseStack,
    shared: Calibration,
    costs: Callable[[Defense], dict[str, tuple[float, float]]],
    probabilities: Callable[[Images], Array],
    *,
    kind: str = "defense",
    auxiliary: Callable[[str], Auxiliary] | None = None,
) -> None:
    """Fit every defense of a stack on its own copy of ``shared``, and check its promises with a few queries.

    ``costs``: returns the utility losses that a defense has measured here before. ``probabilities``: the
    victim's answers (n, classes) to inputs (n, …). ``kind``: as in :class:`CheckedStack`.
    ``auxiliary``: returns the auxiliary data of a name; without it, defenses get none. Raises PluginError.
    """
    inputs = probe_inputs(shared.train_inputs)
    raw = probabilities(inputs)
    bits = generator(kind, shared.seed)
    for defense in stack.defenses:
        if type(defense).fit is not Defense.fit:
            own = replace(
                shared,
                train_inputs=shared.train_inputs.copy(),
                train_labels=shared.train_labels.copy(),
                inputs=shared.inputs.copy(),
                labels=shared.labels.copy(),
                probabilities=shared.probabilities.copy(),
                costs=costs(defense),
                auxiliary=_own_auxiliary(defense, auxiliary),
            )
            with PluginCall(describe(defense), "fit", bits):
                defense.fit(own)
        member = CheckedDefense(defense, bits, regular=True)
        probe(member.who, member.claims, replace(shared, train_inputs=inputs), raw, member.ask)


def _own_auxiliary(defense: Defense, load: Callable[[str], Auxiliary] | None) -> Auxiliary | None:
    """Return a copy of the auxiliary data that a defense asks for; None where it asks for none."""
    if load is None or not defense.auxiliary_data:
        return None
    found = load(defense.auxiliary_data)
    return replace(found, inputs=found.inputs.copy(), probabilities=found.probabilities.copy())


def probe_inputs(inputs: Images) -> Images:
    """Return copies of the first inputs (n, …), every other image among them turned upside down."""
    few = inputs[:PROBES].copy()
    if few.ndim == 4:
        few[1::2] = few[1::2, ..., ::-1, ::-1].copy()
    return few
