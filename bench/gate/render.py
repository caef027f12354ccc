"""A comparison as text for a terminal, Markdown for a pull request, and JSON for a program."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

import pydantic
from tabulate import tabulate

from bench.gate.compare import Comparison
from bench.gate.decisions import ALPHA
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.intervals import Interval
from bench.records import Typed
from bench.report.markdown import DASH, markdown

LABELS = {
    Decision.failed: "failed",
    Decision.missing: "missing from the candidate",
    Decision.weaker: "easier to extract",
    Decision.costlier: "higher utility loss",
    Decision.changed: "answers changed",
    Decision.cannot_tell: "inconclusive",
    Decision.stronger: "better",
    Decision.same: "the same",
}
"""What a decision means, for the line that counts them; the worst first, as everywhere."""
HEADERS = ("decision", "comparison", "condition", "baseline", "candidate", "difference", "")
KIND_NOTES = {
    RowKind.strength: "the best attack against a defense, by threat model and budget",
    RowKind.sentinel: "tracked attacks, which the matrix names because they react to what a defense is for",
    RowKind.honest: "utility loss for benign users, on the same test inputs",
    RowKind.contract: "answer statistics, on frozen probe inputs",
}


def headline(comparison: Comparison) -> str:
    """Return the outcome in one sentence."""
    alarms = comparison.of(Decision.weaker, Decision.costlier)
    lost = comparison.of(Decision.failed, Decision.missing)
    unsure = comparison.of(Decision.cannot_tell)
    if alarms:
        return f"Regression: {_count(comparison, Decision.weaker, Decision.costlier)}."
    if lost:
        return f"No regression found, but not everything was compared: {_count(comparison, *LOST)}."
    if unsure:
        return f"No regression found; {len(unsure)} of {len(comparison.rows)} comparisons are inconclusive."
    return "No regression."


LOST = (Decision.failed, Decision.missing)


def _count(comparison: Comparison, *decisions: Decision) -> str:
    found = Counter(row.decision for row in comparison.of(*decisions))
    return ", ".join(f"{found[decision]} {LABELS[decision]}" for decision in decisions if found[decision])


def basis(comparison: Comparison, notes: Sequence[str]) -> list[str]:
    """Return the basis of the decisions, a sentence each: tolerance, error probability, pairing, notes."""
    held = (
        f"Tolerance {100 * comparison.tolerance:g} pp; the probability of any false alarm in strength, "
        f"tracked attacks and the utility loss by drawn noise is at most {ALPHA:.0%} (Holm)."
    )
    pairs = (
        "Undefended surrogates are equal to the bit in both runs, so repeats are compared in pairs."
        if comparison.paired
        else "Undefended surrogates differ between the runs (or there are none), so repeats are not paired."
    )
    return [
        held,
        pairs,
        *notes,
    ]


def terminal(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison for a terminal: the rows that are not the same, then the outcome."""
    rows = [_cells(row) for row in ordered(comparison) if row.decision is not Decision.same]
    table = [tabulate(rows, headers=HEADERS, disable_numparse=True)] if rows else []
    counts = _count(comparison, *Decision)
    return "\n\n".join([*table, "\n".join([counts, *basis(comparison, notes), headline(comparison)])])


def summary(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as Markdown."""
    different = [row for row in ordered(comparison) if row.decision is not Decision.same]
    same = [row for row in ordered(comparison) if row.decision is Decision.same]
    parts = ["# moatbench gate", f"**{headline(comparison)}**", _count(comparison, *Decision) + "."]
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
    """A comparison as other programs read it; ``version`` changes with the meaning of a field."""

    version: Literal[1]
    outcome: str
    tolerance: float
    paired: bool
    notes: list[str]
    rows: list[JsonRow]


def as_json(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as JSON, as :class:`JsonComparison` reads it."""
    whole = JsonComparison(
        version=1,
        outcome=headline(comparison),
        tolerance=comparison.tolerance,
        paired=comparison.paired,
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
