"""What honest users pay for a defense, and what its detector does on traffic it never saw."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics import intervals, utility
from bench.metrics.membership import area_error, area_under_curve
from bench.models.victims import Victim
from bench.runner.answer_probes import contract
from bench.runner.context import HONEST_CLIENT, WorkerContext
from bench.seeds import derive
from bench.store import Outcome
from bench.tasks import DefenseEvaluation
from defenses.base import Answers, Batch, DefenseStack

Array = NDArray[np.float64]
RESAMPLES = 200
"""Bootstrap samples behind the intervals of calibration error and risk-coverage."""


def evaluate_defense(evaluation: DefenseEvaluation, context: WorkerContext) -> Outcome:
    """Send the test split as honest clients of 100 queries, then every pool past the detector."""
    victim = context.victim(evaluation.victim)
    stack = context.stack(evaluation.victim, evaluation.defense, evaluation.seed)
    claims = stack.claims
    repeats = evaluation.repeats if claims.stochastic else 1
    test = victim.splits.test
    raw = victim.probabilities(test.x)
    traffic = [_ask(evaluation, context, test.x, repeat) for repeat in range(repeats)]

    found = Measured()
    _honest(found, [answers.probabilities for answers in traffic], raw, test.y, evaluation.seed)
    found.over_rows("honest.refused", np.stack([answers.refused for answers in traffic]))
    found.over_rows("honest.flagged", np.stack([answers.flagged for answers in traffic]))
    found.over_clients("honest.client_refused", traffic[0].refused)
    found.over_clients("honest.client_flagged", traffic[0].flagged)
    found.values |= contract(evaluation, context, [answers.probabilities for answers in traffic])
    if claims.may_flag:
        found.detection("test", traffic[0].flagged)
        honest = suspicion(stack, victim, test.x)
        for name in evaluation.pools:
            pool = context.pool(evaluation.victim, name, evaluation.seed)
            met = _ask(evaluation, context, pool.x, 0)
            found.detection(name, met.flagged)
            found.values[f"contract.refused.{name}"] = float(met.refused.mean())
            found.ranking(name, honest, suspicion(stack, victim, pool.x))
    return Outcome(
        metrics=found.values,
        info={
            "intervals": found.intervals,
            "drawn": found.drawn,
            "claims": {name: getattr(claims, name) for name in claims.__dataclass_fields__},
            # What was found for those that are given by their honest cost.
            "resolved": {repr(d): repr(d.effective) for d in stack.defenses if d.effective is not d},
        },
        costs={"latency_us": _latency(evaluation, context, test.x)},
    )


def _ask(
    evaluation: DefenseEvaluation, context: WorkerContext, x: NDArray[np.float32], repeat: int
) -> Answers:
    """Send ``x`` (n, …) as clients of 100 queries each, all to one API."""
    api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, repeat)
    parts = [
        api.ask(x[start : start + HONEST_CLIENT], f"honest-{start}")
        for start in range(0, len(x), HONEST_CLIENT)
    ]
    return Answers(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.refused for part in parts]),
        np.concatenate([part.flagged for part in parts]),
    )


def suspicion(stack: DefenseStack, victim: Victim, x: NDArray[np.float32]) -> Array | None:
    """Return (n,) how suspicious each input is to the stack's screens: above 1, one of them flags it.

    A screen tells by ``scores(batch)``, (n, tests), and the ``thresholds_`` (tests,) that it was
    fitted with; None where none does.
    """
    raw = victim.probabilities(x)
    batch = Batch(inputs=x, raw=raw, probabilities=raw, read_features=victim.features)
    standing: list[Any] = [defense.effective for defense in stack.defenses]
    screens = [each for each in standing if hasattr(each, "scores") and hasattr(each, "thresholds_")]
    levels = [np.asarray(screen.scores(batch)) / screen.thresholds_ for screen in screens]
    return np.concatenate(levels, axis=1).max(axis=1) if levels else None


class Measured:
    """Collects values and their 95 % intervals by name."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.intervals: dict[str, list[float]] = {}
        self.drawn: dict[str, list[float]] = {}
        """Values of each repeat, where there are several: they differ by the noise that was drawn."""

    def add(self, name: str, interval: intervals.Interval) -> None:
        """Keep a value with its interval."""
        self.values[name] = interval.value
        self.intervals[name] = [interval.low, interval.high]

    def over_rows(self, name: str, values: NDArray[Any]) -> None:
        """Keep the mean of (repeats, inputs) values, with an interval over both."""
        self.add(name, intervals.mean_interval(values.astype(np.float64)))
        if len(values) > 1:
            self.drawn[name] = [float(each) for each in values.mean(axis=1)]

    def over_clients(self, name: str, marks: NDArray[np.bool_]) -> None:
        """Keep the share of honest clients that met it at least once; ``marks`` (n,) of one repeat.

        The same clients in another repeat are no further clients, so one repeat has to do.
        """
        hit = [marks[s : s + HONEST_CLIENT].any() for s in _clients(len(marks))]
        self.add(name, intervals.share_interval(int(np.sum(hit)), len(hit)))

    def detection(self, pool: str, flagged: NDArray[np.bool_]) -> None:
        """Keep the share of a pool that is flagged, per query and client, and the wait for the first flag."""
        name = f"detection.{pool}"
        self.add(name, intervals.share_interval(int(flagged.sum()), len(flagged)))
        self.over_clients(f"{name}.client", flagged)
        clients = [flagged[s : s + HONEST_CLIENT] for s in _clients(len(flagged))]
        waits = [float(marks.argmax()) + 1 if marks.any() else float("inf") for marks in clients]
        wait = statistics.median(waits)
        self.values[f"{name}.queries_until"] = wait if np.isfinite(wait) else None

    def ranking(self, pool: str, honest: Array | None, other: Array | None) -> None:
        """Keep the AUROC: how often a query of the pool is more suspicious than an honest one.

        With DeLong's interval; at whatever threshold, unlike the share that is flagged.
        """
        if honest is None or other is None or not len(other):
            return
        strange = np.repeat([False, True], [len(honest), len(other)])
        score = np.concatenate([honest, other])
        area, half = area_under_curve(strange, score), 1.96 * area_error(strange, score)
        self.add(
            f"detection.{pool}.auroc", intervals.Interval(area, max(area - half, 0.0), min(area + half, 1.0))
        )


