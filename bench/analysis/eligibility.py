"""Whether benign users can afford a defense: the criteria on what they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from bench.analysis.verdicts import Criterion, CriterionName
from bench.calls import parse_call
from bench.metrics.intervals import Interval
from bench.records import Record
from bench.run_facts import ReportOptions

Sells: TypeAlias = Literal["labels", "ranking", "probabilities"]
WAYS: tuple[Sells, ...] = get_args(Sells)
_LABELS: frozenset[CriterionName] = frozenset(
    {"accuracy", "balanced accuracy", "rejected", "adaptive", "valid"}
)
_RANKING: frozenset[CriterionName] = _LABELS | {"confidence", "ranking"}
REQUIRED: dict[Sells, frozenset[CriterionName]] = {
    "labels": _LABELS,
    "ranking": _RANKING,
    "probabilities": _RANKING | {"brier", "changed"},
}
"""The criteria that a defense has to meet, by what is sold."""
NOT_MEASURED = "not measured by the version that made this store: run again"
TAIL = 0.025


def criterion(
    name: CriterionName,
    loss: Interval | None,
    limit: float,
    inputs: int | None = None,
    *,
    share: bool = True,
    detail: str = "",
) -> Criterion:
    """Return the verdict on a loss: affordable if all of its interval is up to ``limit``, too dear if above.

    ``inputs``: number of labelled test inputs, to say how many would decide. ``share``: whether the loss is a
    share of inputs, so that even no loss at all needs a number of inputs to be shown.
    """
    if loss is None or any(math.isnan(each) for each in (loss.value, loss.low, loss.high)):
        return Criterion(name, "not shown", None, limit, detail=detail or NOT_MEASURED)
    if loss.high <= limit:
        return Criterion(name, "affordable", loss, limit, detail=detail)
    if loss.low > limit:
        return Criterion(name, "too dear", loss, limit, detail=detail)
    needed = needed_inputs(loss, limit, inputs, share=share) if inputs else None
    return Criterion(name, "not shown", loss, limit, needed, detail or "too few test inputs to tell")


def needed_inputs(loss: Interval, limit: float, inputs: int, *, share: bool = True) -> int | None:
    """Return how many labelled test inputs would decide, if the estimate stays: from the interval's width.

    The distance from the estimate to the end of the interval that matters shrinks with the root of their
    number. Where not one input changes, the upper end is 1 - .025^(1/n): 368 inputs show at most .01. None
    where the estimate is the limit itself.
    """
    least = inputs_without_change(limit) if share else 2
    if loss.value < limit:
        if share and abs(loss.high - (1 - TAIL ** (1 / inputs))) < 1e-9:
            return least
        ratio = (loss.high - loss.value) / (limit - loss.value)
    elif loss.value > limit:
        ratio = (loss.value - loss.low) / (loss.value - limit)
    else:
        return None
    return max(math.ceil(inputs * ratio**2), least)


def inputs_without_change(limit: float) -> int:
    """Return how many inputs show that at most ``limit`` of all change, if not one of them does."""
    if limit <= 0:
        return 0  # no number of inputs does
    return math.ceil(math.log(TAIL) / math.log1p(-limit)) if limit < 1 else 1


def utility_criteria(evaluation: Record, options: ReportOptions, inputs: int | None) -> list[Criterion]:
    """Return the criteria on what benign users lose, from a defense evaluation.

    ``inputs``: number of test inputs; None where unknown.
    """
    kept = keeps_every_label(evaluation)
    none, detail = Interval(0.0, 0.0, 0.0), "every answer keeps the victim's label"

    def loss(name: str) -> Interval | None:
        value, ends = evaluation.metrics.get(name), evaluation.info.intervals.get(name)
        return None if value is None or ends is None else Interval(value, *ends)

    def of_labels(name: CriterionName, metric: str) -> Criterion:
        if kept:
            return criterion(name, none, options.accuracy, inputs, detail=detail)
        return criterion(name, loss(metric), options.accuracy, inputs)

    found = [
        of_labels("accuracy", "honest.accuracy_lost"),
        of_labels("balanced accuracy", "honest.balanced_accuracy_lost"),
        criterion("rejected", none if kept else loss("honest.refused"), options.rejected, inputs),
    ]
    if answers_labels_alone(evaluation):
        return [*found, Criterion("confidence", "too dear", detail="answers have no confidence")]
    area = "honest.auroc_lost" if "honest.auroc_lost" in evaluation.metrics else "honest.aurc_added"
    return [
        *found,
        Criterion("confidence", "affordable"),
        criterion("ranking", loss(area), options.ranking, inputs, share=False),
        criterion("brier", loss("honest.brier_added"), options.brier, inputs, share=False),
        criterion("changed", loss("honest.changed"), options.changed, inputs),
    ]


def keeps_every_label(evaluation: Record) -> bool:
    """Return whether a stack keeps the victim's label in every answer, by its claims, all of them checked.

    It claims so, has neither ties nor rejections, and the predicates of these claims are on record, checked
    on every answer of the evaluation and never broken.
    """
    claims, predicates = evaluation.info.claims, evaluation.info.predicates
    checked = all(
        name in predicates and not predicates[name].broken
        for name in ("the victim's top-1", "one entry has the maximum", "no query rejected")
    )
    seen = evaluation.metrics.get("honest.top1_kept") == 1
    return checked and seen and claims.keeps_label and not claims.ties and not claims.may_refuse


def answers_labels_alone(evaluation: Record) -> bool:
    """Return whether answers are one-hot: a label without confidence."""
    one_hot = evaluation.info.claims.one_hot
    if one_hot is None:
        # Older records do not say; the defense of this name was the only one.
        return any(parse_call(text)[0] == "label_only" for text in evaluation.task.defense)
    return one_hot


def failed_criteria(criteria: Sequence[Criterion], sells: Sells) -> tuple[Criterion, ...]:
    """Return the criteria that decide against a defense, or cannot be decided, where ``sells`` is sold."""
    return tuple(each for each in criteria if each.name in REQUIRED[sells] and each.verdict != "affordable")


def ways_to_sell(criteria: Sequence[Criterion]) -> tuple[Sells, ...]:
    """Return what can be sold with the defense at a loss that users can afford."""
    return tuple(way for way in WAYS if not failed_criteria(criteria, way))
