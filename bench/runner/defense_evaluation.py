"""Evaluation of a defense: utility loss for benign users, detection rates and latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import NotApplicable, PluginError
from bench.metrics import intervals, utility
from bench.metrics.definitions import find
from bench.metrics.detection import highest_position
from bench.metrics.membership import auc, auc_error
from bench.metrics.two_classes import average_precision
from bench.models.plugin_guard import PluginCall, describe, generator
from bench.models.victims import Victim
from bench.records import ClaimsRecord, Costs, Info, Outcome
from bench.runner.answer_probes import answer_statistics
from bench.runner.context import CLIENT_QUERIES, WorkerContext
from bench.runner.group_utility import group_losses
from bench.runner.noise_checks import noise_independence
from bench.runner.ood_utility import ood_losses
from bench.runner.predicate_checks import PredicateChecks
from bench.seeds import derive
from bench.tasks import DefenseEvaluation
from defenses.base import Answers, Batch, Calibration, DefenseStack, ScoredDetector

Array = NDArray[np.float64]
OWN_POOL = "in-distribution"
"""The pool on which predicates are checked besides those of the evaluation: the victim's pool split."""
GATED = frozenset({"gate difference", "gate fact"})
"""Tables of the metrics that the regression gate compares."""
RESAMPLES = 200
"""Bootstrap samples for the intervals of L1, likelihood, calibration error and risk-coverage."""


def evaluate_defense(evaluation: DefenseEvaluation, context: WorkerContext) -> Outcome:
    """Measure a defense on the test split, sent by benign clients of 100 queries, and on the pools."""
    # A matrix may name pools for victims of several kinds.
    there = (name for name in evaluation.pools if context.has_pool(evaluation.victim, name, evaluation.seed))
    evaluation = replace(evaluation, pools=tuple(there))
    victim = context.victim(evaluation.victim)
    stack = context.stack(evaluation.victim, evaluation.defense, evaluation.seed)
    claims = stack.claims
    repeats = evaluation.repeats if claims.stochastic else 1
    test = victim.splits.test
    raw = victim.probabilities(test.x)
    checks = PredicateChecks(stack)
    traffic = [_query(evaluation, context, test.x, repeat, checks) for repeat in range(repeats)]

    measured = Measurements()
    _utility(measured, [answers.probabilities for answers in traffic], raw, test.y, evaluation.seed)
    _use(
        measured,
        [answers.probabilities for answers in traffic],
        raw,
        test.y,
        evaluation.thresholds,
        _fitted_temperature(evaluation, context),
        evaluation.seed,
    )
    shown = [answers.probabilities for answers in traffic]
    for name, lost in group_losses(victim, shown, raw, evaluation.thresholds).items():
        if isinstance(lost, intervals.Interval):
            measured.add(name, lost)
        else:
            measured.values[name] = lost
    measured.add_mean("honest.refused", np.stack([answers.refused for answers in traffic]))
    measured.add_mean("honest.flagged", np.stack([answers.flagged for answers in traffic]))
    measured.add_client_share("honest.client_refused", traffic[0].refused)
    measured.add_client_share("honest.client_flagged", traffic[0].flagged)
    measured.values |= answer_statistics(evaluation, context, shown)
    if repeats > 1:
        singly = measured.values["contract.alone"] != 1
        measured.add_drawn(
            [
                answer_statistics(evaluation, context, [each], repeat, singly=singly)
                for repeat, each in enumerate(shown)
            ]
        )
    _check_again(checks, evaluation, context, traffic[0])
    pools = {
        name: _query(evaluation, context, context.pool(evaluation.victim, name, evaluation.seed).x, 0, checks)
        for name in dict.fromkeys((*evaluation.pools, OWN_POOL))
    }
    for name, interval in ood_losses(evaluation, context, traffic[0], pools).items():
        measured.add(name, interval)
    flagged = {}
    if claims.may_flag:
        measured.add_detection("test", traffic[0].flagged)
        flagged = {f"flagged.{name}": pools[name].flagged for name in evaluation.pools}
        flagged["flagged.test"] = traffic[0].flagged
        detectors = DetectorScores.of(stack, context.calibration(evaluation.victim, evaluation.seed))
        benign = detectors.positions(victim, test.x)
        for name in evaluation.pools:
            pool = context.pool(evaluation.victim, name, evaluation.seed)
            pool_answers = pools[name]
            measured.add_detection(name, pool_answers.flagged)
            measured.values[f"contract.refused.{name}"] = float(pool_answers.refused.mean())
            measured.add_auroc(name, benign, detectors.positions(victim, pool.x))
        if repeats > 1:
            measured.add_drawn(_drawn_detection(evaluation, context, traffic, measured.values))
    return Outcome(
        metrics=measured.values,
        arrays={name: marks.astype(np.uint8) for name, marks in flagged.items()} | _labels(raw),
        info=Info(
            intervals=measured.intervals,
            drawn=measured.drawn,
            claims=ClaimsRecord(**vars(claims)),
            predicates=checks.records(),
            independence=noise_independence(evaluation, context),
            retrained=_on_retrained_victims(evaluation, context, measured.values),
            # The parameters found for defenses that are given by their utility loss.
            resolved={repr(d): repr(d.effective) for d in stack.defenses if d.effective is not d},
        ),
        costs=Costs(latency_us=_latency(evaluation, context, test.x)),
    )