def _clients(n: int) -> range:
    # A last client with fewer queries than the others would look luckier than it is.
    return range(0, max(n - HONEST_CLIENT + 1, 1), HONEST_CLIENT)


def _honest(found: Measured, answers: list[Array], raw: Array, truth: NDArray[np.int64], seed: int) -> None:
    """Measure use: top-1 and accuracy over all queries (a refusal is a miss), the rest over the answered."""
    rows, label = np.arange(len(truth)), raw.argmax(axis=1)
    shown = [np.nan_to_num(told).argmax(axis=1) for told in answers]
    given = [~np.isnan(told).any(axis=1) for told in answers]
    found.over_rows(
        "honest.top1_kept", np.stack([(s == label) & g for s, g in zip(shown, given, strict=True)])
    )
    found.over_rows(
        "honest.accuracy", np.stack([(s == truth) & g for s, g in zip(shown, given, strict=True)])
    )
    found.over_rows("honest.accuracy_undefended", (label == truth)[None])
    right = np.stack([(s == truth) & g for s, g in zip(shown, given, strict=True)]).astype(float)
    before = np.tile((label == truth).astype(float), (len(right), 1))
    found.add("honest.accuracy_lost", intervals.paired_difference(before, right))
    told = np.concatenate([a[g] for a, g in zip(answers, given, strict=True)])
    index = np.concatenate([rows[g] for g in given])
    # Where the answer to each (repeat, input) stands in ``told``; -1 where it was refused.
    place = np.full((len(answers), len(rows)), -1)
    place[np.stack(given)] = np.arange(len(index))
    if not len(index):
        return
    distance = utility.l1(told, raw[index])
    likely = utility.normalised(told)
    loss = utility.negative_log_likelihood(likely, truth[index])
    confidence, correct = likely.max(axis=1), told.argmax(axis=1) == truth[index]
    found.values["honest.l1_max"] = float(distance.max())
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "honest.l1_mean": lambda r: float(distance[r].mean()),
        "honest.nll": lambda r: float(loss[r].mean()),
        "honest.ece": lambda r: utility.expected_calibration_error(confidence[r], correct[r]),
        "honest.aurc": lambda r: utility.area_under_risk_coverage(confidence[r], correct[r]),
    }
    # Inputs are resampled, each with its answers in all repeats: those are not independent of it.
    rng = np.random.default_rng(derive(seed, "audit bootstrap"))
    inputs = rows[(place >= 0).any(axis=0)]
    drawn = (place[:, rng.choice(inputs, size=len(inputs))].ravel() for _ in range(RESAMPLES))
    draws = [draw[draw >= 0] for draw in drawn]
    for name, measure in measures.items():
        value = measure(np.arange(len(index)))
        if len(answers) > 1 and (place >= 0).any(axis=1).all():
            found.drawn[name] = [measure(each[each >= 0]) for each in place]
        low, high = np.percentile([measure(draw) for draw in draws], [2.5, 97.5])
        # Resampling lifts a small calibration error, at times beyond what was measured.
        found.add(name, intervals.Interval(value, min(float(low), value), max(float(high), value)))


def _latency(
    evaluation: DefenseEvaluation, context: WorkerContext, x: NDArray[np.float32]
) -> dict[str, float]:
    """Return microseconds a query that the defense adds, at batches of 1 and 256; medians."""
    taken = {}
    for batch, times in ((1, 21), (256, 5)):
        rows = x[np.arange(batch) % len(x)]
        seconds = []
        for _ in range(times):
            api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, 0)
            start = time.perf_counter()
            api.predict(rows)
            seconds.append(time.perf_counter() - start - api.account.seconds_model)
        taken[str(batch)] = statistics.median(seconds) / batch * 1e6
    return taken
