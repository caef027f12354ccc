"""Results of probes as a table of the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.remote.probing.base import FAILS, HOLDS, UNTESTED, Finding
from bench.remote.probing.catalogues import Entry, atlas, exchange, ml05
from bench.remote.probing.run import Outcome


@dataclass(frozen=True)
class Tested:
    """What was tested. ``file``: the target file as the user named it, ``line``: of its url, from 1.

    ``url``: without anything secret. ``permission``: who allows the test. ``at``: when, in UTC.
    """

    file: str
    line: int
    url: str
    permission: str
    at: str
    moatbench: str


NOT_MEANT = (
    "A control holds if what was tried here was refused; nothing follows for what was not tried. Probes see "
    "a target from outside, with the accounts of the target file, at one time."
)


def counted(probes: Sequence[object]) -> str:
    """Return how many probes there are, in words."""
    return f"{len(probes)} probe{'' if len(probes) == 1 else 's'}"


def counts(outcome: Outcome) -> str:
    """Return how many probes had which result, in words."""
    results = [each.verdict.result for each in outcome.findings]
    inputs = sum(each.inputs for each in outcome.findings)
    said = ", ".join(f"{results.count(name)} {name}" for name in (FAILS, HOLDS, UNTESTED) if name in results)
    return f"{counted(results)}: {said}; {inputs:,} inputs booked"


def terminal(outcome: Outcome) -> list[str]:
    """Return lines: a probe each with its evidence, then the controls of OWASP ML05."""
    lines = [line for each in outcome.findings for line in finding_lines(each)]
    lines += ["", "OWASP ML05:2023"]
    for entry in ml05(outcome.findings):
        lines.append(f"  {entry.id[5:]} {entry.title:<24} {entry.result}{_besides(entry)}")
    return [*lines, "", counts(outcome)]


def finding_lines(finding: Finding) -> list[str]:
    """Return what a probe found, in lines of the terminal."""
    verdict = finding.verdict
    first = f"{finding.probe.name:<18} {verdict.result:<17} {finding.inputs:>6,} inputs"
    return [first, *(f"  {sentence}" for sentence in verdict.evidence)]


def _besides(entry: Entry) -> str:
    if entry.result == HOLDS and entry.note:
        return f"; {entry.note[:1].lower()}{entry.note[1:-1]}"
    return " from outside" if entry.note.startswith("Cannot") and entry.result == UNTESTED else ""


def markdown(outcome: Outcome, tested: Tested) -> str:
    """Return the page of a run."""
    parts = [
        f"# Controls of {_cell(tested.url)}",
        f"Probed on {tested.at} by moatbench {tested.moatbench}. Target file: {_cell(tested.file)}.",
        f"Permission: {_cell(tested.permission)}. {counts(outcome)}.",
    ]
    if outcome.stopped:
        parts.append(f"**The run ended early: {_cell(outcome.stopped)}.**")
    parts += [
        NOT_MEANT,
        "## OWASP ML05:2023",
        _table(("", "control", "result", "probes", ""), [_row(each) for each in ml05(outcome.findings)]),
        "## Probes",
        _table(
            ("probe", "asks", "result", "evidence", "inputs", "requests", "seconds"),
            [_finding_row(each) for each in outcome.findings],
        ),
        "## MITRE ATLAS and the OWASP AI Exchange",
        _table(
            ("", "mitigation", "result", "probes", ""),
            [_row(each) for each in (*atlas(outcome.findings), *exchange(outcome.findings))],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _row(entry: Entry) -> list[str]:
    probes = ", ".join(f"{name}: {result}" for name, result in entry.probes)
    return [f"`{entry.id}`", entry.title, entry.result, probes, entry.note]


def _finding_row(each: Finding) -> list[str]:
    evidence = " ".join(each.verdict.evidence)
    if each.verdict.requests:
        evidence += f" Requests: {', '.join(each.verdict.requests[:4])}."
    return [
        each.probe.name,
        each.probe.asks,
        each.verdict.result,
        evidence,
        f"{each.inputs:,}",
        f"{each.requests:,}",
        f"{each.seconds:.1f}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(each) for each in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text that stays in its cell; what a target says may hold anything."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    for each in "\\|[":  # a bracket could begin a link or a picture
        plain = plain.replace(each, f"\\{each}")
    return plain.replace("<", "&lt;")


def document(outcome: Outcome, tested: Tested) -> str:
    """Return the results as JSON: version 1."""
    return json.dumps(
        {
            "version": 1,
            "tested": asdict(tested),
            "stopped": outcome.stopped,
            "probes": [_probe(each) for each in outcome.findings],
            "owasp_ml05_2023": [asdict(each) for each in ml05(outcome.findings)],
            "mitre_atlas": [asdict(each) for each in atlas(outcome.findings)],
            "owasp_ai_exchange": [asdict(each) for each in exchange(outcome.findings)],
        },
        indent=2,
    )


def _probe(each: Finding) -> dict[str, Any]:
    return {
        "name": each.probe.name,
        "asks": each.probe.asks,
        "result": each.verdict.result,
        "evidence": list(each.verdict.evidence),
        "requests": list(each.verdict.requests),
        "inputs": each.inputs,
        "requests_sent": each.requests,
        "seconds": round(each.seconds, 3),
        "owasp_ml05_2023": list(each.probe.controls),
        "mitre_atlas": list(each.probe.atlas),
        "owasp_ai_exchange": list(each.probe.exchange),
    }
