"""Tests of a stack's noise: whether it is drawn anew for every query, repeat, client and input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.metrics.independence import agreement_in_streams, agreement_of_draws, repeated
from bench.models.checked_stack import CheckedStack
from bench.records import IndependenceRecord
from bench.runner.context import WorkerContext
from bench.seeds import derive
from bench.tasks import DefenseEvaluation
from defenses.base import Array, Batch, Claims, OutputDefense

Images = NDArray[np.float32]

DRAWS = 740
"""Draws for an input, times the root of the number of inputs. Where an input decides a hundredth of the
noise's variance, that is then found at .05/30 with a chance of 90 %, whatever the number of inputs."""
FEWEST, MOST = 2, 64
"""Bounds of the number of draws for an input."""
ANSWERS, NUMBERS = 24_000, 1 << 25
"""Largest number of draws for all inputs, and of their entries, for time and memory."""
STREAMS, LENGTH = 4, 128
"""Clients, and queries of each, in the test across inputs."""
SMALLER = 1e-10
"""Share by which answers without noise are made smaller, so that noise keyed by their bits is found."""


def has_fresh_noise(members: list[Claims]) -> bool:
    """Return whether a stack of these members claims noise that is drawn anew for every query."""
    random = [claims for claims in members if claims.stochastic]
    return bool(random) and not any(claims.consistent_noise for claims in random)


def noise_independence(
    evaluation: DefenseEvaluation, context: WorkerContext
) -> dict[str, IndependenceRecord]:
    """Return how independent noise is across "queries", "repeats", "clients" and "inputs".

    Empty for a stack that does not claim fresh noise.
    """
    stack = context.stack(evaluation.victim, evaluation.defense, evaluation.seed)
    if not has_fresh_noise([defense.claims for defense in stack.defenses]):
        return {}
    source = _Source(evaluation, context)
    draws = source.draws()
    others = np.stack([source.counterpart(draw, draws) for draw in range(draws)])
    found, spread = {}, np.zeros(len(source.inputs))
    n = len(source.inputs)
    kinds: dict[str, Callable[[int], Array]] = {
        "queries": lambda draw: source.ask(number=draw * n),
        "repeats": lambda draw: source.ask(repeat=draw),
        "clients": lambda draw: source.ask(client=f"client-{draw}"),
    }
    continuous = stack.claims.continuous
    for name, ask in kinds.items():
        answers = np.stack([ask(draw) for draw in range(draws)])
        differences = answers - others
        agreement, chance = agreement_of_draws(differences, _seed(evaluation, name))
        equal = sum(repeated(answers[:, row]) > 0 for row in range(n)) if continuous else None
        found[name] = IndependenceRecord(agreement=agreement, chance=chance, inputs=n, equal=equal)
        spread += np.square(np.nan_to_num(differences)).sum(axis=(0, 2))
    streams = source.streams(int(spread.argmax()))
    agreement, chance = agreement_in_streams(streams, _seed(evaluation, "inputs"))
    rows = streams.reshape(-1, streams.shape[2])
    equal = repeated(rows) if continuous else None
    found["inputs"] = IndependenceRecord(agreement=agreement, chance=chance, inputs=len(rows), equal=equal)
    return found


def _seed(evaluation: DefenseEvaluation, name: str) -> int:
    return derive(evaluation.seed, "independence of noise", *evaluation.defense, name)


@dataclass
class _Source:
    """Asks a stack about the test inputs with any client, number and repeat, and with other inputs."""

    evaluation: DefenseEvaluation
    context: WorkerContext
    inputs: Images = field(init=False)
    _raw: Array = field(init=False)
    _by_answer: bool = field(init=False)

    def __post_init__(self) -> None:
        victim = self.context.victim(self.evaluation.victim)
        self.inputs = victim.splits.test.x
        self._raw = victim.probabilities(self.inputs)
        self._features = victim.reader(cached=False)
        stack = self.context.stack(self.evaluation.victim, self.evaluation.defense, self.evaluation.seed)
        self._stack = stack
        # An output defense sees answers alone; another input may stand beside any answer.
        self._by_answer = all(isinstance(defense.effective, OutputDefense) for defense in stack.defenses)

    def draws(self) -> int:
        """Return the number of draws for an input."""
        n, classes = self._raw.shape
        most = min(MOST, ANSWERS // n, NUMBERS // (n * classes))
        return int(max(min(round(DRAWS / math.sqrt(n)), most), FEWEST))

    def ask(
        self,
        inputs: Images | None = None,
        raw: Array | None = None,
        *,
        client: str = "client",
        number: int = 0,
        repeat: int = 0,
        smaller: int = 1,
    ) -> Array:
        """Return answers (n, classes) to ``inputs`` of which ``raw`` are those without noise."""
        inputs = self.inputs if inputs is None else inputs
        raw = (self._raw if raw is None else raw) * (1 - smaller * SMALLER)
        seed = derive(self.evaluation.seed, "defense", *self.evaluation.defense, repeat)
        checked = CheckedStack(self._stack, seed)
        batch = Batch(inputs, raw, raw.copy(), client, number, derive(seed, client), self._features)
        answers = checked.answer(batch).probabilities
        checked.check()
        return answers

    def counterpart(self, draw: int, draws: int) -> Array:
        """Return answers that share nothing with any other draw but the answer without noise."""
        n = len(self.inputs)
        rng = np.random.default_rng(derive(self.evaluation.seed, "counterpart", draw))
        others = np.roll(self.inputs, 1 + draw % max(n - 1, 1), axis=0)
        return self.ask(
            others if self._by_answer and n > 1 else _nearly(self.inputs, rng),
            client=f"counterpart-{draw}",
            number=(draws + draw) * n + draw,
            repeat=draws + draw,
            smaller=2 + draw,
        )

    def streams(self, row: int) -> Array:
        """Return answers (streams, queries, classes) to inputs with the answer of input ``row``."""
        length = max(min(LENGTH, len(self.inputs) // STREAMS), 2)
        rng = np.random.default_rng(derive(self.evaluation.seed, "streams"))
        if self._by_answer:
            inputs = np.resize(self.inputs, (STREAMS * length, *self.inputs.shape[1:]))
        else:
            inputs = _nearly(np.repeat(self.inputs[row : row + 1], STREAMS * length, axis=0), rng)
        raw = np.repeat(self._raw[row : row + 1], length, axis=0)
        parts = np.split(inputs, STREAMS)
        ask = partial(self.ask, raw=raw)
        return np.stack([ask(part, client=f"stream-{place}") for place, part in enumerate(parts)])


def _nearly(inputs: Images, rng: np.random.Generator) -> Images:
    """Return inputs with about half of their pixels moved to the next number, by which noise may be keyed."""
    moved = np.nextafter(inputs, np.float32(0.5))
    return np.where(rng.random(inputs.shape) < 0.5, moved, inputs)
