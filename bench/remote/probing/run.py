"""Runs probes one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.ledger import Ledger
from bench.remote.probing.base import (
    UNTESTED,
    Bounds,
    CannotTestError,
    Finding,
    OutageError,
    Probe,
    Verdict,
)
from bench.remote.probing.context import Context

INTERRUPTED = "interrupted"
"""Why a run ended that the user interrupted."""
FIRST = "first request"
"""The purpose of the request that shows that the target answers at all."""


@dataclass(frozen=True)
class Outcome:
    """What a run of probes came to. ``stopped``: why it ended early, "" if it did not."""

    findings: tuple[Finding, ...]
    stopped: str = ""


def planned_inputs(probes: Sequence[Probe], context: Context) -> int:
    """Return the most inputs that these probes book, the first request included."""
    return 1 + sum(probe.bounds(context.target).inputs for probe in probes if not probe.missing(context))


def run_probes(
    probes: Sequence[Probe],
    context: Context,
    ledger: Ledger,
    *,
    most: int,
    tell: Callable[[Finding], object] = id,
) -> Outcome:
    """Run probes in their order, and return what they found.

    ``most``: inputs that may be booked in all; they are set aside before anything is sent. ``tell``: gets
    each finding as it comes. Raises UsageError where the target does not answer a first, ordinary request,
    and BudgetError where its caps do not allow ``most``.
    """
    ledger.hold(most)
    try:
        _first(context)
        findings: list[Finding] = []
        stopped = ""
        for probe in probes:
            if lacks := probe.missing(context):
                findings.append(Finding(probe, Verdict(UNTESTED, (_sentence(lacks),))))
                tell(findings[-1])
                continue
            bounds = probe.bounds(context.target)
            left = ledger.held()
            if not stopped and bounds.inputs > left:
                stopped = f"probe {probe.name} needs up to {bounds.inputs:,} inputs, and {left:,} are left"
            if stopped:
                findings.append(Finding(probe, Verdict(UNTESTED, (f"Not run: {stopped}.",))))
                continue
            finding, stopped = _run(probe, bounds, context)
            findings.append(finding)
            tell(finding)
        return Outcome(tuple(findings), stopped)
    finally:
        ledger.release()


def _first(context: Context) -> None:
    """See that the target answers one ordinary request as its file says."""
    context.begin(FIRST, Bounds(inputs=1, requests=1))
    try:
        seen = context.ask(1)
        context.require_target()
    except (OutageError, CannotTestError) as error:
        raise UsageError(
            f"{error}; probes need a target that answers: check url, and whether it runs"
        ) from None
    if seen.limited:
        raise StoppedError(
            f"the target answers {seen.status} to the first request; run the same command later"
        )
    if not seen.answered:
        raise UsageError(
            f"the target answers {seen.status or 'nothing'} to an ordinary request; check the target file "
            "with moatbench target check"
        )
    if context.table(seen) is None:
        raise UsageError(
            "the answer to an ordinary request is not as the target file says; moatbench target check tells "
            "what is wrong"
        )


def _run(probe: Probe, bounds: Bounds, context: Context) -> tuple[Finding, str]:
    """Return what a probe found, and why the run has to end, "" if it has not."""
    context.begin(probe.name, bounds, paced=probe.paced)
    stopped = ""
    verdict = None
    try:
        try:
            verdict = probe.run(context)
        except CannotTestError as error:
            verdict = Verdict(UNTESTED, (_sentence(str(error)),))
        context.require_target()
    except (OutageError, StoppedError, BudgetError) as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    if verdict is None:
        verdict = Verdict(UNTESTED, (_sentence(f"stopped: {stopped}"),))
    inputs, requests, seconds = context.spent
    hide = context.secrets.hide
    evidence = tuple(hide(sentence) for sentence in verdict.evidence)
    ids = tuple(hide(each) for each in verdict.requests)
    return Finding(probe, Verdict(verdict.result, evidence, ids), inputs, requests, seconds), stopped


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
