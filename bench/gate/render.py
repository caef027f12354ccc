"""A comparison as text for a terminal, Markdown for a pull request, and JSON for a program."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

import pydantic
from tabulate import tabulate

from bench.analysis.interval_text import DASH
from bench.analysis.multiple_tests import ALPHA
from bench.gate.compare import Comparison
from bench.gate.decisions import ALARMS
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.intervals import Interval
from bench.records import Typed
from bench.report.markdown import markdown

LABELS = {
    Decision.broken: "broken claim",
    Decision.weaker: "easier to extract",
    Decision.costlier: "higher utility loss",
    Decision.failed: "failed",
    Decision.missing: "missing from the candidate",
    Decision.changed: "answers changed",
    Decision.cannot_tell: "inconclusive",
    Decision.stronger: "better",
    Decision.same: "the same",
}
"""What a decision means, for the line that counts them; the worst first, as everywhere."""
MANY = {"broken claim": "broken claims", "lower detection rate": "lower detection rates"}
"""Plurals of labels."""
REGRESSIONS = (Decision.broken, Decision.weaker, Decision.costlier)
LOST = (Decision.failed, Decision.missing)
INTENDED = "if it is intended, export the baseline again: moatbench baseline STORE --out BASELINE --force"
TODO = {
    REGRESSIONS: f"Find the change that caused it and undo it; {INTENDED}.",
    LOST: "Run the candidate's matrix again, which retries what failed or is missing, and compare again.",
    (Decision.changed,): "Check that answers were meant to change; with --strict this is a regression.",
    (Decision.cannot_tell,): "The last column says what an inconclusive comparison would need.",
}
"""What to do about rows with some decisions."""
HEADERS = ("decision", "comparison", "condition", "baseline", "candidate", "difference", "note")
KIND_NOTES = {
    RowKind.strength: "the best attack against a defense, by threat model and budget",
    RowKind.sentinel: "tracked attacks, which the matrix names because they react to what a defense is for",
    RowKind.claim: "what a defense claims of its answers, checked on each of them; that noise is drawn anew",
    RowKind.detection: "shares of each pool that a detector flags or rejects",
    RowKind.honest: "utility loss for benign users, on the same test inputs",
    RowKind.contract: "answer statistics, on frozen probe inputs",
}


def headline(comparison: Comparison) -> str:
    """Return the outcome in one sentence."""
    unsure = comparison.of(Decision.cannot_tell)
    if comparison.of(*REGRESSIONS):
        return f"Regression: {_count(comparison, *REGRESSIONS)}."
    if comparison.of(*LOST):
        return f"No regression found, but not everything was compared: {_count(comparison, *LOST)}."
    if unsure:
        return f"No regression found; {len(unsure)} of {len(comparison.rows)} comparisons are inconclusive."
    return "No regression."


def todo(comparison: Comparison) -> list[str]:
    """Return what to do, a sentence each; empty if all rows are the same or better."""
    return [text for decisions, text in TODO.items() if comparison.of(*decisions)]


def _count(comparison: Comparison, *decisions: Decision) -> str:
    rows = sorted(comparison.of(*decisions), key=lambda row: list(Decision).index(row.decision))
    found = Counter(_label(row) for row in rows)
    return ", ".join(
        f"{number} {label if number == 1 else MANY.get(label, label)}" for label, number in found.items()
    )


def _label(row: ComparisonRow) -> str:
    detection = row.kind is RowKind.detection and row.decision is Decision.weaker
    return "lower detection rate" if detection else LABELS[row.decision]


def basis(comparison: Comparison, notes: Sequence[str]) -> list[str]:
    """Return the basis of the decisions, a sentence each: tolerance, error probability, pairing, notes."""
    held = (
        f"Tolerance {100 * comparison.tolerance:g} pp. The probability of any false alarm is at most "
        f"{ALARMS:.1%} by default (Holm: strength, tracked attacks, independence of noise, and tests of "
        f"utility loss and detection rates), and {ALPHA:.0%} with --strict (answer statistics too)."
    )
    return [held, comparison.pairing.value, *_victims(comparison), *_balanced(comparison), *notes]


def _balanced(comparison: Comparison) -> list[str]:
    """Return for which victims fidelity is balanced fidelity, as a sentence; empty if for none."""
    if not comparison.balanced:
        return []
    victims = ", ".join(comparison.balanced)
    return [f"Fidelity of {victims} is the mean over the victim's labels, one of which is far commoner."]


def _victims(comparison: Comparison) -> list[str]:
    """Return what a victim that differs between the runs means for facts, a sentence each."""
    known = [victim for victim in comparison.retrained if victim not in comparison.unknown]
    texts = {
        "utility loss, detection rates and answer statistics have the error of retraining": known,
        "no run has values on retrained victims, so utility loss, detection rates and answer statistics are "
        "the same within the tolerance and inconclusive beyond it": comparison.unknown,
    }
    return [
        f"Different by more than rounding in the two runs: {', '.join(victims)}; {text}."
        for text, victims in texts.items()
        if victims
    ]


def terminal(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison for a terminal: the outcome, what to do, and the rows that are not the same."""
    rows = [_cells(row) for row in ordered(comparison) if row.decision is not Decision.same]
    table = [tabulate(rows, headers=HEADERS, disable_numparse=True)] if rows else []
    first = [headline(comparison), *todo(comparison), _count(comparison, *Decision) + "."]
    return "\n\n".join(["\n".join(first), *table, "\n".join(basis(comparison, notes))])


