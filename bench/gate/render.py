"""A comparison in words: for a terminal, for a pull request, for a program."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tabulate import tabulate

from bench.gate.compare import Comparison
from bench.gate.decisions import ALPHA
from bench.gate.rows import ComparisonRow, Decision, RowKind
from bench.metrics.intervals import Interval
from bench.report.markdown import DASH, markdown

SAID = {
    Decision.failed: "did not run through",
    Decision.missing: "missing from the candidate",
    Decision.weaker: "easier to steal",
    Decision.costlier: "dearer for honest users",
    Decision.changed: "answered otherwise",
    Decision.cannot_tell: "not to be told",
    Decision.stronger: "better",
    Decision.same: "the same",
}
"""What a verdict means, for the line that counts them; the worst first, as everywhere."""
HEADERS = ("verdict", "what", "where", "baseline", "candidate", "difference", "")
FAMILIES = {
    RowKind.strength: "the strongest attacker against a defense, by threat model and budget",
    RowKind.sentinel: "attackers that the matrix names because they react to what a defense is for",
    RowKind.honest: "what honest users pay, on the same test inputs",
    RowKind.contract: "what answers look like, on frozen probes",
}


def headline(comparison: Comparison) -> str:
    """Return the outcome in one sentence."""
    alarms = comparison.of(Decision.weaker, Decision.costlier)
    lost = comparison.of(Decision.failed, Decision.missing)
    unsure = comparison.of(Decision.cannot_tell)
    if alarms:
        return f"Regression: {_count(comparison, Decision.weaker, Decision.costlier)}."
    if lost:
        return f"No regression was found, but not everything was compared: {_count(comparison, *LOST)}."
    if unsure:
        return f"No regression was found; {len(unsure)} of {len(comparison.rows)} rows could not be told."
    return "No regression."


LOST = (Decision.failed, Decision.missing)


def _count(comparison: Comparison, *verdicts: Decision) -> str:
    found = Counter(row.verdict for row in comparison.of(*verdicts))
    return ", ".join(f"{found[verdict]} {SAID[verdict]}" for verdict in verdicts if found[verdict])


def basis(comparison: Comparison, notes: Sequence[str]) -> list[str]:
    """Return what the verdicts rest on, a sentence each."""
    held = (
        f"Tolerance {100 * comparison.tolerance:g} points; the chance of any false alarm in strength, "
        f"sentinels and the honest cost of drawn noise is held at {ALPHA:.0%} (Holm)."
    )
    pairs = (
        "Undefended copies are the same in both runs, bit for bit, so repeats are compared in pairs."
        if comparison.paired
        else "Undefended copies differ between the runs (or there are none), so repeats are not paired."
    )
    return [
        held,
        pairs,
        *notes,
    ]


def terminal(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison for a terminal: what is not the same, then the outcome."""
    rows = [_cells(row) for row in ordered(comparison) if row.verdict is not Decision.same]
    table = [tabulate(rows, headers=HEADERS, disable_numparse=True)] if rows else []
    counts = _count(comparison, *Decision)
    return "\n\n".join([*table, "\n".join([counts, *basis(comparison, notes), headline(comparison)])])


def summary(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as Markdown."""
    different = [row for row in ordered(comparison) if row.verdict is not Decision.same]
    same = [row for row in ordered(comparison) if row.verdict is Decision.same]
    parts = ["# moatbench gate", f"**{headline(comparison)}**", _count(comparison, *Decision) + "."]
    if different:
        parts.append(markdown(HEADERS, [_cells(row) for row in different], text=len(HEADERS)))
    parts.append("\n".join(f"- {line}" for line in basis(comparison, notes)))
    if same:
        table = markdown(HEADERS, [_cells(row) for row in same], text=len(HEADERS))
        parts.append(
            f"<details><summary>{len(same)} rows that are the same</summary>\n\n{table}\n\n</details>"
        )
    parts.append("\n".join(f"- *{family.value}*: {text}" for family, text in FAMILIES.items()))
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the comparison as JSON: outcome, basis, and a list of rows; shares are in [0, 1]."""
    told = {
        "outcome": headline(comparison),
        "tolerance": comparison.tolerance,
        "paired": comparison.paired,
        "notes": list(notes),
        "rows": [dict(_fields(row)) for row in ordered(comparison)],
    }
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def ordered(comparison: Comparison) -> list[ComparisonRow]:
    """Return the rows, the worst verdicts first."""
    order, families = list(Decision), list(RowKind)
    return sorted(
        comparison.rows,
        key=lambda row: (order.index(row.verdict), families.index(row.family), row.place, row.what),
    )


def _fields(row: ComparisonRow) -> Iterator[tuple[str, Any]]:
    yield from (("family", row.family.value), ("verdict", row.verdict.value))
    yield from (("place", row.place), ("what", row.what), ("unit", row.unit), ("note", row.note))
    yield from (("before", row.before), ("after", row.after))
    limits = (row.difference.value, row.difference.low, row.difference.high) if row.difference else ()
    yield "difference", [value if math.isfinite(value) else None for value in limits] or None


def _cells(row: ComparisonRow) -> list[str]:
    return [
        row.verdict.value,
        f"{row.family.value}: {row.what}",
        row.place,
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
