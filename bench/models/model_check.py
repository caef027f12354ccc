"""What is seen of a model and its data before anything is run: findings, each a sentence with what to do.

A *fault* makes an assessment worthless; a *note* is something to know. Nothing here changes the model, and
what is asked of it is a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.datasets import Splits
from bench.metrics.balance import commonest_share, is_imbalanced
from bench.models.victims import Victim

Inputs = NDArray[np.float32]
Ask = Callable[[Inputs], NDArray[Any]]
Level = Literal["fault", "note"]

SAMPLE = 512
"""Inputs that are asked about to learn what the answers are."""
FEWEST_OF_A_LABEL = 50
"""Test inputs that the model has to give a label, for top-1 to say anything about it."""
ENOUGH_INPUTS = 368
"""Labelled test inputs that can show a loss of at most 1 pp, if there is none (Clopper and Pearson 1934)."""
SAME = 1e-6
"""Difference below which two answers to one input are equal, relative to the largest answer."""
OF_BATCH = 1e-3
"""Difference from which an answer depends on the other rows of its batch."""
BATCH = 256
MOST_NAMES = 5
"""Names in a sentence; of more, the first, and how many there are."""


@dataclass(frozen=True)
class Finding:
    """A sentence on the model or its data, and whether it makes an assessment worthless."""

    level: Level
    text: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds that the model takes for a query: sent alone, and in a batch of 256."""

    alone: float
    batched: float


def fault(text: str) -> Finding:
    """Return a finding that makes an assessment worthless."""
    return Finding("fault", text)


def note(text: str) -> Finding:
    """Return a finding that is good to know."""
    return Finding("note", text)