def _on_retrained_victims(
    evaluation: DefenseEvaluation, context: WorkerContext, values: Mapping[str, float | None]
) -> dict[str, list[float]]:
    """Return each gated metric's values on victims trained anew with other rounding errors, by name.

    They have the noise of repeat 0. Where a defense cannot be fitted on one of the victims, it is left out.
    """
    single = replace(evaluation, repeats=1)
    measured = []
    for number in range(evaluation.retrainings):
        try:
            measured.append(_gated(single, context.retrained(evaluation.victim, number)))
        except NotApplicable:
            continue
    found: dict[str, list[float]] = {}
    for name in values:
        own = [each[name] for each in measured if each.get(name) is not None]
        if own and len(own) == len(measured) and GATED & set(find(name).tables):
            found[name] = [float(value) for value in own if value is not None]
    return found


def _gated(evaluation: DefenseEvaluation, context: WorkerContext) -> dict[str, float | None]:
    """Return the metrics that a defense evaluation has in common with a gate, of one repeat."""
    stack = context.stack(evaluation.victim, evaluation.defense, evaluation.seed)
    victim = context.victim(evaluation.victim)
    test = victim.splits.test
    answers = _query(evaluation, context, test.x, 0)
    measured = Measurements()
    _utility(measured, [answers.probabilities], victim.probabilities(test.x), test.y, None)
    measured.add_mean("honest.refused", answers.refused[None])
    measured.add_mean("honest.flagged", answers.flagged[None])
    measured.values |= answer_statistics(evaluation, context, [answers.probabilities], singly=False)
    if stack.claims.may_flag:
        measured.add_detection("test", answers.flagged)
        for name in evaluation.pools:
            pool = context.pool(evaluation.victim, name, evaluation.seed)
            given = _query(evaluation, context, pool.x, 0)
            measured.add_detection(name, given.flagged)
            measured.values[f"contract.refused.{name}"] = float(given.refused.mean())
    return measured.values


def _query(
    evaluation: DefenseEvaluation,
    context: WorkerContext,
    x: NDArray[np.float32],
    repeat: int,
    checks: PredicateChecks | None = None,
    *,
    times: int = 1,
) -> Answers:
    """Send ``x`` (n, …) as clients of 100 queries each, all to one API; return the answers.

    ``times``: how often each client sends its queries; the last answers are returned. ``checks``: get all
    answers.
    """
    watch = None if checks is None else checks.watch
    api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, repeat, watch=watch)
    parts = []
    for start in range(0, len(x), CLIENT_QUERIES):
        rows, client = x[start : start + CLIENT_QUERIES], f"honest-{start}"
        parts.append([api.query(rows, client) for _ in range(times)][-1])
    api.close()
    answers = Answers(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.refused for part in parts]),
        np.concatenate([part.flagged for part in parts]),
    )
    if checks is not None:
        checks.add(context.victim(evaluation.victim).probabilities(x), answers)
    return answers


