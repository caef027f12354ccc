"""The command ``moatbench gate``: compares two runs, writes the outcome, returns an exit code."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UsageError, nearest
from bench.exit_codes import ExitCode
from bench.files import write_atomically
from bench.gate import render
from bench.gate.baseline import Baseline, read
from bench.gate.compare import Comparison, compare, is_named
from bench.gate.rows import Decision, RowKind
from bench.gate.runs import differences, unclear_victims, victim_notes
from bench.tasks import Cell

log = logging.getLogger(__name__)

KINDS = ("matrix", "victim", "versions")
"""Differences between two runs that the user has to allow."""
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
    """Compare two runs, print the outcome, write the files that are asked for; return the exit code.

    ``tolerance``: tolerated change of fidelity and of utility for benign users, in percentage points.
    Raises UsageError for runs that cannot be compared, and StoreError for a file that holds none.
    """
    wrong = sorted(set(allow) - set(KINDS))
    if not math.isfinite(tolerance):
        raise UsageError(f"--tolerance {tolerance} is no number of percentage points")
    if wrong:
        raise UsageError(f"--allow {wrong[0]!r} is not known; {nearest(wrong[0], KINDS)}")
    before, after = (read(path).without_confirmation() for path in (baseline, candidate))
    found = differences(before, after)
    forbidden = [kind for kind in KINDS if kind in found and kind not in allow]
    if forbidden:
        reasons = "; ".join(f"{kind}: {found[kind]}" for kind in forbidden)
        flags = " ".join(f"--allow {kind}" for kind in forbidden)
        raise UsageError(f"the runs differ ({reasons}); to compare them anyway, add {flags}")
    notes = [f"The runs differ in their {kind}: {text}." for kind, text in found.items()]
    notes += victim_notes(before, after)
    comparison = compare(before, after, tolerance / 100)
    _check_rows(comparison, before, after)
    # The decision comes first: no file that cannot be written may hide it or change the exit code.
    print(render.terminal(comparison, notes), flush=True)
    text = render.summary(comparison, notes)
    if summary:
        with _warned("--summary", summary):
            write_atomically(summary, text)
    if json:
        with _warned("--json", json):
            write_atomically(json, render.as_json(comparison, notes))
    if name := os.environ.get(SUMMARY):
        with _warned(f"${SUMMARY}", Path(name)), Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
    code = exit_code(comparison, strict=strict)
    if code == ExitCode.FINE and strict and unclear_victims(before, after):
        return ExitCode.INCOMPLETE
    return code


@contextmanager
def _warned(option: str, path: Path) -> Iterator[None]:
    """Make a warning of an error in writing ``path``."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        log.warning("warning: %s %s was not written: %s", option, path, reason)


def _check_rows(comparison: Comparison, *runs: Baseline) -> None:
    """Raise UsageError if there is no row of some kind, so that its regressions would go unnoticed.

    Where results are lost, their rows say so.
    """
    found = {row.kind for row in comparison.rows}
    lost = comparison.of(Decision.broken, Decision.failed, Decision.missing)
    for kind, wanted in ((RowKind.strength, "attacked cells"), (RowKind.contract, "defense evaluations")):
        if kind not in found and not lost:
            raise UsageError(f"the runs share no {wanted}, so there is no {kind.label} to compare")
    attacks = {each.task.attack for run in runs for each in run.records if isinstance(each.task, Cell)}
    for text in {text for run in runs for text in run.meta.sentinels}:
        if not any(is_named(attack, [text]) for attack in attacks):
            raise UsageError(f"sentinel {text!r} is no attack of these runs; {nearest(text, attacks)}")


def exit_code(comparison: Comparison, *, strict: bool = False) -> int:
    """Return the exit code: 1 for a regression, else 3 if something was not compared, else 0.

    ``strict``: changed answers count as a regression, and inconclusive rows as not compared.
    """
    regression = [Decision.broken, Decision.weaker, Decision.costlier]
    lost = [Decision.failed, Decision.missing]
    if strict:
        regression.append(Decision.changed)
        lost.append(Decision.cannot_tell)
    if comparison.of(*regression):
        return ExitCode.REGRESSION
    return ExitCode.INCOMPLETE if comparison.of(*lost) else ExitCode.FINE
