"""The gate as a user calls it: two runs in, verdicts out, and an exit code."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from bench.errors import UsageError, nearest
from bench.gate import render
from bench.gate.baseline import Baseline, read
from bench.gate.compare import Comparison, compare, meant
from bench.gate.rows import Decision, RowKind
from bench.gate.runs import differences

FINE, REGRESSION, INCOMPLETE = 0, 1, 3
KINDS = ("matrix", "victim", "versions")
"""What two runs may differ in only where the user allows it."""
SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub's runners name the file that a job's summary is appended to."""


def gate(
    baseline: Path,
    candidate: Path,
    *,
    tolerance: float,
    allow: Collection[str] = (),
    strict: bool = False,
    summary: Path | None = None,
    json: Path | None = None,
) -> int:
    """Compare two runs, print what came of it, write what was asked for; return the exit code.

    ``tolerance``: points of fidelity, and of what honest users pay, that are put up with. Raises
    UsageError for runs that are not about the same thing, and StoreError for a file that holds none.
    """
    wrong = sorted(set(allow) - set(KINDS))
    if wrong:
        raise UsageError(f"--allow {wrong[0]!r} is not known; {nearest(wrong[0], KINDS)}")
    before, after = read(baseline), read(candidate)
    found = differences(before, after)
    refused = [kind for kind in KINDS if kind in found and kind not in allow]
    if refused:
        said = "; ".join(f"{kind}: {found[kind]}" for kind in refused)
        flags = " ".join(f"--allow {kind}" for kind in refused)
        raise UsageError(
            f"the runs are not about the same thing ({said}); {flags} compares them all the same"
        )
    notes = [f"The runs differ in their {kind}: {text}." for kind, text in found.items()]
    comparison = compare(before, after, tolerance / 100)
    _demand_families(comparison, before, after)
    text = render.summary(comparison, notes)
    if summary:
        summary.parent.mkdir(parents=True, exist_ok=True)
        summary.write_text(text, encoding="utf-8")
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(render.as_json(comparison, notes), encoding="utf-8")
    if place := os.environ.get(SUMMARY):
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text)
    print(render.terminal(comparison, notes))
    return code(comparison, strict=strict)


def _demand_families(comparison: Comparison, *runs: Baseline) -> None:
    """Raise UsageError where a family of rows is empty, which would be silent whatever happens."""
    found = {row.family for row in comparison.rows}
    for family, wanted in ((RowKind.strength, "attacked cells"), (RowKind.contract, "audits")):
        if family not in found:
            raise UsageError(f"the runs share no {wanted}, so that there is no {family.value} to compare")
    attacks = {str(each.spec["attack"]) for run in runs for each in run.records if "attack" in each.spec}
    for text in {str(text) for run in runs for text in run.meta.get("sentinels") or ()}:
        if not any(meant(attack, [text]) for attack in attacks):
            raise UsageError(f"sentinel {text!r} is no attack of these runs; {nearest(text, attacks)}")


def code(comparison: Comparison, *, strict: bool = False) -> int:
    """Return the exit code: a regression outranks what could not be compared.

    ``strict``: changed answers count as a regression, and what cannot be told as not compared.
    """
    regression, lost = [Decision.weaker, Decision.costlier], [Decision.failed, Decision.missing]
    if strict:
        regression.append(Decision.changed)
        lost.append(Decision.cannot_tell)
    if comparison.of(*regression):
        return REGRESSION
    return INCOMPLETE if comparison.of(*lost) else FINE