def _drawn_detection(
    evaluation: DefenseEvaluation,
    context: WorkerContext,
    traffic: Sequence[Answers],
    measured: Mapping[str, float | None],
) -> list[dict[str, float | None]]:
    """Return, for each repeat, the flagged and rejected shares of the test inputs and the pools.

    The pools are queried again only if decisions on the test inputs depend on the noise.
    """
    rejected = "contract.refused."
    found: list[dict[str, float | None]] = [
        {"detection.test": float(answers.flagged.mean())} for answers in traffic
    ]
    first = traffic[0]
    moved = any(
        not (np.array_equal(each.flagged, first.flagged) and np.array_equal(each.refused, first.refused))
        for each in traffic
    )
    for repeat, values in enumerate(found):
        for name in evaluation.pools:
            shares = measured[f"detection.{name}"], measured[rejected + name]
            if moved and repeat:
                x = context.pool(evaluation.victim, name, evaluation.seed).x
                answers = _query(evaluation, context, x, repeat)
                shares = float(answers.flagged.mean()), float(answers.refused.mean())
            values[f"detection.{name}"], values[rejected + name] = shares
    return found


def _check_again(
    checks: PredicateChecks, evaluation: DefenseEvaluation, context: WorkerContext, first: Answers
) -> None:
    """Check claims on a second answer to the test inputs: with another seed, and when they are sent again."""
    claims = context.stack(evaluation.victim, evaluation.defense, evaluation.seed).claims
    x = context.victim(evaluation.victim).splits.test.x
    if not claims.stochastic:
        # Other streams than those of repeat 0, whatever the number of repeats.
        checks.add_equal("the same for any seed", first, _query(evaluation, context, x, 1, checks))
    if not claims.counts_queries and (claims.consistent_noise or not claims.stochastic):
        again = _query(evaluation, context, x, 0, times=2)
        checks.add_equal("the same when sent again", first, again)


@dataclass(frozen=True)
class DetectorScores:
    """The detectors of a stack that have scores, each with the scores of the calibration split."""

    detectors: Sequence[tuple[ScoredDetector, Array]]

    @classmethod
    def of(cls, stack: DefenseStack, calibration: Calibration) -> DetectorScores:
        """Return the detectors of a fitted stack."""
        batch = Batch(
            inputs=calibration.inputs,
            raw=calibration.probabilities,
            probabilities=calibration.probabilities,
            read_features=calibration.read_features,
        )
        fitted = [defense.effective for defense in stack.defenses]
        return cls([(each, _scores(each, batch)) for each in fitted if isinstance(each, ScoredDetector)])

    def positions(self, victim: Victim, x: NDArray[np.float32]) -> Array | None:
        """Return (n,) how unusual inputs are: the highest position of a score among the calibration split's.

        It depends on no threshold, so that neither does an AUROC of it. None if no detector has scores.
        """
        raw = victim.probabilities(x)
        batch = Batch(inputs=x, raw=raw, probabilities=raw, read_features=victim.reader(cached=False))
        found = [
            highest_position(_scores(each, batch), reference)
            for each, reference in self.detectors
            if reference.shape[1]
        ]
        return np.max(found, axis=0) if found else None


def _scores(detector: ScoredDetector, batch: Batch) -> Array:
    """Return the scores of the tests that the detector uses, (n, tests in use)."""
    who = describe(detector)
    own = replace(
        batch, inputs=batch.inputs.copy(), raw=batch.raw.copy(), probabilities=batch.probabilities.copy()
    )
    with PluginCall(who, "scores", generator("defense", 0)):
        scores, thresholds = np.array(detector.scores(own)), np.atleast_1d(detector.thresholds_)
    if scores.shape != (len(batch), len(thresholds)):
        raise PluginError(
            f"{who} returned scores of shape {scores.shape} for {len(batch)} queries and "
            f"{len(thresholds)} thresholds; return one row a query and one column a threshold"
        )
    return scores[:, ~np.isposinf(thresholds)]