def listed(names: Sequence[object]) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ", ".join(repr(str(name)) for name in names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def behaviour_findings(ask: Ask, x: Inputs) -> Iterator[Finding]:
    """Yield whether the same inputs (n, …) get the same answers again, and others in another batch."""
    few = x[: min(len(x), BATCH)]
    first, second = ask(few), ask(few)
    if first.dtype.kind not in "fiu" or first.shape != second.shape:
        if first.shape != second.shape or (first != second).any():
            yield _varies(float((first != second).mean()) if first.shape == second.shape else 1.0)
        return
    largest = max(1.0, float(np.nanmax(np.abs(first)))) if first.size else 1.0
    apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    if apart.size and np.nanmax(apart) > SAME * largest:
        rows = apart.reshape(len(few), -1).max(axis=1) > SAME * largest
        yield _varies(float(rows.mean()), float(np.nanmax(apart)))
        return  # whether the batch matters cannot be seen in answers that vary
    some = range(0, len(few), max(1, len(few) // 16))
    alone = np.concatenate([np.asarray(ask(few[row : row + 1])) for row in some])
    among = np.abs(alone.astype(np.float64) - first[list(some)].astype(np.float64))
    if among.size and np.nanmax(among) > OF_BATCH * largest:
        yield fault(
            f"an input alone gets another answer than in a batch, by up to {np.nanmax(among):.2g}; put the "
            "model in evaluation mode (batch normalisation, dropout)"
        )


def _varies(share: float, apart: float | None = None) -> Finding:
    by = "" if apart is None else f", by up to {apart:.2g}"
    return note(
        f"asked twice about the same inputs, the model answers {100 * share:.0f} % of them differently{by}: "
        "results are those of a randomised model; switch off dropout if it is not meant to be one"
    )


def latency(ask: Ask, x: Inputs, *, seconds: float = 2.0) -> Latency:
    """Return how long a query takes, the median of several, within about twice ``seconds``."""
    return Latency(
        _milliseconds(ask, x[:1], seconds), _milliseconds(ask, x[:BATCH], seconds) / len(x[:BATCH])
    )


def _milliseconds(ask: Ask, x: Inputs, seconds: float) -> float:
    ask(x)
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < seconds and len(taken) < 10):
        started = time.perf_counter()
        ask(x)
        taken.append(time.perf_counter() - started)
        if sum(taken) > seconds:
            break
    return 1000 * float(np.median(taken))


def label_findings(
    labels: NDArray[np.int64],
    true: NDArray[np.int64] | None,
    classes: int,
    *,
    names: Sequence[str] = (),
    stated: bool = False,
) -> Iterator[Finding]:
    """Yield what the model's labels (n,) of the test inputs tell: its balance and its accuracy.

    ``true``: (n,) true classes, or None. ``names``: of the classes. ``stated``: of two classes, whether the
    probability is known from which users decide for the second.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts > 0).sum() < 2:
        yield fault(
            f"the model gives every test input the label {_name(int(labels[0]), names)!r}: there is nothing "
            "to extract; check the order of columns, their scale, and the data"
        )
        return
    rare = rare_labels(labels, classes)
    if rare:
        few = listed([_name(number, names) for number in rare])
        yield note(
            f"the model gives fewer than {FEWEST_OF_A_LABEL} of {len(labels):,} test inputs the label {few}: "
            "top-1 says little about it; more inputs would help"
            + (
                ", or the threshold at which users decide (--threshold)"
                if classes == 2 and not stated
                else ""
            )
        )
    share = commonest_share(labels)
    if is_imbalanced(share, classes):
        yield note(
            f"the model gives {100 * share:.0f} % of test inputs the label "
            f"{_name(int(counts.argmax()), names)!r}: balanced fidelity is the headline"
        )
    if true is not None:
        yield from _accuracy(labels, true, names)


def rare_labels(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the classes that the model gives fewer than :data:`FEWEST_OF_A_LABEL` test inputs (n,)."""
    counts = np.bincount(labels, minlength=classes)
    return [number for number in range(classes) if counts[number] < FEWEST_OF_A_LABEL]


@dataclass(frozen=True)
class BaseRate:
    """``rate``: share of the second of two classes. ``threshold``: there a model decides so often for it."""

    rate: float
    threshold: float


def base_rate(victim: Victim, *, labelled: bool) -> BaseRate | None:
    """Return the threshold that stands for one that nobody stated; None where none is needed.

    It is needed of two classes, one of which has few test inputs. It is the quantile of the probabilities of
    the calibration split at the share that the second class has there: of true labels where there are
    ``labelled`` inputs, else of the mean probability.
    """
    if victim.classes != 2:
        return None
    if not rare_labels(victim.probabilities(victim.splits.test.x).argmax(axis=1), 2):
        return None
    calibration = victim.splits.calibration
    second = victim.probabilities(calibration.x)[:, 1]
    rate = float((calibration.y == 1).mean() if labelled else second.mean())
    threshold = round(float(np.quantile(second, 1 - rate)), 3)
    return BaseRate(rate, min(max(threshold, 0.001), 0.999))


def _accuracy(labels: NDArray[np.int64], true: NDArray[np.int64], names: Sequence[str]) -> Iterator[Finding]:
    right = float((labels == true).mean())
    commonest = np.bincount(true).max() / len(true)
    text = f"accuracy on {len(true):,} test inputs: {100 * right:.1f} %"
    if right < commonest - 3 * np.sqrt(commonest * (1 - commonest) / len(true)):
        order = f" ({listed(names)})" if names else ""
        yield note(
            f"{text}, less than the {100 * commonest:.1f} % of always answering the commonest label; check "
            f"the scale of inputs and that outputs are in the order of the labels{order}"
        )
    else:
        yield note(f"{text}; always answering the commonest label: {100 * commonest:.1f} %")


def _name(number: int, names: Sequence[str]) -> str:
    return str(names[number]) if number < len(names) else str(number)


def scale_findings(as_given: float, divided: float) -> Iterator[Finding]:
    """Yield whether a model wants images in [0, 1] and gets larger values; both: its accuracy there."""
    if divided > as_given + 0.1:
        yield fault(
            f"the model gets {100 * as_given:.0f} % right on values as they are in the file and "
            f"{100 * divided:.0f} % on the same in [0, 1]; give it the data as it was trained"
        )


def stated_findings(answers: NDArray[Any], stated: str) -> Iterator[Finding]:
    """Yield whether answers (n, classes) that were stated to be logits are probabilities already."""
    if stated != "logits" or answers.ndim != 2 or answers.shape[1] < 2 or answers.dtype.kind != "f":
        return
    sums = answers.astype(np.float64).sum(axis=1)
    if answers.min() >= 0 and np.abs(sums - 1).max() < 1e-3:
        yield fault(
            "the answers are stated to be logits, but they are in [0, 1] and every row sums to 1: leave out "
            "--outputs logits"
        )


def split_findings(splits: Splits) -> Iterator[Finding]:
    """Yield how large the splits are, and how many test inputs are in another split as well."""
    parts = {name: getattr(splits, name) for name in ("train", "calibration", "pool", "test")}
    yield note("splits: " + ", ".join(f"{name} {len(part.x):,}" for name, part in parts.items()))
    test = np.ascontiguousarray(parts["test"].x)
    seen = {row.tobytes() for name in ("train", "pool") for row in np.ascontiguousarray(parts[name].x)}
    both = sum(row.tobytes() in seen for row in test)
    if both:
        yield note(
            f"{both:,} of {len(test):,} test inputs are in another split, too: fidelity on them says less; "
            "remove repeated rows from the data"
        )
    within = len(test) - len({row.tobytes() for row in test})
    if within:
        yield note(f"{within:,} of {len(test):,} test inputs repeat another test input in every value")
    if len(test) < ENOUGH_INPUTS:
        yield note(
            f"{len(test):,} test inputs cannot show that accuracy falls by at most 1 pp, so no defense can "
            f"be recommended for it; {ENOUGH_INPUTS} can: give more inputs"
        )


@dataclass(frozen=True)
class Look:
    """What was seen of a victim: its findings, and how long it takes for a query."""

    findings: tuple[Finding, ...]
    latency: Latency

    @property
    def faults(self) -> list[str]:
        """The sentences on what makes an assessment worthless."""
        return [each.text for each in self.findings if each.level == "fault"]


def look(victim: Victim, *, stated: str, labelled: bool, threshold: float | None = None) -> Look:
    """Return what is seen of a victim before anything is run.

    ``stated``: what the user says that the model returns: "probabilities", "logits" or "labels".
    ``labelled``: whether its splits hold true labels, and not the model's own. ``threshold``: see
    :class:`bench.models.victim_options.VictimOptions`. Raises VictimError where the model's answers are none.
    """
    test = victim.splits.test
    # A model of the user's, before its answers become probabilities; else the model of the victim.
    model = victim.model
    ask: Ask = getattr(model, "answers", None) or getattr(model, "predict", None) or model
    sample = test.x[:SAMPLE]
    findings = [note(sentence) for sentence in victim.notes]
    findings += stated_findings(ask(sample), stated)
    findings += behaviour_findings(ask, sample)
    labels = victim.probabilities(test.x).argmax(axis=1)
    true = test.y if labelled else None
    findings += label_findings(
        labels, true, victim.classes, names=victim.class_names, stated=threshold is not None
    )
    if threshold is None and (base := base_rate(victim, labelled=labelled)) is not None:
        findings.append(
            note(
                f"no threshold is stated: decisions are measured at {base.threshold:g}, where the model "
                f"decides for {_name(1, victim.class_names)!r} as often as that is: {100 * base.rate:.1f} %"
            )
        )
    if labelled and (divided := getattr(victim.model, "divided", None)) is not None:
        right = (labels[:SAMPLE] == test.y[:SAMPLE]).mean()
        findings += scale_findings(float(right), float((divided(sample) == test.y[:SAMPLE]).mean()))
    findings += split_findings(victim.splits)
    return Look(tuple(findings), latency(ask, sample))