def summary(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as Markdown, in the same order."""
    different = [row for row in ordered(comparison) if row.decision is not Decision.same]
    same = [row for row in ordered(comparison) if row.decision is Decision.same]
    parts = ["# moatbench gate", f"**{headline(comparison)}**", *todo(comparison)]
    parts.append(_count(comparison, *Decision) + ".")
    if different:
        parts.append(markdown(HEADERS, [_cells(row) for row in different], text=len(HEADERS)))
    parts.append("\n".join(f"- {line}" for line in basis(comparison, notes)))
    if same:
        table = markdown(HEADERS, [_cells(row) for row in same], text=len(HEADERS))
        parts.append(
            f"<details><summary>{len(same)} comparisons that are the same</summary>\n\n{table}\n\n</details>"
        )
    parts.append("\n".join(f"- *{kind.label}*: {text}" for kind, text in KIND_NOTES.items()))
    return "\n\n".join(parts) + "\n"


class JsonRow(Typed):
    """A row as other programs read it. Shares are in [0, 1]; ``difference``: value, low, high."""

    family: RowKind
    verdict: Decision
    place: str
    what: str
    unit: str
    note: str
    before: pydantic.FiniteFloat | None
    after: pydantic.FiniteFloat | None
    difference: list[pydantic.FiniteFloat | None] | None

    @classmethod
    def of(cls, row: ComparisonRow) -> Self:
        """Return the row; limits that are no number are None."""
        limits = (row.difference.value, row.difference.low, row.difference.high) if row.difference else ()
        return cls(
            family=row.kind,
            verdict=row.decision,
            place=row.condition,
            what=row.what,
            unit=row.unit,
            note=row.note,
            before=row.before,
            after=row.after,
            difference=[value if math.isfinite(value) else None for value in limits] or None,
        )


class JsonComparison(Typed):
    """A comparison as other programs read it; ``version`` changes with the meaning of a field.

    ``basis``: how it was decided, a sentence each. Version 2 added ``todo``, ``basis``, ``retrained``, the
    families "claim" and "detection" and the verdict "claim broken".
    """

    version: Literal[2]
    outcome: str
    todo: list[str]
    tolerance: float
    paired: bool
    retrained: list[str]
    basis: list[str]
    notes: list[str]
    rows: list[JsonRow]


def as_json(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as JSON, as :class:`JsonComparison` reads it."""
    whole = JsonComparison(
        version=2,
        outcome=headline(comparison),
        todo=todo(comparison),
        tolerance=comparison.tolerance,
        paired=comparison.paired,
        retrained=list(comparison.retrained),
        basis=basis(comparison, ()),
        notes=list(notes),
        rows=[JsonRow.of(row) for row in ordered(comparison)],
    )
    return json.dumps(whole.values(), indent=1, allow_nan=False) + "\n"


def ordered(comparison: Comparison) -> list[ComparisonRow]:
    """Return the rows, the worst decisions first."""
    order, kinds = list(Decision), list(RowKind)
    return sorted(
        comparison.rows,
        key=lambda row: (order.index(row.decision), kinds.index(row.kind), row.condition, row.what),
    )


def _cells(row: ComparisonRow) -> list[str]:
    return [
        row.decision.value,
        f"{row.kind.label}: {row.what}",
        row.condition,
        _level(row, row.before),
        _level(row, row.after),
        _difference(row),
        row.note,
    ]


def _level(row: ComparisonRow, value: float | None) -> str:
    if value is None:
        return DASH
    return f"{100 * value:.1f} %" if row.unit == "%" else f"{value:.3g} {row.unit}".strip()


def _difference(row: ComparisonRow) -> str:
    if row.difference is None:
        return DASH
    scale, digits = (100, "+.1f") if row.unit == "%" else (1, "+.3g")
    found: Interval = row.difference
    text = f"{scale * found.value:{digits}}"
    if math.isfinite(found.low) and found.low < found.high:
        text += f" [{scale * found.low:{digits}}, {scale * found.high:{digits}}]"
    return text