class Measurements:
    """Collects values and their 95 % intervals by name."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.intervals: dict[str, list[float]] = {}
        self.drawn: dict[str, list[float]] = {}
        """Values of each repeat, where there are several; these differ by the defense's random noise."""

    def add(self, name: str, interval: intervals.Interval) -> None:
        """Keep a value with its interval."""
        self.values[name] = interval.value
        self.intervals[name] = [interval.low, interval.high]

    def add_mean(self, name: str, values: NDArray[Any]) -> None:
        """Keep the mean of (repeats, inputs) values, with an interval over both."""
        self.add(name, intervals.mean_interval(values.astype(np.float64)))
        if len(values) > 1:
            self.drawn[name] = [float(each) for each in values.mean(axis=1)]

    def add_drawn(self, repeats: Sequence[Mapping[str, float | None]]) -> None:
        """Keep the values of each repeat by name; a value that one of them lacks is left out."""
        for name in repeats[0]:
            values = [each[name] for each in repeats]
            present = [float(value) for value in values if value is not None]
            if len(present) == len(values):
                self.drawn[name] = present

    def add_client_share(self, name: str, marks: NDArray[np.bool_]) -> None:
        """Keep the share of clients with at least one mark; ``marks`` (n,) are those of one repeat.

        Only one repeat is used, because the clients of other repeats are the same.
        """
        hit = [marks[s : s + CLIENT_QUERIES].any() for s in _clients(len(marks))]
        self.add(name, intervals.share_interval(int(np.sum(hit)), len(hit)))

    def add_detection(self, pool: str, flagged: NDArray[np.bool_]) -> None:
        """Keep a pool's flagged share, per query and per client, and the queries until the first flag."""
        name = f"detection.{pool}"
        self.add(name, intervals.share_interval(int(flagged.sum()), len(flagged)))
        self.add_client_share(f"{name}.client", flagged)
        clients = [flagged[s : s + CLIENT_QUERIES] for s in _clients(len(flagged))]
        waits = [float(marks.argmax()) + 1 if marks.any() else float("inf") for marks in clients]
        wait = statistics.median(waits)
        self.values[f"{name}.queries_until"] = wait if np.isfinite(wait) else None

    def add_auroc(self, pool: str, benign: Array | None, other: Array | None) -> None:
        """Keep the AUROC of detector scores, benign queries against the pool's, with DeLong's interval.

        Unlike the flagged share, it does not depend on the threshold.
        """
        if benign is None or other is None or not len(other):
            return
        from_pool = np.repeat([False, True], [len(benign), len(other)])
        score = np.concatenate([benign, other])
        area, half = auc(from_pool, score), 1.96 * auc_error(from_pool, score)
        self.add(
            f"detection.{pool}.auroc", intervals.Interval(area, max(area - half, 0.0), min(area + half, 1.0))
        )


def _clients(n: int) -> range:
    # A last client with fewer queries than the others is left out: fewer queries give fewer marks.
    return range(0, max(n - CLIENT_QUERIES + 1, 1), CLIENT_QUERIES)


def _utility(
    measured: Measurements, answers: list[Array], raw: Array, truth: NDArray[np.int64], seed: int | None
) -> None:
    """Measure top-1 and accuracy over all queries (a rejected one is wrong), the rest over the answered.

    ``seed``: of the bootstrap for the intervals of the rest; None: no such intervals.
    """
    rows, label = np.arange(len(truth)), raw.argmax(axis=1)
    shown = [np.nan_to_num(each).argmax(axis=1) for each in answers]
    given = [~np.isnan(each).any(axis=1) for each in answers]
    measured.add_mean(
        "honest.top1_kept", np.stack([(s == label) & g for s, g in zip(shown, given, strict=True)])
    )
    measured.add_mean(
        "honest.accuracy", np.stack([(s == truth) & g for s, g in zip(shown, given, strict=True)])
    )
    measured.add_mean("honest.accuracy_undefended", (label == truth)[None])
    right = np.stack([(s == truth) & g for s, g in zip(shown, given, strict=True)]).astype(float)
    before = np.tile((label == truth).astype(float), (len(right), 1))
    measured.add("honest.accuracy_lost", intervals.paired_difference(before, right))
    answered = np.concatenate([a[g] for a, g in zip(answers, given, strict=True)])
    index = np.concatenate([rows[g] for g in given])
    # The row in ``answered`` of the answer to each (repeat, input); -1 where it was rejected.
    position = np.full((len(answers), len(rows)), -1)
    position[np.stack(given)] = np.arange(len(index))
    if not len(index):
        return
    distance = utility.l1(answered, raw[index])
    likely = utility.normalised(answered)
    loss = utility.negative_log_likelihood(likely, truth[index])
    confidence, correct = likely.max(axis=1), answered.argmax(axis=1) == truth[index]
    measured.values["honest.l1_max"] = float(distance.max())
    every = len(answers) > 1 and bool((position >= 0).any(axis=1).all())
    if every:
        measured.drawn["honest.l1_max"] = [float(distance[each[each >= 0]].max()) for each in position]
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "honest.l1_mean": lambda r: float(distance[r].mean()),
        "honest.nll": lambda r: float(loss[r].mean()),
        "honest.ece": lambda r: utility.expected_calibration_error(confidence[r], correct[r]),
        "honest.aurc": lambda r: utility.area_under_risk_coverage(confidence[r], correct[r]),
    }
    if seed is None:
        measured.values |= {name: measure(np.arange(len(index))) for name, measure in measures.items()}
        return
    # Inputs are resampled, each with its answers in all repeats, because these depend on each other.
    rng = np.random.default_rng(derive(seed, "audit bootstrap"))
    inputs = rows[(position >= 0).any(axis=0)]
    drawn = (position[:, rng.choice(inputs, size=len(inputs))].ravel() for _ in range(RESAMPLES))
    draws = [draw[draw >= 0] for draw in drawn]
    for name, measure in measures.items():
        value = measure(np.arange(len(index)))
        if every:
            measured.drawn[name] = [measure(each[each >= 0]) for each in position]
        low, high = np.percentile([measure(draw) for draw in draws], [2.5, 97.5])
        # Resampling increases a small calibration error, sometimes above the measured one.
        measured.add(name, intervals.Interval(value, min(float(low), value), max(float(high), value)))


def _labels(raw: Array) -> dict[str, NDArray[np.uint8]]:
    """Return the victim's labels of the test inputs, (n,), as an array of a record; {} above 256 classes."""
    if raw.shape[1] > 256:
        return {}
    return {"victim_label": raw.argmax(axis=1).astype(np.uint8)}


def _fitted_temperature(evaluation: DefenseEvaluation, context: WorkerContext) -> float | None:
    """Return the temperature that fits the answers to the calibration split; None without answers."""
    split = context.victim(evaluation.victim).splits.calibration
    if not len(split.x):
        return None
    answers = _query(evaluation, context, split.x, 0).probabilities
    given = ~np.isnan(answers).any(axis=1)
    if not given.any():
        return None
    return utility.temperature(utility.normalised(answers[given]), split.y[given])


def _use(
    measured: Measurements,
    answers: list[Array],
    raw: Array,
    truth: NDArray[np.int64],
    thresholds: Sequence[float],
    temperature: float | None,
    seed: int,
) -> None:
    """Measure whether answers keep their use for benign users, against those of the victim: ``raw``.

    Balanced accuracy is over all queries (a rejected one is wrong); the rest is over the inputs that are
    answered in every repeat. Confidence is the largest entry as served. ``thresholds``: confidences at
    which users decide. ``temperature``: for the calibration error after temperature scaling; None: without.
    """
    label, repeats = raw.argmax(axis=1), len(answers)
    measured.add_mean("honest.commonest_label", (label == np.bincount(label).argmax())[None])
    given = np.stack([~np.isnan(each).any(axis=1) for each in answers])
    shown = np.stack([np.nan_to_num(each).argmax(axis=1) for each in answers])
    weights = utility.balanced_weights(truth)
    before, right = np.tile(label == truth, (repeats, 1)), (shown == truth) & given
    # By its errors, most of which are 0, whatever the weights.
    error = intervals.mean_interval(~right * weights / weights.max())
    measured.add("honest.balanced_accuracy", _scaled(error, -weights.max(), (0.0, 1.0), shift=1.0))
    lost = intervals.paired_difference(before * weights / weights.max(), right * weights / weights.max())
    measured.add("honest.balanced_accuracy_lost", _scaled(lost, weights.max(), (-1.0, 1.0)))

    rows = np.flatnonzero(given.all(axis=0))
    if not len(rows):
        return
    served, correct = np.stack(answers)[:, rows], right[:, rows]
    confidence, sure = served.max(axis=2), raw[rows].max(axis=1)
    crossed = []
    for threshold in thresholds:
        crossed.append((confidence >= threshold) != (sure >= threshold))
        measured.add_mean(f"honest.changed.{threshold}", crossed[-1])
    measured.add_mean("honest.changed", np.any(crossed, axis=0))
    score = np.stack([utility.brier_score(each, truth[rows]) for each in served])
    own = np.tile(utility.brier_score(raw[rows], truth[rows]), (repeats, 1))
    # Scores are in [0, 2]; intervals know the ends of [0, 1].
    measured.add("honest.brier", _scaled(intervals.mean_interval(score / 2), 2.0, (0.0, 2.0)))
    added = intervals.paired_difference(score / 2, own / 2)
    measured.add("honest.brier_added", _scaled(added, 2.0, (-2.0, 2.0)))

    was_right, of_class = before[0, rows], truth[rows] == 1
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "honest.aurc_added": lambda r: (
            utility.area_under_risk_coverage(confidence[:, r].ravel(), correct[:, r].ravel())
            - utility.area_under_risk_coverage(sure[r], was_right[r])
        )
    }
    if temperature is not None:
        scaled = np.stack([utility.at_temperature(utility.normalised(each), temperature) for each in served])
        surest = scaled.max(axis=2)
        measures["honest.ece_scaled"] = lambda r: utility.expected_calibration_error(
            surest[:, r].ravel(), correct[:, r].ravel()
        )
    if raw.shape[1] == 2 and 0 < of_class.sum() < len(rows):
        margin, own_margin = served[:, :, 1] - served[:, :, 0], raw[rows, 1] - raw[rows, 0]
        measures["honest.auroc_lost"] = lambda r: (
            utility.area_under_roc(own_margin[r], of_class[r])
            - utility.area_under_roc(margin[:, r].ravel(), np.tile(of_class[r], repeats))
        )
        # Over all repeats together, as they are served; resampling them would take as long as all the rest.
        score, wanted = margin.ravel(), np.tile(of_class, repeats)
        measured.values["honest.auroc"] = utility.area_under_roc(score, wanted)
        measured.values["honest.average_precision"] = average_precision(wanted, score)
        before_defense = average_precision(of_class, own_margin)
        measured.values["honest.average_precision_lost"] = None
        if before_defense is not None and measured.values["honest.average_precision"] is not None:
            measured.values["honest.average_precision_lost"] = (
                before_defense - measured.values["honest.average_precision"]
            )
    rng = np.random.default_rng(derive(seed, "bootstrap of use"))
    draws = [rng.choice(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
    for name, measure in measures.items():
        value = measure(np.arange(len(rows)))
        # A draw may hold one class alone, which has no AUROC.
        drawn = [each for each in map(measure, draws) if not np.isnan(each)]
        low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (-1.0, 1.0)
        measured.add(name, intervals.Interval(value, min(float(low), value), max(float(high), value)))


def _scaled(
    interval: intervals.Interval, scale: float, span: tuple[float, float], *, shift: float = 0.0
) -> intervals.Interval:
    """Return ``shift`` plus ``scale`` times the estimate, its limits within ``span``."""
    low, high = sorted(
        min(max(shift + scale * end, span[0]), span[1]) for end in (interval.low, interval.high)
    )
    return intervals.Interval(shift + scale * interval.value, low, high)


def _latency(
    evaluation: DefenseEvaluation, context: WorkerContext, x: NDArray[np.float32]
) -> dict[str, float]:
    """Return the median microseconds that the defense adds to a query, at batches of 1 and 256."""
    latency = {}
    for batch, times in ((1, 21), (256, 5)):
        rows = x[np.arange(batch) % len(x)]
        seconds = []
        for _ in range(times):
            api = context.api(evaluation.victim, evaluation.defense, evaluation.seed, 0)
            api.predict(rows)
            seconds.append(api.account.seconds_defense)
        latency[str(batch)] = statistics.median(seconds) / batch * 1e6
    return latency
